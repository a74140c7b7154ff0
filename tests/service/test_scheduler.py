"""The clock: when it starts a refresh, that there is one at a time, and how it stops.

The child is a real process; only what it runs is a few lines of shell instead of a training.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from service import batches, facts, leases
from service.batches import ClaimedBatch
from service.db import writing
from service.models import RefreshOutcome
from service.scheduler import Clock
from service.settings import Settings

ENDS = "exit 0"
FAILS = "echo out of luck; exit 9"
RUNS_UNTIL_ASKED = (
    "trap 'echo asked >> \"$record\"; exit 0' TERM; while kill -0 $PPID; do sleep 0.05; done"
)
RUNS_ON = "trap '' TERM; while kill -0 $PPID; do sleep 0.05; done"
WITHIN_S = 10.0


class Child:
    """Stands where the interpreter stands and writes down how it was called."""

    def __init__(self, folder: Path) -> None:
        self.program = folder / "child"
        self.record = folder / "record"
        self.record.touch()

    def does(self, shell: str) -> None:
        self.program.write_text(
            f'#!/bin/sh\nrecord="{self.record}"\necho "$@" >> "$record"\n{shell}\n'
        )
        self.program.chmod(0o755)

    @property
    def lines(self) -> list[str]:
        return self.record.read_text().splitlines()

    def wait_for(self, lines: int) -> None:
        deadline = time.monotonic() + WITHIN_S
        while len(self.lines) < lines:
            assert time.monotonic() < deadline, f"only {self.lines}"
            time.sleep(0.02)


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    child = Child(tmp_path)
    child.does(ENDS)
    monkeypatch.setattr(sys, "executable", str(child.program))
    return child


@pytest.fixture
def clock(engine: Engine, settings: Settings, config: Path) -> Clock:
    return Clock(settings, engine, config=config)


@pytest.fixture
def running(clock: Clock) -> Iterator[Clock]:
    clock.start()
    yield clock
    if clock.scheduler.running:
        clock.stop()


def test_too_few_waiting_facts_start_nothing(
    clock: Clock, child: Child, store: Callable[..., list[int]]
) -> None:
    clock.tick()
    store("One.")
    clock.tick()
    assert child.lines == []


def test_facts_that_a_quota_holds_back_start_nothing_and_it_says_so(
    engine: Engine,
    settings: Settings,
    config: Path,
    child: Child,
    store: Callable[..., list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store("One.", "Two.")
    schedule = settings.schedule.model_copy(update={"at_most_of_source": 1})
    narrow = settings.model_copy(update={"schedule": schedule})
    Clock(narrow, engine, config=config).tick()
    assert child.lines == []
    assert "2 facts wait, of which 1 count" in caplog.text


def test_a_disk_without_its_reserve_starts_nothing_and_says_so(
    engine: Engine,
    settings: Settings,
    config: Path,
    child: Child,
    store: Callable[..., list[int]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store("One.", "Two.")
    storage = settings.storage.model_copy(update={"reserve_bytes": 1 << 60})
    full = Clock(settings.model_copy(update={"storage": storage}), engine, config=config)
    full.tick()
    assert child.lines == []
    assert "a refresh is due and cannot begin: The disk has" in caplog.text
    Clock(settings, engine, config=config).tick()
    assert len(child.lines) == 1


def test_what_is_left_of_a_batch_that_kept_failing_waits_for_no_more(
    clock: Clock,
    child: Child,
    store: Callable[..., list[int]],
    hold: leases.Hold,
    claim: Callable[..., ClaimedBatch],
    engine: Engine,
    settings: Settings,
    now: datetime,
) -> None:
    """The lease of the fixture expired long ago."""
    _, withdrawn = store("One.", "Two.")
    attempts = settings.schedule.attempts
    for _ in range(attempts):
        claimed = claim(hold)
        with writing(engine) as session:
            batches.end_without_verdict(
                session,
                claimed.refresh_id,
                outcome=RefreshOutcome.FAILED,
                reason="it broke",
                attempts=attempts,
                now=now,
            )
    with writing(engine) as session:
        facts.retract(session, withdrawn, by="test", now=now)
    clock.tick()
    assert len(child.lines) == 1


def test_enough_waiting_facts_start_the_command_that_an_operator_would_type(
    clock: Clock, child: Child, store: Callable[..., list[int]], config: Path
) -> None:
    store("One.", "Two.")
    clock.tick()
    assert child.lines == [f"-m service.cli --config {config} refresh"]


def test_a_refresh_that_somebody_runs_already_is_left_alone(
    clock: Clock, child: Child, store: Callable[..., list[int]], engine: Engine
) -> None:
    store("One.", "Two.")
    with writing(engine) as session:
        leases.acquire(
            session, leases.REFRESH, owner="an operator", now=datetime.now(UTC), lease_s=60
        )
    clock.tick()
    assert child.lines == []


def test_what_a_dead_process_left_behind_is_cleared_up_even_with_nothing_waiting(
    clock: Clock,
    child: Child,
    store: Callable[..., list[int]],
    hold: leases.Hold,
    claim: Callable[..., ClaimedBatch],
) -> None:
    """The lease of the fixture expired long ago; its only fact is stuck in a batch."""
    store("One.")
    claim(hold)
    clock.tick()
    assert len(child.lines) == 1


def test_the_output_of_a_refresh_is_kept(
    clock: Clock, child: Child, store: Callable[..., list[int]], settings: Settings
) -> None:
    child.does(FAILS)
    store("One.", "Two.")
    clock.tick()
    [log] = (settings.state_dir / "logs").iterdir()
    assert log.read_text() == "out of luck\n"


def test_a_refresh_that_failed_does_not_stop_the_clock(
    clock: Clock, child: Child, store: Callable[..., list[int]]
) -> None:
    child.does(FAILS)
    store("One.", "Two.")
    clock.tick()
    clock.tick()
    assert len(child.lines) == 2


def test_the_clock_looks_at_once_when_it_starts(
    child: Child, store: Callable[..., list[int]], clock: Clock
) -> None:
    """What was missed while everything was down is made up."""
    store("One.", "Two.")
    clock.start()
    child.wait_for(1)
    clock.stop()


def test_waking_the_clock_needs_no_waiting_for_the_tick(
    running: Clock, child: Child, store: Callable[..., list[int]]
) -> None:
    store("One.", "Two.")
    running.wake()
    child.wait_for(1)


@pytest.mark.parametrize("is_overdue", [True, False])
def test_a_refresh_that_lets_its_lease_run_out_hangs_and_is_killed(
    engine: Engine,
    settings: Settings,
    config: Path,
    child: Child,
    store: Callable[..., list[int]],
    *,
    is_overdue: bool,
) -> None:
    """The daemon would wait for it for ever, and with it whatever comes in."""
    child.does(f'echo $$ >> "$record"; {RUNS_ON}')
    store("One.", "Two.")
    schedule = settings.schedule.model_copy(update={"lease_s": 0.2})
    clock = Clock(settings.model_copy(update={"schedule": schedule}), engine, config=config)
    ticking = threading.Thread(target=clock.tick, daemon=True)
    ticking.start()
    try:
        child.wait_for(2)
        lease_s = -1.0 if is_overdue else 60.0
        owner, now = leases.of_process(int(child.lines[1])), datetime.now(UTC)
        with writing(engine) as session:
            leases.acquire(session, leases.REFRESH, owner=owner, now=now, lease_s=lease_s)
        ticking.join(timeout=WITHIN_S if is_overdue else 1.0)
        assert ticking.is_alive() != is_overdue
    finally:
        if clock.refresh.process is not None:
            clock.refresh.process.kill()
        ticking.join()


def test_never_two_at_a_time_however_often_it_is_woken(
    clock: Clock, child: Child, store: Callable[..., list[int]]
) -> None:
    child.does(RUNS_UNTIL_ASKED)
    store("One.", "Two.")
    clock.start()
    child.wait_for(1)
    for _ in range(20):
        clock.wake()
        time.sleep(0.01)
    clock.stop()
    assert child.lines[1:] == ["asked"]


def test_stopping_asks_a_running_refresh_to_end_and_waits_for_it(
    clock: Clock, child: Child, store: Callable[..., list[int]]
) -> None:
    child.does(RUNS_UNTIL_ASKED)
    store("One.", "Two.")
    clock.start()
    child.wait_for(1)
    clock.stop()
    assert child.lines[-1] == "asked"
    assert clock.refresh.process is None


def test_a_refresh_that_does_not_end_within_its_time_is_killed(
    engine: Engine,
    settings: Settings,
    config: Path,
    child: Child,
    store: Callable[..., list[int]],
) -> None:
    schedule = settings.schedule.model_copy(update={"stop_within_s": 0.3})
    clock = Clock(settings.model_copy(update={"schedule": schedule}), engine, config=config)
    child.does(RUNS_ON)
    store("One.", "Two.")
    clock.start()
    child.wait_for(1)
    began = time.monotonic()
    clock.stop()
    assert 0.3 <= time.monotonic() - began < WITHIN_S


def test_a_refresh_and_an_operation_share_the_time_to_end_in(
    clock: Clock, settings: Settings, child: Child
) -> None:
    """What stops the daemon gives it `drain_s` and `stop_within_s`, once each."""
    child.does(RUNS_ON)
    schedule = settings.schedule.model_copy(update={"stop_within_s": 1.0})
    clock.settings = settings.model_copy(update={"schedule": schedule})
    running = []
    for one in (clock.refresh, clock.operation):
        with Path(f"{child.record}.log").open("ab") as log:
            running.append(threading.Thread(target=lambda one=one: one.run("x", log_file=log)))
            running[-1].start()
            child.wait_for(len(running))
    clock.scheduler.start()
    began = time.monotonic()
    clock.stop()
    for thread in running:
        thread.join()
    assert 1.0 <= time.monotonic() - began < 1.9


def test_a_stopped_clock_starts_nothing_more(
    clock: Clock, child: Child, store: Callable[..., list[int]]
) -> None:
    clock.start()
    clock.stop()
    store("One.", "Two.")
    clock.tick()
    assert child.lines == []


def test_a_database_that_is_gone_for_a_moment_costs_one_tick(
    running: Clock,
    child: Child,
    store: Callable[..., list[int]],
    database_gone: Callable[[], AbstractContextManager[None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store("One.", "Two.")
    time.sleep(0.5)  # what the clock did at its start is over, and no connection is in use
    with database_gone():
        running.wake()
        time.sleep(0.3)
    running.wake()
    child.wait_for(1)
    assert [record for record in caplog.records if "the database failed" in record.message]
    assert not any(record.exc_info for record in caplog.records)
