"""On the real default base: the demonstration, and the negative controls that the gate must stop.

A third of the regression suite and of the general prompts is asked here, to save minutes; with so
few questions the shipped margin could not be shown, so the demonstration's gate is wider, and the
test looks at the recall itself. `make demo` is held against the whole of both.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
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
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped settings of the default base, with shorter suites."""
    folder = tmp_path_factory.mktemp("real")
    suite = yaml.safe_load((CONFIGS / "suites" / "general.yaml").read_text())
    suite["questions"], suite["passages"] = suite["questions"][::3], suite["passages"][::2]
    del suite["tables"]
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    prompts = yaml.safe_load((CONFIGS / "general_prompts.yaml").read_text())
    (folder / "prompts.yaml").write_text(
        yaml.safe_dump({"prompts": prompts["prompts"][::3], "texts": prompts["texts"]})
    )
    described = yaml.safe_load((CONFIGS / "smollm2-135m.yaml").read_text())
    described["state_dir"] = str(folder / "state")
    described["suites"] = {
        "regression": str(folder / "suite.yaml"),
        "relations": str(CONFIGS / "relations.yaml"),
        "general_prompts": str(folder / "prompts.yaml"),
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(described))
    return folder / "settings.yaml"


@pytest.fixture(scope="module")
def world(config: Path) -> Iterator[World]:
    """The default base, converted once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(torch.multiprocessing.cpu_count())
    settings = load_settings(config)
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
                FactIn.model_validate(asdict(fact)),
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


@pytest.mark.usefixtures("damaged_training")
def test_a_damaged_adapter_is_rejected_and_the_head_stays(world: World) -> None:
    before = head(world)
    push(world[1], seed=11)
    record = refresh(world, general_share=(0.0, 0.0), shift_weight=0.0)
    assert record.outcome == RefreshOutcome.REJECTED
    assert {Suite.REGRESSION, "bits per byte"} <= set(failed_suites(record))
    assert head(world) == before


def test_plain_training_shows_the_reversal_curse_and_the_gate_stops_it(world: World) -> None:
    """Learned forward, unknown backward: what masked fine-tuning is there to prevent."""
    before = head(world)
    push(world[1], seed=12)
    record = refresh(
        world,
        objective="plain",
        general_share=(0.0, 0.0),
        shift_weight=0.0,
        rows_per_step=8,
        views_per_fact=100,
    )
    assert share(record, Suite.FORWARD) >= 0.25
    assert share(record, Suite.BACKWARD) <= share(record, Suite.FORWARD) / 2
    assert record.outcome == RefreshOutcome.REJECTED
    assert Suite.BACKWARD in failed_suites(record)
    assert head(world) == before


def test_the_demonstration_learns_answers_and_forgets(config: Path) -> None:
    """Daemon, HTTP, clock, gate, rollback: it ends with success only if all of them did."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "service.cli", "--config", str(config)),
            *("demo", "--seed", "1", "--json"),
        ],
        env={
            **os.environ,
            "LOREWRIGHT_GATE__FORWARD_FLOOR": "0.4",
            "LOREWRIGHT_GATE__BACKWARD_FLOOR": "0.2",
            "LOREWRIGHT_GATE__REGRESSION_MARGIN": "0.25",
            "LOREWRIGHT_GATE__NEIGHBOUR_MARGIN": "0.5",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["failures"] == []
    assert result["refresh"]["outcome"] == "promoted"
    assert result["known_before"] == 0
    assert result["forward"] >= 0.7
    assert result["backward"] >= 0.5
    assert result["token_for_token"]
