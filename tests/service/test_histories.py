"""Histories nobody wrote down: facts, refreshes, rollbacks and restarts in an order made at random.

Beside the service stands a model of what it promises. After every step both say the same, and what
`lorewright fsck` looks for holds. The refreshes are real ones, of a tiny Llama.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as some
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select
from starlette.testclient import TestClient

from service import auth, facts
from service.api import create_app
from service.auth import Scope
from service.db import make_engine, reading, writing
from service.facts import FactState
from service.fsck import check
from service.models import FactRow, RefreshOutcome
from service.removal import plan_removal
from service.rollback import go_back, take_out

#: How many. `TESTS_HISTORIES=60 pytest tests/service/test_histories.py` makes others each time.
HISTORIES = int(os.environ.get("TESTS_HISTORIES", "0"))
IN_CI = 3  #: always the same
STEPS = 25
SOURCES = ("archive", "newsroom")
IN_HEAD = {
    FactState.LIVE,
    FactState.UNLEARNED,
    FactState.QUARANTINED,
    FactState.UNPROVEN,
    FactState.FORGOTTEN,
}
Begin = Callable[[], Any]  #: a context of a new world


@dataclass
class Told:
    """A fact as it was sent and what was asked of it since."""

    id: int
    source: str
    body: dict[str, Any]
    is_held: bool
    is_retracted: bool = False

    @property
    def counts(self) -> bool:
        return not (self.is_retracted or self.is_held)

    @property
    def place(self) -> tuple[str, str] | None:
        """What only one fact may be about at a time, where it is functional."""
        return (self.source, self.body["subject"]) if self.body.get("functional") else None


class History(RuleBasedStateMachine):
    """One installation and what is done to it."""

    def __init__(self, begin: Begin) -> None:
        super().__init__()
        self.context = begin()
        self.world = self.context.__enter__()
        self.keys = {source: self.new_key(source) for source in SOURCES}
        self.told: dict[tuple[str, str], Told] = {}
        self.recipes = {1: ()}  #: by release that was the head
        self.batches: dict[int, list[int]] = {}  #: facts by adapter
        self.head = 1
        self.was_hindered = False
        self.open()

    def new_key(self, source: str) -> str:
        state_dir, now = self.world.settings.state_dir, datetime.now(UTC)
        with writing(self.world.engine) as session:
            return auth.create_key(
                session, source=source, scopes=set(Scope), pepper=auth.read_pepper(state_dir),
                by="test", now=now,
            )  # fmt: skip

    def open(self) -> None:
        self.http = TestClient(create_app(self.world.settings, self.world.engine, Clock()))
        self.http.__enter__()

    def close(self) -> None:
        self.http.__exit__(None, None, None)
        self.world.engine.dispose()

    def teardown(self) -> None:
        self.close()
        self.context.__exit__(None, None, None)

    def post(self, path: str, source: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {self.keys[source]}"}
        return self.http.post(path, json=body, headers=headers)

    # --- what is done -----------------------------------------------------------------------------

    @rule(
        source=some.sampled_from(SOURCES),
        items=some.lists(
            some.tuples(some.integers(0, 9), some.integers(0, 1), some.integers(0, 9)),
            min_size=1,
            max_size=4,
        ),
    )
    def send(self, source: str, items: list[tuple[int, int, int]]) -> None:
        """New facts, such as were sent before, and others under the same keys."""
        bodies = [body_of(source, *item) for item in items]
        answer = self.post("/v1/facts", source, bodies)
        for body, item in zip(bodies, answer.json()["items"], strict=True):
            key = (source, body["external_id"])
            known = self.told.get(key)
            if known is None:
                assert item["outcome"] == "stored"
                self.told[key] = Told(item["id"], source, body, is_held="held" in item)
            elif known.body == body:
                assert (item["outcome"], item["id"]) == ("duplicate", known.id)
            else:
                assert [problem["title"] for problem in item["problems"]] == ["conflict"]

    @precondition(lambda self: self.told)
    @rule(choice=some.data())
    def retract(self, choice: Any) -> None:
        told = choice.draw(some.sampled_from(list(self.told.values())))
        answer = self.post(f"/v1/facts/{told.id}/retraction", told.source)
        assert answer.status_code == (409 if told.is_retracted else 200)
        told.is_retracted = True

    @precondition(lambda self: any(told.is_held for told in self.told.values()))
    @rule(choice=some.data())
    def approve(self, choice: Any) -> None:
        held = [told for told in self.told.values() if told.is_held]
        told = choice.draw(some.sampled_from(held))
        answer = self.post(f"/v1/facts/{told.id}/approval", told.source)
        assert answer.status_code == (409 if told.is_retracted else 200)
        told.is_held = told.is_retracted and told.is_held

    @rule()
    def refresh(self) -> None:
        waiting = self.waiting()
        self.took(self.world.refresh(), waiting)

    def took(self, end: Any, waiting: set[int]) -> None:
        if end is None:
            assert not waiting
            return
        assert end.outcome is RefreshOutcome.PROMOTED
        taken = self.world.last_refresh().fact_ids
        assert waiting <= set(taken) or self.was_hindered  # whose batch is taken up as it was
        self.was_hindered = False
        assert {told.id for told in self.told.values() if told.is_held}.isdisjoint(taken)
        self.batches[end.adapter_id] = taken
        self.recipes[end.release_id] = (*self.recipes[self.head], end.adapter_id)
        self.head = end.release_id

    @precondition(lambda self: self.waiting())
    @rule(phase=some.integers(1, 40))
    def refresh_that_is_stopped(self, phase: int) -> None:
        """An error at some report of the refresh, and what it was at waits again."""
        reports = count(1)

        def fail(_: object) -> None:
            if next(reports) == phase:
                raise OSError(28, "No space left on device")  # as from a write beside it

        waiting = self.waiting()
        try:
            end = self.world.refresh(fail)
        except OSError:
            self.was_hindered = True  # the head stays and the facts wait, as the invariants say
            return
        self.took(end, waiting)  # it had ended before so many reports

    @precondition(lambda self: self.recipes[self.head])
    @rule(choice=some.data())
    def take_out(self, choice: Any) -> None:
        adapter = choice.draw(some.sampled_from(self.recipes[self.head]))
        plan = plan_removal(self.world.engine, adapter)
        done = take_out(self.world.settings, self.world.engine, plan, by="me", reason="a test")
        left = tuple(other for other in self.recipes[self.head] if other != adapter)
        assert done.from_release == self.head
        self.recipes[done.to_release] = left
        self.head = done.to_release

    @precondition(lambda self: len(self.recipes) > 1)
    @rule(choice=some.data())
    def go_back(self, choice: Any) -> None:
        others = sorted(set(self.recipes) - {self.head})
        release = choice.draw(some.sampled_from(others))
        go_back(self.world.settings, self.world.engine, release, by="me", reason="a test")
        self.head = release

    @rule()
    def restart(self) -> None:
        self.close()
        self.world = self.world._replace(engine=make_engine(self.world.settings.url))
        self.open()

    # --- what holds -------------------------------------------------------------------------------

    @invariant()
    def everything_holds_together(self) -> None:
        now = datetime.now(UTC)
        checked = check(self.world.settings, self.world.engine, fast=False, now=now)
        assert checked.problems == ()

    @invariant()
    def the_head_is_what_was_asked_for(self) -> None:
        head = self.world.head()
        assert (head.release_id, head.recipe.adapter_ids) == (self.head, self.recipes[self.head])

    @invariant()
    def every_fact_is_there_once_and_in_its_state(self) -> None:
        with reading(self.world.engine) as session:
            rows = session.scalars(select(FactRow)).all()
            states = facts.states_of(session, rows, now=datetime.now(UTC))
        stored = {(row.source, row.external_id): (row.id, row.statement) for row in rows}
        assert stored == {key: (told.id, told.body["statement"]) for key, told in self.told.items()}
        assert len(rows) == len(stored)
        for told in self.told.values():
            assert states[told.id] in self.states_for(told), told

    def states_for(self, told: Told) -> set[FactState]:
        if told.is_retracted:
            return {FactState.RETRACTED}
        if told.is_held:
            return {FactState.HELD}
        if self.is_replaced(told):
            return {FactState.SUPERSEDED}
        tries = [adapter for adapter, batch in self.batches.items() if told.id in batch]
        if not tries:
            return {FactState.PENDING}
        if tries[-1] in self.recipes[self.head]:
            return IN_HEAD
        in_head = IN_HEAD if {*tries} & {*self.recipes[self.head]} else set()
        return {FactState.ROLLED_BACK, *in_head}

    def is_replaced(self, told: Told) -> bool:
        """By a newer functional fact of its source about the same, that counts."""
        return told.place is not None and any(
            other.place == told.place and other.id > told.id and other.counts
            for other in self.told.values()
        )

    def waiting(self) -> set[int]:
        """What the next refresh must take: never tried, and nothing speaks against it."""
        return {
            told.id for told in self.told.values() if self.states_for(told) == {FactState.PENDING}
        }


class Clock:
    """Starts nothing: refreshes are rules here."""

    def wake(self) -> None: ...
    def wake_operations(self) -> None: ...


def body_of(source: str, key: int, text: int, kind: int) -> dict[str, Any]:
    """Two texts under a key; of ten kinds three are functional, and two wait for an admin.

    No two sources speak of one subject: they could contradict each other.
    """
    body: dict[str, Any] = {
        "external_id": f"k{key}",
        "statement": f"Reading {key} of version {text} is kept in the cellar.",
    }
    if kind < 3:
        subject = f"Person {kind % 2} of the {source}"
        body |= {"subject": subject, "relation": "holds_office", "object": f"office {key} {text}",
                 "functional": True}  # fmt: skip
    if kind in (0, 9):
        body["trust"] = "low"
    return body


@pytest.fixture
def begin(make_world: Callable[..., Any]) -> Begin:
    numbers = count()

    @contextmanager
    def begun() -> Iterator[Any]:
        world = make_world(f"history_{next(numbers)}")
        yield world
        shutil.rmtree(world.settings.state_dir)

    return begun


@pytest.mark.parametrize("world_database", ["sqlite", "postgresql"])
def test_whatever_is_done_in_whatever_order_the_promises_hold(begin: Begin) -> None:
    run_state_machine_as_test(
        lambda: History(begin),
        settings=settings(
            max_examples=HISTORIES or IN_CI,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=not HISTORIES,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
