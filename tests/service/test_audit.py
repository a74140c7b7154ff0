"""The audit log: every act once, in the transaction of what it tells of; no change goes unseen."""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, delete, select, update

from service import audit, auth, collect, facts, lineage, operations, pins
from service.audit import Act
from service.auth import Scope
from service.db import alembic_config, reading, upgrade, writing
from service.models import AuditEntry, HeadAction, HeadMove
from service.settings import Settings


def acts(engine: Engine) -> list[tuple[str, str]]:
    with reading(engine) as session:
        entries = session.scalars(select(AuditEntry).order_by(AuditEntry.seq))
        return [(entry.act, entry.by) for entry in entries]


def found(engine: Engine, **how: Any) -> audit.Audit:
    with reading(engine) as session:
        return audit.verify(session, **how)


def move(engine: Engine, seq: int, now: datetime) -> None:
    with writing(engine) as session:
        lineage.move_head(
            session, 1, expected_seq=seq, action=HeadAction.ROLLBACK, by="me",
            reason="Orlan Vess was wrong", now=now,
        )  # fmt: skip


@pytest.fixture
def chain(
    engine: Engine, store: Callable[..., list[int]], make_key: Callable[..., str], now: datetime
) -> list[tuple[str, str]]:
    """One act of nearly each kind."""
    (fact,) = store({"statement": "Orlan Vess rules.", "external_id": "x"})
    key_id = make_key(Scope.READ).split("_")[1]
    with writing(engine) as session:
        facts.retract(session, fact, by="me", now=now)
        pin = pins.pin(session, "Who is it?", ["Orlan"], reason="r", by="me", now=now)
        pins.unpin(session, pin.id, by="me", now=now)
        collect.pin_release(session, 1, by="me", reason="r", now=now)
        collect.unpin_release(session, 1, by="me", now=now)
        kind = operations.Kind.ROLLBACK
        operations.enqueue(session, kind, ["rollback"], reason="r", by="me", now=now)
        auth.revoke_key(session, key_id, by="me", now=now)
    move(engine, 1, now)
    return acts(engine)


def test_the_log_has_all_that_was_done_and_says_nothing_that_a_fact_says(
    engine: Engine, chain: list[tuple[str, str]]
) -> None:
    assert [act for act, _ in chain] == [
        Act.LOG_BEGUN, Act.HEAD_MOVED, Act.KEY_CREATED, Act.KEY_CREATED, Act.FACT_RETRACTED,
        Act.PIN_ADDED, Act.PIN_REMOVED, Act.RELEASE_PINNED, Act.RELEASE_UNPINNED,
        Act.OPERATION_REQUESTED, Act.KEY_REVOKED, Act.HEAD_MOVED,
    ]  # fmt: skip
    assert {by for _, by in chain} == {"migration", "test", "me"}
    whole = found(engine)
    assert (whole.entries, whole.problems) == (len(chain), ())
    with reading(engine) as session:
        entries = session.scalars(select(AuditEntry)).all()
        assert not any("Orlan" in str(entry.about) for entry in entries)
        assert whole.newest_digest == entries[-1].digest


def test_each_act_is_told_once_by_whom_and_what_was_undone_is_not(
    engine: Engine, store: Callable[..., list[int]], now: datetime
) -> None:
    (fact,) = store("Orlan Vess rules.")
    before = acts(engine)
    with suppress(InterruptedError), writing(engine) as session:
        facts.retract(session, fact, by="me", now=now)
        raise InterruptedError
    assert acts(engine) == before
    with writing(engine) as session:
        facts.retract(session, fact, by="me", now=now)
    assert acts(engine) == [*before, (Act.FACT_RETRACTED, "me")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("by", "somebody else"),
        ("act", Act.PIN_ADDED),
        ("about", {"fact": 2}),
        ("at", datetime.fromisoformat("2026-05-04T12:00:00+00:00")),
        ("previous", "0" * 64),
        ("digest", "f" * 64),
    ],
)
def test_an_entry_that_was_changed_is_found(
    engine: Engine, chain: list[tuple[str, str]], name: str, value: Any
) -> None:
    with writing(engine) as session:
        session.execute(update(AuditEntry).where(AuditEntry.seq == 4).values({name: value}))
    assert any("4" in problem or "5" in problem for problem in found(engine).problems)


def test_an_entry_that_was_removed_is_found_and_so_are_the_last_ones_by_a_digest_noted_before(
    engine: Engine, chain: list[tuple[str, str]]
) -> None:
    noted = found(engine).newest_digest
    assert found(engine, expect=noted).problems == ()
    with writing(engine) as session:
        session.execute(delete(AuditEntry).where(AuditEntry.seq == 5))
    assert found(engine).problems[0] == "Entry 5 is missing."
    with writing(engine) as session:
        session.execute(delete(AuditEntry).where(AuditEntry.seq >= 5))
    assert found(engine, expect=noted).problems == (
        "No entry has the digest that is expected: the chain was made anew.",
        "Head move 2 is not in the log.",
    )


def test_a_head_move_that_the_log_does_not_tell_is_found(
    engine: Engine, chain: list[tuple[str, str]], now: datetime
) -> None:
    with writing(engine) as session:
        session.execute(update(HeadMove).where(HeadMove.seq == 2).values(action="promotion"))
    assert found(engine).problems == ("Head move 2 is not as the log has it.",)
    with writing(engine) as session:
        session.execute(delete(HeadMove).where(HeadMove.seq == 2))
    assert found(engine).problems == ("Head move 2 of the log is not there any more.",)


def test_a_log_that_was_emptied_is_found(engine: Engine) -> None:
    with writing(engine) as session:
        session.execute(delete(AuditEntry))
    assert found(engine).problems[0] == "The log is empty, and had an entry when it was made."


def test_moves_from_before_there_was_a_log_are_no_problem(
    engine: Engine, settings: Settings, now: datetime
) -> None:
    """As in a database that was made by an earlier version."""
    move(engine, 1, now)
    command.downgrade(alembic_config(settings.url), "0011")
    upgrade(settings.url)
    assert found(engine).problems == ()
    move(engine, 2, now + timedelta(hours=1))
    assert found(engine).problems == ()
    with reading(engine) as session:
        assert audit.digest_of_move(session, 1) is None
        assert audit.digest_of_move(session, 3) == found(engine).newest_digest
