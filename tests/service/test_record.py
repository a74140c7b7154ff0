"""What a refresh writes down, and how it stays alive while it has nothing to write."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from service import leases
from service.batches import ClaimedBatch
from service.db import reading, writing
from service.errors import LeaseLost
from service.leases import Hold
from service.models import Refresh
from service.progress import Progress
from service.record import RefreshRecord
from service.settings import ScheduleSettings

Recording = Callable[..., RefreshRecord]


@pytest.fixture
def recording(
    engine: Engine, store: Callable[..., list[int]], claim: Callable[..., ClaimedBatch], hold: Hold
) -> Recording:
    store("One.")
    claimed = claim(hold)

    def record(**schedule: float) -> RefreshRecord:
        settings = ScheduleSettings.model_validate(schedule)
        return RefreshRecord(engine, hold, claimed.refresh_id, settings, lambda _: None)

    return record


def is_held(engine: Engine, *, ahead_s: float = 0.0) -> bool:
    with reading(engine) as session:
        now = datetime.now(UTC) + timedelta(seconds=ahead_s)
        return leases.is_held(session, leases.REFRESH, now=now)


def test_a_long_silence_does_not_lose_the_lease(engine: Engine, recording: Recording) -> None:
    record = recording(lease_s=1.0)
    record.progress(Progress(phase="loading", step=0, steps=0))
    with record.kept_alive():
        time.sleep(2.5)  # more than twice the lease
        assert is_held(engine)
    time.sleep(1.2)
    assert not is_held(engine)  # nothing renews it once the refresh has ended


def test_a_refresh_that_hangs_loses_the_lease_in_the_end(
    engine: Engine, recording: Recording
) -> None:
    record = recording(lease_s=0.3, stall_s=0.5)
    record.progress(Progress(phase="loading", step=0, steps=0))
    with record.kept_alive():
        time.sleep(1.5)
        assert not is_held(engine)


def test_a_successor_is_not_disturbed(engine: Engine, recording: Recording) -> None:
    record = recording(lease_s=0.2)
    with record.kept_alive():
        with writing(engine) as session:
            leases.release(session, record.hold, now=datetime.now(UTC) - timedelta(seconds=1))
            now = datetime.now(UTC)
            leases.acquire(session, leases.REFRESH, owner="second", now=now, lease_s=60.0)
        time.sleep(0.3)
        with pytest.raises(LeaseLost):
            record.progress(Progress(phase="training", step=1, steps=2))
    assert is_held(engine, ahead_s=50)


def test_questions_that_are_answered_quickly_are_not_all_written_down(
    engine: Engine, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = recording()
    written: list[int] = []
    monkeypatch.setattr(record, "report", lambda progress: written.append(progress.step))
    report = record.questions("baseline")
    for done in range(1, 50):
        report(done, 50)
    assert written[0] == 1
    assert len(written) < 10  # one a second
    report(50, 50)
    with reading(engine) as session:
        row = session.get_one(Refresh, record.refresh_id)
    assert (written[-1], row.phase, row.step, row.steps) == (50, "baseline", 50, 50)
