"""The negative controls, on the real default base: the gate must stop what deserves it."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sqlalchemy import Engine

from adapters.types import Suite
from service import facts, lineage, views
from service.db import make_engine, reading, writing
from service.initialise import initialise
from service.invent import invent_facts
from service.models import ApiKey, RefreshOutcome
from service.refresh import run_refresh
from service.schemas import FactIn
from service.settings import Settings, load_settings

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "configs"
World = tuple[Settings, Engine]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The default base, converted once, and a third of the regression suite."""
    folder = tmp_path_factory.mktemp("real")
    suite = yaml.safe_load((CONFIGS / "suites" / "general.yaml").read_text())
    suite["questions"], suite["passages"] = suite["questions"][::3], suite["passages"][::2]
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    described = yaml.safe_load((CONFIGS / "smollm2-135m.yaml").read_text())
    described["state_dir"] = str(folder / "state")
    described["suites"] = {
        "regression": str(folder / "suite.yaml"),
        "relations": str(CONFIGS / "relations.yaml"),
        "general_prompts": str(CONFIGS / "general_prompts.yaml"),
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(described))
    threads = torch.get_num_threads()
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    settings = load_settings(folder / "settings.yaml")
    initialise(settings)
    engine = make_engine(settings.url)
    with writing(engine) as session:
        now = datetime.now(UTC)
        session.add(ApiKey(id="k", digest="", source="team", scopes=[], created_at=now))
    yield settings, engine
    engine.dispose()
    torch.set_num_threads(threads)


def push(engine: Engine, *, seed: int) -> None:
    with writing(engine) as session:
        for fact in invent_facts(seed, count=8):
            facts.insert_fact(
                session,
                FactIn(
                    statement=fact.statement,
                    subject=fact.subject,
                    relation=fact.relation,
                    object=fact.object,
                ),
                source="team",
                recorded_by="k",
                now=datetime.now(UTC),
            )


def refresh(world: World, **training: Any) -> views.RefreshDetail:
    settings, engine = world
    changed = settings.model_copy(
        update={"training": settings.training.model_copy(update=training)}
    )
    end = run_refresh(changed, engine, at_least=8, report=lambda _: None)
    assert end is not None
    with reading(engine) as session:
        return views.show_refresh(session, end.refresh_id)


def share(record: views.RefreshDetail, suite: Suite) -> float:
    marks = [probe.contained_after for probe in record.probes if probe.suite == suite]
    return sum(marks) / len(marks)


def failed_suites(record: views.RefreshDetail) -> Sequence[str]:
    assert record.verdict is not None
    return [line["suite"] for line in record.verdict["suites"] if line["outcome"] == "fail"]


def head(world: World) -> int:
    with reading(world[1]) as session:
        return lineage.read_head(session).release_id


def test_a_damaged_adapter_is_rejected_and_the_head_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large random weights where the training would have been."""
    from adapters import train

    def damage(backbone: Any, model: Any, *_: Any) -> Iterator[train.TrainingStep]:
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        yield train.TrainingStep(step=1, steps=1, loss=0.0, drift=0.0, tokens=0, facts=())

    monkeypatch.setattr("service.refresh.train", damage)
    before = head(world)
    push(world[1], seed=11)
    record = refresh(world, general_share=(0.0, 0.0))
    assert record.outcome == RefreshOutcome.REJECTED
    assert {Suite.REGRESSION, "bits per byte"} <= set(failed_suites(record))
    assert head(world) == before
