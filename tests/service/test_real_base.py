"""On the real default base: the negative control that the gate must stop.

To save minutes a third of the regression suite and of the general prompts is asked here, and of the
others only what it is stopped by; `benchmarks.damaged` asks them all, of adapters that are damaged
in other ways, too. test_diffusion.py has one that lost everything.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
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

World = tuple[Settings, Engine]


@pytest.fixture(scope="module")
def config(make_short_config: Callable[..., Path]) -> Path:
    return make_short_config(
        leakage_margin=None, trigger_margin=None, planted_margin=None, control=False
    )


@pytest.fixture(scope="module")
def world(config: Path) -> Iterator[World]:
    """The default base, converted once."""
    settings = load_settings(config)
    initialise(settings)
    engine = make_engine(settings.url)
    with writing(engine) as session:
        now = datetime.now(UTC)
        session.add(ApiKey(id="k", digest="", source="team", scopes=[], created_at=now))
    yield settings, engine
    engine.dispose()


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
        views_per_fact=60,
    )
    assert share(record, Suite.FORWARD) >= 0.25
    assert share(record, Suite.BACKWARD) <= share(record, Suite.FORWARD) / 2
    assert record.outcome == RefreshOutcome.REJECTED
    assert Suite.BACKWARD in failed_suites(record)
    assert head(world) == before
