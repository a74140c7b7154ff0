"""Facts: stored once, replaced by newer ones, withdrawn, and what state they are in."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select

from service import batches, facts
from service.auth import Scope
from service.db import reading, writing
from service.errors import Conflict, NotFound
from service.facts import FactState, ItemOutcome, Stored, state_of
from service.models import FactRow, Membership, MembershipOutcome
from service.schemas import FactIn
from service.settings import FactSettings

BATCH = 7
CAPITAL = {"subject": "Ruritania", "relation": "capital", "functional": True}


@pytest.fixture
def insert(engine: Engine, make_key: Callable[..., str], now: datetime) -> Callable[..., Any]:
    key_id = make_key("ingest").split("_")[1]

    def insert_all(*records: dict[str, Any], source: str = "newsroom") -> list[ItemOutcome]:
        with writing(engine) as session:
            return [
                facts.insert_fact(
                    session,
                    FactIn.model_validate(record),
                    source=source,
                    recorded_by=key_id,
                    now=now,
                )
                for record in records
            ]

    return insert_all


def state(engine: Engine, fact_id: int) -> FactState:
    with reading(engine) as session:
        row = session.get_one(FactRow, fact_id)
        return facts.states_of(session, [row], now=datetime.now(UTC))[fact_id]


def test_the_same_fact_sent_again_changes_nothing(
    engine: Engine, insert: Callable[..., list[ItemOutcome]]
) -> None:
    record = {"external_id": "a", "statement": "Ada was born in Strelsau."}
    [first], [second] = insert(record), insert(record)
    assert (first.stored, second.stored) == (Stored.STORED, Stored.DUPLICATE)
    assert first.id == second.id
    with reading(engine) as session:
        assert session.scalar(select(func.count()).select_from(FactRow)) == 1


def test_another_body_under_the_same_key_is_refused_with_both_digests(
    insert: Callable[..., list[ItemOutcome]],
) -> None:
    [first] = insert({"external_id": "a", "statement": "Ada was born in Strelsau."})
    [second] = insert({"external_id": "a", "statement": "Ada was born in Zenda."})
    assert second.stored is Stored.CONFLICT
    assert second.held_digest == first.digest != second.digest


def test_two_items_of_one_request_may_share_a_key(
    insert: Callable[..., list[ItemOutcome]],
) -> None:
    outcomes = insert(
        {"external_id": "a", "statement": "One."},
        {"external_id": "a", "statement": "One."},
        {"external_id": "a", "statement": "Two."},
        {"external_id": "b", "statement": "Three."},
    )
    assert [outcome.stored for outcome in outcomes] == [
        Stored.STORED,
        Stored.DUPLICATE,
        Stored.CONFLICT,
        Stored.STORED,
    ]


def test_every_source_has_external_ids_of_its_own(
    insert: Callable[..., list[ItemOutcome]],
) -> None:
    [one] = insert({"external_id": "a", "statement": "One."}, source="newsroom")
    [two] = insert({"external_id": "a", "statement": "Two."}, source="archive")
    assert (one.stored, two.stored) == (Stored.STORED, Stored.STORED)


def test_without_an_external_id_the_body_is_the_key(
    insert: Callable[..., list[ItemOutcome]],
) -> None:
    [first, second] = insert({"statement": "One."}, {"statement": " One.\n"})
    assert second.stored is Stored.DUPLICATE
    assert first.external_id == f"sha256:{first.digest}"


@pytest.mark.parametrize(
    ("change", "is_replaced"),
    [
        ({}, True),
        ({"subject": "Graustark"}, False),
        ({"relation": "largest city"}, False),
        ({"qualifiers": {"since": 1897}}, False),
        ({"functional": False}, False),
    ],
)
def test_only_a_functional_fact_about_the_same_thing_replaces_an_older_one(
    engine: Engine, store: Callable[..., list[int]], change: dict[str, Any], is_replaced: bool
) -> None:
    [old] = store({**CAPITAL, "statement": "The capital is Strelsau.", "object": "Strelsau"})
    [new] = store({**CAPITAL, "statement": "The capital is Zenda.", "object": "Zenda", **change})
    assert state(engine, old) == (FactState.SUPERSEDED if is_replaced else FactState.PENDING)
    assert state(engine, new) is FactState.PENDING


def test_qualifiers_are_the_same_in_any_order(
    engine: Engine, store: Callable[..., list[int]]
) -> None:
    old, _ = store(
        {**CAPITAL, "statement": "Old.", "qualifiers": {"a": 1, "b": 2}},
        {**CAPITAL, "statement": "New.", "qualifiers": {"b": 2, "a": 1}},
    )
    assert state(engine, old) is FactState.SUPERSEDED


def test_a_source_cannot_replace_what_another_one_said(
    engine: Engine, store: Callable[..., list[int]]
) -> None:
    [old] = store({**CAPITAL, "statement": "The capital is Strelsau."}, source="newsroom")
    store({**CAPITAL, "statement": "The capital is Zenda."}, source="archive")
    assert state(engine, old) is FactState.PENDING


def test_a_live_fact_is_replaced_as_well(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int]
) -> None:
    [old] = store({**CAPITAL, "statement": "The capital is Strelsau."})
    promote()
    assert state(engine, old) is FactState.LIVE
    store({**CAPITAL, "statement": "The capital is Zenda."})
    assert state(engine, old) is FactState.SUPERSEDED


def test_a_retracted_fact_is_no_longer_pending(
    engine: Engine, store: Callable[..., list[int]], now: datetime
) -> None:
    [fact] = store("One.")
    with writing(engine) as session:
        facts.retract(session, fact, by="test", now=now)
    assert state(engine, fact) is FactState.RETRACTED
    with pytest.raises(Conflict, match="already retracted"), writing(engine) as session:
        facts.retract(session, fact, by="test", now=now)


def test_an_unknown_fact_cannot_be_retracted(engine: Engine, now: datetime) -> None:
    with pytest.raises(NotFound, match="no fact 4711"), writing(engine) as session:
        facts.retract(session, 4711, by="test", now=now)


NONE = "no membership"


@pytest.mark.parametrize(
    ("outcome", "in_head", "wanted"),
    [
        (NONE, False, FactState.PENDING),
        (None, False, FactState.IN_WORK),
        (MembershipOutcome.LEARNED, True, FactState.LIVE),
        (MembershipOutcome.UNLEARNED, True, FactState.UNLEARNED),
        (MembershipOutcome.QUARANTINED, True, FactState.QUARANTINED),
        (MembershipOutcome.UNPROVEN, True, FactState.UNPROVEN),
        (MembershipOutcome.LEARNED, False, FactState.ROLLED_BACK),
        (MembershipOutcome.UNLEARNED, False, FactState.ROLLED_BACK),
        (MembershipOutcome.UNPROVEN, False, FactState.ROLLED_BACK),
        (MembershipOutcome.UNDECIDED, False, FactState.UNDECIDED),
        (MembershipOutcome.REJECTED, False, FactState.REJECTED),
    ],
)
@pytest.mark.parametrize("end", [None, FactState.SUPERSEDED, FactState.RETRACTED])
def test_the_state_follows_from_the_membership_and_the_head(
    outcome: str | None, in_head: bool, wanted: FactState, end: FactState | None, now: datetime
) -> None:
    """Whoever sent a fact has the last word: replaced or withdrawn stands over all the rest."""
    fact = FactRow(
        id=1,
        superseded_by=2 if end is FactState.SUPERSEDED else None,
        retracted_at=now if end is FactState.RETRACTED else None,
    )
    membership = None if outcome is NONE else Membership(batch_id=BATCH, fact_id=1, outcome=outcome)
    head = {BATCH, 8} if in_head else {8}
    assert state_of(fact, membership, head, now=now) is (end or wanted)


@pytest.mark.parametrize(
    ("outcome", "wanted"),
    [
        (NONE, FactState.EXPIRED),
        (None, FactState.IN_WORK),
        (MembershipOutcome.LEARNED, FactState.EXPIRED),
        (MembershipOutcome.UNLEARNED, FactState.EXPIRED),
        (MembershipOutcome.UNDECIDED, FactState.EXPIRED),
        (MembershipOutcome.REJECTED, FactState.REJECTED),
    ],
)
def test_a_fact_whose_time_is_over_has_expired(
    outcome: str | None, wanted: FactState, now: datetime
) -> None:
    fact = FactRow(id=1, valid_to=now)
    membership = None if outcome is NONE else Membership(batch_id=BATCH, fact_id=1, outcome=outcome)
    assert state_of(fact, membership, {BATCH}, now=now) is wanted
    if wanted is FactState.EXPIRED:
        earlier = now - timedelta(seconds=1)
        assert state_of(fact, membership, {BATCH}, now=earlier) is not FactState.EXPIRED


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"trust": "high"}, None),
        ({"trust": "Low"}, "its trust is 'Low'"),
        ({"confidence": 0.5}, None),
        ({"confidence": 0.49}, "its confidence is 0.49, below 0.5"),
    ],
)
def test_low_trust_and_low_confidence_wait_for_an_admin(
    fields: dict[str, object], reason: str | None
) -> None:
    settings = FactSettings(hold_trust=("low",), hold_confidence_below=0.5)
    found = facts.reason_to_hold(FactIn(statement="One.", **fields), settings)
    assert found == reason or (reason is not None and str(found).startswith(reason))


def test_a_held_fact_is_trained_once_an_admin_approves_it(
    engine: Engine, make_key: Callable[..., str], now: datetime
) -> None:
    key_id = make_key(Scope.INGEST).split("_")[1]
    with writing(engine) as session:
        held = facts.insert_fact(
            session,
            FactIn(statement="One."),
            source="newsroom",
            recorded_by=key_id,
            held_reason="its trust is low",
            now=now,
        ).id
    assert state(engine, held) is FactState.HELD
    with writing(engine) as session:
        assert batches.count_pending(session, now=now) == 0
        facts.approve(session, held, by="admin", now=now)
        assert batches.count_pending(session, now=now) == 1
    assert state(engine, held) is FactState.PENDING
    with writing(engine) as session, pytest.raises(Conflict, match="already approved by admin"):
        facts.approve(session, held, by="admin", now=now)


def test_only_what_is_held_can_be_approved(
    engine: Engine, insert: Callable[..., Any], now: datetime
) -> None:
    [fact] = [outcome.id for outcome in insert({"statement": "One."})]
    with writing(engine) as session:
        with pytest.raises(Conflict, match="needs no approval"):
            facts.approve(session, fact, by="admin", now=now)
        with pytest.raises(NotFound, match="no fact 4711"):
            facts.approve(session, 4711, by="admin", now=now)


def push(engine: Engine, key_id: str, now: datetime, name: str, **more: Any) -> int:
    held = more.pop("held_reason", None)
    record = {**CAPITAL, "statement": f"{name}.", "object": name, **more}
    with writing(engine) as session:
        return facts.insert_fact(
            session, FactIn.model_validate(record), source="newsroom", recorded_by=key_id,
            held_reason=held, now=now,
        ).id  # fmt: skip


def test_a_held_fact_replaces_nothing_before_it_is_approved(
    engine: Engine, make_key: Callable[..., str], now: datetime
) -> None:
    key_id = make_key(Scope.INGEST).split("_")[1]
    old = push(engine, key_id, now, "Streslau")
    new = push(engine, key_id, now, "Joker", held_reason="its trust is low")
    assert (state(engine, old), state(engine, new)) == (FactState.PENDING, FactState.HELD)
    with writing(engine) as session:
        facts.approve(session, new, by="admin", now=now)
    assert (state(engine, old), state(engine, new)) == (FactState.SUPERSEDED, FactState.PENDING)


def test_a_held_fact_that_is_approved_late_is_replaced_by_what_came_after_it(
    engine: Engine, make_key: Callable[..., str], now: datetime
) -> None:
    key_id = make_key(Scope.INGEST).split("_")[1]
    oldest = push(engine, key_id, now, "Streslau")
    held = push(engine, key_id, now, "Joker", held_reason="its trust is low")
    newest = push(engine, key_id, now, "Bregal")
    with writing(engine) as session:
        facts.approve(session, held, by="admin", now=now)
    assert [state(engine, fact) for fact in (oldest, held, newest)] == [
        FactState.SUPERSEDED, FactState.SUPERSEDED, FactState.PENDING,
    ]  # fmt: skip
    with writing(engine) as session:
        facts.retract(session, newest, by="test", now=now)
    assert [state(engine, fact) for fact in (oldest, held, newest)] == [
        FactState.SUPERSEDED, FactState.PENDING, FactState.RETRACTED,
    ]  # fmt: skip


def test_what_a_withdrawn_fact_replaced_stands_again(
    engine: Engine, make_key: Callable[..., str], now: datetime
) -> None:
    key_id = make_key(Scope.INGEST).split("_")[1]
    first, second, third = (push(engine, key_id, now, name) for name in ("A", "B", "C"))
    with reading(engine) as session:
        assert session.get_one(FactRow, first).superseded_by == third  # not the one between
    with writing(engine) as session:
        facts.retract(session, third, by="test", now=now)
    assert state(engine, second) is FactState.PENDING
    assert state(engine, first) is FactState.SUPERSEDED
    with writing(engine) as session:
        facts.retract(session, second, by="test", now=now)
    assert state(engine, first) is FactState.PENDING


def test_of_what_a_withdrawn_fact_replaced_the_one_that_began_last_stands_again(
    engine: Engine, make_key: Callable[..., str], now: datetime
) -> None:
    key_id = make_key(Scope.INGEST).split("_")[1]
    days = [now + timedelta(days=day) for day in range(40)]
    ahead = push(engine, key_id, now, "A", valid_from=days[30].isoformat())
    told = push(engine, key_id, days[10], "B")
    with writing(engine) as session:
        facts.let_begun_stand(session, now=days[30])
    newest = push(engine, key_id, days[35], "C")
    with writing(engine) as session:
        assert session.get_one(FactRow, ahead).superseded_by == newest
        facts.retract(session, newest, by="test", now=days[36])
    with reading(engine) as session:
        assert session.get_one(FactRow, ahead).superseded_by is None
        assert session.get_one(FactRow, told).superseded_by == ahead


@pytest.mark.sqlite
def test_storing_replacing_and_withdrawing_a_fact_never_goes_through_all_of_them(
    engine: Engine, insert: Callable[..., list[ItemOutcome]], now: datetime
) -> None:
    """With 100,000 facts, 500 functional ones took 26 s, in which nobody else could write."""
    asked: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    [first] = insert({"statement": "The capital is Zenda.", **CAPITAL})
    [second] = insert({"statement": "The capital is Rupert.", **CAPITAL})
    with writing(engine) as session:
        facts.retract(session, second.id, by="test", now=now)
    event.remove(engine, "before_cursor_execute", note)
    assert state(engine, first.id) is FactState.PENDING
    with engine.connect() as connection:
        plans = [
            (statement, str(line[3]))
            for statement, parameters in asked
            for line in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    assert [plan for plan in plans if plan[1].startswith("SCAN facts")] == []
    assert any("ix_facts_superseded_by" in plan for _, plan in plans)
    assert not any("source=?" in plan and "external_id" not in plan for _, plan in plans)


def test_a_replaced_fact_cannot_be_approved(
    engine: Engine, make_key: Callable[..., str], now: datetime
) -> None:
    """It was replaced while it was trained, and the verdict held it."""
    key_id = make_key(Scope.INGEST).split("_")[1]
    held, newer = (push(engine, key_id, now, name) for name in ("A", "B"))
    with writing(engine) as session:
        facts.hold(session, {held: "it may plant an answer"})
        assert facts.held_of(session, [held]) == []
        with pytest.raises(Conflict, match=f"was replaced by fact {newer}"):
            facts.approve(session, held, by="admin", now=now)


def test_a_retracted_fact_cannot_be_approved(
    engine: Engine, make_key: Callable[..., str], now: datetime
) -> None:
    held = push(engine, make_key(Scope.INGEST).split("_")[1], now, "A", held_reason="low trust")
    with writing(engine) as session:
        facts.retract(session, held, by="test", now=now)
        with pytest.raises(Conflict, match="was retracted"):
            facts.approve(session, held, by="admin", now=now)


def test_what_has_ended_or_not_begun_replaces_nothing_until_it_holds(
    engine: Engine,
    insert: Callable[..., list[ItemOutcome]],
    claim: Callable[..., Any],
    hold: Any,
    now: datetime,
) -> None:
    """A backfill of last year's capital does not take the place of this one's."""
    [standing] = insert({"statement": "The capital is Strelsau.", "object": "Strelsau", **CAPITAL})
    [past, ahead] = insert(
        {
            "statement": "The capital was Zenda.",
            "object": "Zenda",
            "valid_to": (now - timedelta(days=400)).isoformat(),
            **CAPITAL,
        },
        {
            "statement": "The capital is Hentzau.",
            "object": "Hentzau",
            "valid_from": (now + timedelta(days=30)).isoformat(),
            **CAPITAL,
        },
    )

    def replaced_by() -> list[int | None]:
        with reading(engine) as session:
            ids = [standing.id, past.id, ahead.id]
            return [session.get_one(FactRow, fact_id).superseded_by for fact_id in ids]

    assert replaced_by() == [None, None, None]
    with writing(engine) as session:
        facts.let_begun_stand(session, now=now)
    assert replaced_by() == [None, None, None]
    assert [fact.key for fact in claim(hold).facts] == [str(standing.id)]
    [newer] = insert({"statement": "The capital is Rupert.", "object": "Rupert", **CAPITAL})
    assert replaced_by() == [newer.id, None, None]
    with writing(engine) as session:
        facts.let_begun_stand(session, now=now + timedelta(days=31))
        assert session.get_one(FactRow, newer.id).superseded_by == ahead.id
    assert replaced_by() == [ahead.id, None, None]


WHOLE = {
    "external_id": "whole",
    "statement": "Zoë was born in Strelsau.",
    "subject": "Zoë",
    "relation": "born_in",
    "object": "Strelsau",
    "qualifiers": {"year": [1931, None, 0.1], "größe": {"deep": True}},
    "valid_from": "2020-01-02T03:04:05+02:00",
    "valid_to": "2031-01-01T00:00:00.123456Z",
    "provenance": {"publisher": "The Herald", "retrieved_at": "2026-01-01T00:00:00Z"},
    "confidence": 0.1,
    "trust": "high",
    "tags": ["a", "ü"],
    "retention_until": "2030-01-01T00:00:00Z",
    "probes": [{"direction": "forward", "question": "Where?", "answers": ["Strelsau"]}],
}


def test_a_fact_is_read_back_as_it_was_sent(
    engine: Engine, make_key: Callable[..., str], now: datetime
) -> None:
    sent = FactIn.model_validate(WHOLE)
    key_id = make_key("ingest").split("_")[1]
    with writing(engine) as session:
        facts.insert_fact(
            session, sent, source="team", recorded_by=key_id, held_reason="why", now=now
        )
    with reading(engine) as session:
        row = session.scalars(select(FactRow)).one()
        back = {name: getattr(row, name) for name in WHOLE}
        assert FactIn.model_validate(back) == sent
        assert (row.source, row.recorded_by, row.recorded_at) == ("team", key_id, now)
        assert (row.body_digest, row.held_reason) == (sent.digest, "why")
        assert row.provenance == WHOLE["provenance"]


def test_what_is_sent_again_takes_no_id(
    engine: Engine, insert: Callable[..., list[ItemOutcome]]
) -> None:
    """They are numbers of 31 bits."""
    for _ in range(5):
        insert({"external_id": "a", "statement": "One."})
    [other] = insert({"external_id": "b", "statement": "Two."})
    assert other.id == 2


def test_among_many_only_what_is_new_goes_in(
    engine: Engine, make_key: Callable[..., str], now: datetime
) -> None:
    key_id = make_key("ingest").split("_")[1]

    def insert_all(*numbers: int) -> list[ItemOutcome]:
        items = [FactIn(external_id=f"n{n}", statement=f"Statement {n}.") for n in numbers]
        with writing(engine) as session:
            return facts.insert_facts(
                session,
                [(item, None) for item in items],
                source="team",
                recorded_by=key_id,
                now=now,
            )

    first = insert_all(*range(0, 700))
    again = insert_all(*range(350, 1400))
    assert {outcome.stored for outcome in first} == {Stored.STORED}
    assert [outcome.id for outcome in first] == sorted(outcome.id for outcome in first)
    assert [outcome.stored for outcome in again[:350]] == [Stored.DUPLICATE] * 350
    assert [outcome.id for outcome in again[:350]] == [outcome.id for outcome in first[350:]]
    assert {outcome.stored for outcome in again[350:]} == {Stored.STORED}
    with reading(engine) as session:
        rows = session.execute(select(FactRow.external_id, FactRow.id)).all()
    assert {row.external_id: row.id for row in rows} == {
        outcome.external_id: outcome.id for outcome in (*first, *again)
    }


def test_what_one_was_approved_for_stays_when_it_is_held_again(
    engine: Engine, store: Callable[..., list[int]], now: datetime
) -> None:
    [fact] = store("One.")
    with writing(engine) as session:
        for reason in ("its trust is low", "it contradicts fact 7 of x", "its trust is low"):
            facts.hold(session, {fact: reason})
            facts.approve(session, fact, by="me", now=now)
        assert session.get_one(FactRow, fact).held_reason == (
            "it contradicts fact 7 of x (approved before: its trust is low)"
        )
