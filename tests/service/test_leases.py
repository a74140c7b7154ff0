"""The lease: one owner at a time, and an old one can write nothing more."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Engine

from service import leases
from service.db import reading, writing
from service.errors import LeaseHeld, LeaseLost
from service.leases import Hold

LEASE_S = 60.0


def acquire(engine: Engine, owner: str, now: datetime) -> Hold:
    with writing(engine) as session:
        return leases.acquire(session, leases.REFRESH, owner=owner, now=now, lease_s=LEASE_S)


def renew(engine: Engine, hold: Hold, now: datetime) -> None:
    with writing(engine) as session:
        leases.renew(session, hold, now=now, lease_s=LEASE_S)


def test_a_second_owner_is_told_who_holds_it(engine: Engine, hold: Hold, now: datetime) -> None:
    with pytest.raises(LeaseHeld, match="first holds the lease"):
        acquire(engine, "second", now + timedelta(seconds=LEASE_S - 1))


def test_an_expired_lease_can_be_taken_with_a_higher_token(
    engine: Engine, hold: Hold, now: datetime
) -> None:
    second = acquire(engine, "second", now + timedelta(seconds=LEASE_S))
    assert second.token > hold.token


def test_a_renewed_lease_does_not_expire(engine: Engine, hold: Hold, now: datetime) -> None:
    renew(engine, hold, now + timedelta(seconds=LEASE_S - 1))
    with pytest.raises(LeaseHeld):
        acquire(engine, "second", now + timedelta(seconds=LEASE_S + 1))


def test_a_released_lease_is_free_at_once_and_the_token_still_rises(
    engine: Engine, hold: Hold, now: datetime
) -> None:
    with writing(engine) as session:
        leases.release(session, hold, now=now)
        assert not leases.is_held(session, leases.REFRESH, now=now)
    assert acquire(engine, "second", now).token == hold.token + 1


def test_an_owner_that_was_overtaken_can_neither_renew_nor_release(
    engine: Engine, hold: Hold, now: datetime
) -> None:
    later = now + timedelta(seconds=LEASE_S)
    second = acquire(engine, "second", later)
    with pytest.raises(LeaseLost):
        renew(engine, hold, later)
    with pytest.raises(LeaseLost), writing(engine) as session:
        leases.release(session, hold, now=later)
    renew(engine, second, later)  # and its successor did not notice


def test_a_clock_that_was_set_back_does_not_keep_a_dead_owners_lease(
    engine: Engine, hold: Hold, now: datetime
) -> None:
    """Taken at noon by a clock that is at noon of the day before by now."""
    day_before = now - timedelta(days=1)
    with reading(engine) as session:
        assert not leases.is_held(session, leases.REFRESH, now=day_before)
    second = acquire(engine, "second", day_before)
    assert second.token > hold.token


def test_clocks_that_differ_by_minutes_still_tell_who_holds_it(
    engine: Engine, hold: Hold, now: datetime
) -> None:
    with pytest.raises(LeaseHeld):
        acquire(engine, "second", now - timedelta(minutes=15))


def test_an_owner_that_was_late_but_not_overtaken_goes_on(
    engine: Engine, hold: Hold, now: datetime
) -> None:
    renew(engine, hold, now + timedelta(hours=1))
