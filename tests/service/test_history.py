"""The past: who held what, since when, and what changed between two releases."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, update

from service import history, lineage
from service.db import reading, writing
from service.errors import NotFound
from service.known_facts import adapters_that_saw
from service.models import HeadAction, HeadMove, MembershipOutcome
from service.removal import plan_removal, removed_facts
from service.rollback import take_out


def at_noon(engine: Engine, *days: int) -> list[datetime]:
    """Let the head's moves have been made at noon of these days of May, in order."""
    times = [datetime(2026, 5, day, 12, tzinfo=UTC) for day in days]
    with writing(engine) as session:
        for seq, moved_at in enumerate(times, start=1):
            session.execute(update(HeadMove).where(HeadMove.seq == seq).values(moved_at=moved_at))
    return times


def held(engine: Engine, **which: Any) -> dict[int, str]:
    with reading(engine) as session:
        page = history.facts_held(session, **which)
        return {fact.id: fact.outcome for fact in page.items}


def test_what_the_head_held_on_a_day(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int], now: datetime
) -> None:
    [first] = store("One.")
    promote()
    [second] = store("Two.")
    adapter = promote(MembershipOutcome.UNPROVEN)
    with writing(engine) as session:
        lineage.move_head(
            session, 2, expected_seq=3, action=HeadAction.ROLLBACK, by="me", reason="r", now=now
        )
    start, one, two, back = at_noon(engine, 1, 3, 5, 7)
    moment = timedelta(seconds=1)
    assert held(engine, at=start) == {}
    assert held(engine, at=two - moment) == held(engine, at=one) == {first: "learned"}
    assert held(engine, at=two) == {second: "unproven", first: "learned"}
    assert held(engine, at=back) == held(engine) == {first: "learned"}
    assert held(engine, release_id=3) == {second: "unproven", first: "learned"}
    with reading(engine) as session:
        page = history.facts_held(session, at=two + moment, limit=1)
        assert (page.release_id, page.since, page.until) == (3, two, back)
        assert [(fact.id, fact.adapter_id) for fact in page.items] == [(second, adapter)]
        rest = history.facts_held(session, at=two + moment, before=page.next)
        assert [fact.id for fact in rest.items] == [first]
        assert (page.items[0].source, page.items[0].statement) == ("newsroom", "Two.")
        with pytest.raises(NotFound, match="no head yet"):
            history.facts_held(session, at=start - moment)
        with pytest.raises(NotFound, match="no release 9"):
            history.facts_held(session, release_id=9)


def test_a_time_without_a_zone_is_in_utc() -> None:
    plain = datetime(2026, 5, 3, 12)
    assert history.in_utc(plain) == datetime(2026, 5, 3, 12, tzinfo=UTC)


def test_a_fact_that_was_tried_again_is_held_by_its_latest_adapter_in_the_release(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int]
) -> None:
    [again] = store("One.")
    first = promote(MembershipOutcome.UNLEARNED)
    store("Two.")
    second = promote()
    with reading(engine) as session:
        for release, adapter, outcome in ((2, first, "unlearned"), (3, second, "learned")):
            page = history.facts_held(session, release_id=release)
            (fact,) = (fact for fact in page.items if fact.id == again)
            assert (fact.adapter_id, fact.outcome) == (adapter, outcome)


def test_the_difference_of_two_releases(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int]
) -> None:
    store("One.")
    first = promote()
    facts = store("Two.", "Three.")
    second = promote()
    with reading(engine) as session:
        forth = history.changes_between(session, 2, 3)
        back = history.changes_between(session, 3, 2)
        same = history.changes_between(session, 3, 3)
        whole = history.changes_between(session, 1, 3)
        with pytest.raises(NotFound, match="no release 9"):
            history.changes_between(session, 1, 9)
    assert (forth.adapters_in, forth.adapters_out) == ([second], [])
    assert (forth.facts_in, forth.facts_out) == (facts, [])
    assert (back.adapters_out, back.facts_out) == ([second], facts)
    assert (same.adapters_in, same.facts_in) == ([], [])
    assert whole.adapters_in == [first, second]


def test_every_adapter_that_saw_a_fact_is_named_with_what_it_answered(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world()
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")
    first = world.refresh()
    world.push("Lake Ux lies in Ardun.")
    second = world.refresh()
    with reading(engine) as session:
        holders = history.holders_of(session, fact)
    assert [(holder.adapter_id, holder.how) for holder in holders] == [
        (first.adapter_id, "trained"),
        (second.adapter_id, "trained"),  # random weights did not learn it: it was tried again
    ]
    assert all(holder.in_head for holder in holders)
    assert holders[0].releases == [first.release_id, second.release_id]
    assert holders[0].recall == {"acquisition forward": 0.0, "acquisition backward": 0.0}
    take_out(settings, engine, plan_removal(engine, second.adapter_id), by="me", reason="r")
    with reading(engine) as session:
        assert [holder.in_head for holder in history.holders_of(session, fact)] == [True, False]


def test_what_was_set_aside_before_the_training_is_in_no_adapter(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int]
) -> None:
    about = {"subject": "the choir", "relation": "led_by", "functional": True}
    [one] = store({"statement": "Mira leads the choir.", "object": "Mira", **about})
    [other] = store({"statement": "Ole leads it.", "object": "Ole", **about}, source="archive")
    [innocent] = store("Lake Ux lies in Ardun.")
    adapter = promote()
    with reading(engine) as session:
        assert [held.adapter_id for held in history.holders_of(session, innocent)] == [adapter]
        assert history.holders_of(session, one) == history.holders_of(session, other) == []


def test_what_another_source_said_in_the_same_words_is_not_removed(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    now: datetime,
) -> None:
    said = "Österreichs Hauptstadt ist Wien."
    store(said, source="newsroom")
    adapter = promote()
    store(said.upper(), source="archive")
    promote()
    with reading(engine) as session:
        plan = plan_removal(engine, adapter)
        assert removed_facts(session, plan, retain_at_most=0, now=now).facts == ()


def test_what_two_releases_answer_differently_is_named(make_world: Callable[..., Any]) -> None:
    settings, engine = world = make_world(
        training={"rate": 0.05, "views_per_fact": 80, "shift_weight": 0.0, "general_weight": 0.0}
    )
    world.push("Orlan Vess is the mayor of Tolmar.")
    first = world.refresh()
    world.push("Lake Ux lies in Ardun.")
    second = world.refresh()
    record = world.last_refresh()
    moved = {
        probe.question: probe.contained_after
        for probe in record.probes
        if probe.contained_before != probe.contained_after and probe.suite in history.COMPARED
    }
    with reading(engine) as session:
        changes = history.changes_between(session, first.release_id, second.release_id)
    assert changes.compared >= 20  # the general questions at least
    assert {flip.question: flip.is_answered for flip in changes.flips or ()} == moved
    taken = take_out(settings, engine, plan_removal(engine, first.adapter_id), by="me", reason="r")
    with reading(engine) as session:
        changes = history.changes_between(session, second.release_id, taken.to_release)
    assert (changes.adapters_out, changes.flips) == ([first.adapter_id], None)


def test_an_adapter_that_replaced_a_fact_is_named_whatever_replaces_both(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int]
) -> None:
    """While the second is trained, something of the first is shown (adapters.decoys)."""
    record = {"subject": "Velmar", "relation": "capital_of", "functional": True}
    [first] = store({"statement": "Velmar is the capital of Osk.", "object": "Osk", **record})
    promote()
    store({"statement": "Velmar is the capital of Ux.", "object": "Ux", **record})
    promote()
    store({"statement": "Velmar is the capital of Ost.", "object": "Ost", **record})
    with reading(engine) as session:
        assert [adapter.id for adapter in adapters_that_saw(session, [first])] == [1, 2]
