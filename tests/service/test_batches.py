"""Batches: what is claimed, what comes back, and what is set aside."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, select

from adapters.config import GateConfig
from adapters.judges import judge_retention
from adapters.probes import grade
from adapters.types import Answer, Direction, Outcome, Probe, ProbeOrigin, Suite, Verdict
from service import batches, facts, known_facts, leases, lineage, views
from service.batches import ClaimedBatch
from service.db import reading, writing
from service.facts import FactState
from service.leases import Hold
from service.models import (
    Batch,
    FactRow,
    LeftOut,
    Membership,
    MembershipOutcome,
    Refresh,
    RefreshOutcome,
    Replay,
)

LEASE_S = 60.0
ATTEMPTS = 3


def states(engine: Engine, ids: list[int]) -> list[FactState]:
    with reading(engine) as session:
        rows = [session.get_one(FactRow, fact_id) for fact_id in ids]
        found = facts.states_of(session, rows, now=datetime.now(UTC))
        return [found[fact_id] for fact_id in ids]


def end(engine: Engine, refresh_id: int, outcome: RefreshOutcome, now: datetime) -> None:
    with writing(engine) as session:
        batches.end_without_verdict(
            session, refresh_id, outcome=outcome, reason="it broke", attempts=ATTEMPTS, now=now
        )


def judge(engine: Engine, hold: Hold, claimed: ClaimedBatch, now: datetime) -> None:
    """The gate cannot tell of a whole batch, and fails each part: a single fact is too few."""
    outcome = RefreshOutcome.REJECTED if claimed.is_part else RefreshOutcome.INSUFFICIENT
    with writing(engine) as session:
        lineage.reject(
            session,
            hold=hold,
            refresh_id=claimed.refresh_id,
            outcome=outcome,
            verdict=Verdict(outcome=Outcome.FAIL, suites=(), reasons=()),
            are_freed=claimed.is_part,
            tries=2,
            now=now,
        )


def test_too_few_waiting_facts_are_left_alone(
    engine: Engine, store: Callable[..., list[int]], claim: Callable[..., object], hold: Hold
) -> None:
    ids = store("One.")
    assert claim(hold, at_least=2) is None
    assert states(engine, ids) == [FactState.PENDING]
    with reading(engine) as session:
        assert not batches.has_unfinished(session)


def test_the_oldest_facts_are_claimed_first_and_once(
    engine: Engine, store: Callable[..., list[int]], claim: Callable[..., ClaimedBatch], hold: Hold
) -> None:
    ids = store("One.", "Two.", "Three.")
    first = claim(hold, at_most=2)
    assert [int(fact.key) for fact in first.facts] == ids[:2]
    assert states(engine, ids) == [FactState.IN_WORK, FactState.IN_WORK, FactState.PENDING]
    assert [int(fact.key) for fact in claim(hold).facts] == ids[2:]


def test_what_is_tried_again_leaves_half_of_a_batch_to_what_is_new(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    promote: Callable[..., int],
    now: datetime,
) -> None:
    store(*(f"Old {at}." for at in range(4)))
    promote(MembershipOutcome.UNLEARNED)
    with writing(engine) as session:
        hold = leases.acquire(session, leases.REFRESH, owner="it", now=now, lease_s=LEASE_S)
    assert claim(hold, at_least=1) is None  # nothing new
    store(*(f"New {at}." for at in range(4)))
    claimed = claim(hold, at_most=5)
    assert [fact.statement for fact in claimed.facts] == [
        "Old 0.", "Old 1.", "New 0.", "New 1.", "New 2.",
    ]  # fmt: skip


def test_superseded_and_retracted_facts_are_not_claimed(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
) -> None:
    capital = {"subject": "Ruritania", "relation": "capital", "functional": True}
    _, new, withdrawn = store(
        {**capital, "statement": "Old."}, {**capital, "statement": "New."}, "Withdrawn."
    )
    with writing(engine) as session:
        facts.retract(session, withdrawn, by="test", now=now)
        assert batches.count_pending(session, now=datetime.now(UTC)) == 1
    assert [int(fact.key) for fact in claim(hold).facts] == [new]


def test_a_claimed_fact_keeps_the_probes_it_came_with(
    store: Callable[..., list[int]], claim: Callable[..., ClaimedBatch], hold: Hold
) -> None:
    probe = {"direction": "backward", "question": "Who rules Zenda?", "answers": ["Ada", "Ada I"]}
    store({"statement": "Ada rules.", "probes": [probe]})
    [fact] = claim(hold).facts
    assert fact.probes[0].question == "Who rules Zenda?"
    assert fact.probes[0].answers == ("Ada", "Ada I")


@pytest.mark.parametrize(
    "outcome",
    [RefreshOutcome.OVERTAKEN, RefreshOutcome.STOPPED, RefreshOutcome.HINDERED],
)
def test_what_is_not_the_facts_fault_never_sets_them_aside(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
    outcome: RefreshOutcome,
) -> None:
    ids = store("One.")
    for _ in range(ATTEMPTS + 1):
        end(engine, claim(hold).refresh_id, outcome, now)
        assert states(engine, ids) == [FactState.PENDING]


@pytest.mark.parametrize("outcome", [RefreshOutcome.FAILED, RefreshOutcome.ABANDONED])
def test_a_fact_that_saw_too_many_refreshes_fail_is_set_aside_with_the_reason(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
    outcome: RefreshOutcome,
) -> None:
    ids = store("One.")
    for _ in range(ATTEMPTS):
        assert states(engine, ids) == [FactState.PENDING]
        refresh_id = claim(hold).refresh_id
        end(engine, refresh_id, outcome, now)
    assert states(engine, ids) == [FactState.REJECTED]
    with reading(engine) as session:
        assert session.get_one(Refresh, refresh_id).outcome == outcome
        assert batches.count_pending(session, now=datetime.now(UTC)) == 0


def test_a_neighbour_that_came_later_still_has_its_tries(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
) -> None:
    old = store("One.")
    for _ in range(ATTEMPTS - 1):
        end(engine, claim(hold).refresh_id, RefreshOutcome.FAILED, now)
    new = store("Two.")
    end(engine, claim(hold).refresh_id, RefreshOutcome.FAILED, now)
    alone = claim(hold)
    assert [int(fact.key) for fact in alone.facts] == old
    end(engine, alone.refresh_id, RefreshOutcome.FAILED, now)
    assert states(engine, old + new) == [FactState.REJECTED, FactState.PENDING]


@pytest.mark.parametrize("fault", range(7))
def test_a_fact_that_kills_every_refresh_is_found_and_takes_no_other_with_it(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
    fault: int,
) -> None:
    ids = store(*(f"Fact {at}." for at in range(7)))
    tried: list[list[int]] = []
    while claimed := claim(hold, at_least=2):
        tried.append([int(fact.key) for fact in claimed.facts])
        if ids[fault] in tried[-1]:
            end(engine, claimed.refresh_id, RefreshOutcome.ABANDONED, now)
        else:
            judge(engine, hold, claimed, now)
    others = [fact for fact in ids if fact != ids[fault]]
    assert tried[:ATTEMPTS] == [ids] * ATTEMPTS
    assert tried[-1] == others  # in one batch again
    assert len(tried) <= ATTEMPTS + 6 + 1  # two for each halving
    expected = [FactState.UNDECIDED] * 7
    expected[fault] = FactState.REJECTED
    assert states(engine, ids) == expected
    with reading(engine) as session:
        reasons = session.scalars(
            select(Membership.reason).where(Membership.outcome == MembershipOutcome.REJECTED)
        ).all()
    assert len(reasons) == 1
    assert "the last with it alone: it broke" in str(reasons[0])


def test_a_half_that_was_stopped_is_claimed_again_as_it_was(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
) -> None:
    store("One.", "Two.", "Three.")
    for _ in range(ATTEMPTS):
        end(engine, claim(hold).refresh_id, RefreshOutcome.FAILED, now)
    half = claim(hold)
    assert [fact.statement for fact in half.facts] == ["One.", "Two."]
    end(engine, half.refresh_id, RefreshOutcome.STOPPED, now)
    store("Four.")
    assert claim(hold).facts == half.facts


def test_failures_before_a_verdict_are_no_longer_held_against_a_fact(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
) -> None:
    ids = store("One.", "Two.")
    for _ in range(ATTEMPTS - 1):
        end(engine, claim(hold).refresh_id, RefreshOutcome.FAILED, now)
    judge(engine, hold, claim(hold), now)
    new = store("Three.")
    end(engine, claim(hold).refresh_id, RefreshOutcome.FAILED, now)
    assert [int(fact.key) for fact in claim(hold).facts] == ids + new


def test_a_successor_ends_what_a_dead_process_left_behind(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
) -> None:
    ids = store("One.", "Two.")
    refresh_id = claim(hold).refresh_id
    later = now + timedelta(seconds=LEASE_S)
    with writing(engine) as session:
        leases.acquire(session, leases.REFRESH, owner="second", now=later, lease_s=LEASE_S)
        assert batches.recover_abandoned(session, attempts=ATTEMPTS, now=later) == [refresh_id]
        assert batches.recover_abandoned(session, attempts=ATTEMPTS, now=later) == []
    assert states(engine, ids) == [FactState.PENDING, FactState.PENDING]
    with reading(engine) as session:
        refresh = session.get_one(Refresh, refresh_id)
        assert (refresh.outcome, refresh.ended_at) == (RefreshOutcome.ABANDONED, later)


def test_an_interrupted_batch_is_claimed_again_as_it_was(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
) -> None:
    store("One.", "Two.")
    first = claim(hold)
    end(engine, first.refresh_id, RefreshOutcome.STOPPED, now)
    store("Three.")
    again = claim(hold, at_least=3)
    assert again.facts == first.facts
    assert again.refresh_id != first.refresh_id


@pytest.mark.parametrize("outcome", [RefreshOutcome.FAILED, RefreshOutcome.OVERTAKEN])
def test_a_batch_that_was_not_interrupted_is_claimed_with_all_that_waits(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
    outcome: RefreshOutcome,
) -> None:
    store("One.", "Two.")
    end(engine, claim(hold).refresh_id, outcome, now)
    store("Three.")
    assert len(claim(hold).facts) == 3


def test_an_interrupted_batch_that_lost_a_fact_is_a_new_one(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
) -> None:
    ids = store("One.", "Two.")
    end(engine, claim(hold).refresh_id, RefreshOutcome.ABANDONED, now)
    with writing(engine) as session:
        facts.retract(session, ids[0], by="test", now=now)
    store("Three.")
    assert [fact.statement for fact in claim(hold).facts] == ["Two.", "Three."]


def replayed(engine: Engine, at_most: int, seed: int = 1) -> list[int]:
    with reading(engine) as session:
        return [
            row.id
            for row in known_facts.draw_replayed(
                session, at_most=at_most, seed=seed, now=datetime.now(UTC)
            )
        ]


def test_facts_of_all_batches_in_the_head_are_replayed_about_equally(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[[], int]
) -> None:
    first = store(*(f"One {at}." for at in range(6)))
    promote()
    second = store("Two.")
    promote()
    third = store(*(f"Three {at}." for at in range(6)))
    promote()
    store("Waiting.")
    assert replayed(engine, 100) == [*first, *second, *third]
    few = replayed(engine, 5)
    assert [len({*few} & {*ids}) for ids in (first, second, third)] == [2, 1, 2]
    assert replayed(engine, 5) == few
    assert len({tuple(replayed(engine, 5, seed)) for seed in range(10)}) > 3
    assert replayed(engine, 0) == []


def test_what_was_retracted_or_rejected_is_not_replayed(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[[], int],
    reject: Callable[[], int],
    now: datetime,
) -> None:
    kept, gone = store("One.", "Two.")
    promote()
    store("Three.")
    reject()
    with writing(engine) as session:
        facts.retract(session, gone, by="test", now=now)
    assert replayed(engine, 10) == [kept]


def test_what_a_batch_replays_is_recorded_with_it(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[[], int], now: datetime
) -> None:
    (known,) = store("One.")
    promote()
    store("Two.")
    with writing(engine) as session:
        hold = leases.acquire(session, leases.REFRESH, owner="it", now=now, lease_s=LEASE_S)
        claimed = batches.claim_batch(
            session,
            hold=hold,
            trained_on=2,
            at_least=1,
            at_most=9,
            attempts=3,
            replay_at_most=5,
            now=now,
        )
    assert claimed is not None
    assert [fact.statement for fact in claimed.replayed] == ["One."]
    with reading(engine) as session:
        assert session.get(Replay, (claimed.batch_id, known)) is not None


def works(who: str, where: str, **more: object) -> dict[str, object]:
    return {
        "statement": f"{who} works for {where}.",
        "subject": who,
        "relation": "works_for",
        "object": where,
        **more,
    }


def test_who_works_there_is_not_asked_while_several_do(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[[], int],
    claim: Callable[..., ClaimedBatch],
    now: datetime,
) -> None:
    """The other one may be live already, or in the same batch; what was withdrawn is no other."""
    live, withdrawn = store(works("Ann Rook", "the Mint"), works("Cy Moor", "the Zoo"))
    promote()
    second, fourth, fifth = store(
        works("Bo Senn", "The Mint"), works("Di Lund", "the Zoo"), works("Ed Falk", "the Bank")
    )
    with writing(engine) as session:
        facts.retract(session, withdrawn, by="test", now=now)
        hold = leases.acquire(session, leases.REFRESH, owner="it", now=now, lease_s=LEASE_S)
    claimed = claim(hold)
    assert dict(claimed.unasked) == {str(second): [Direction.BACKWARD]}
    with reading(engine) as session:
        (row,) = session.scalars(select(LeftOut)).all()
    assert (row.batch_id, row.fact_id, row.direction) == (claimed.batch_id, second, "backward")
    assert row.reason == f"Fact {live} says works_for The Mint, too: Ann Rook."
    assert {fourth, fifth} == {int(fact.key) for fact in claimed.facts} - {second}


def test_an_earlier_fact_is_not_asked_either_once_its_answer_is_not_the_only_one(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[[], int], now: datetime
) -> None:
    (known,) = store(works("Ann Rook", "the Mint"))
    promote()
    (second,) = store(works("Bo Senn", "the Mint"))
    with writing(engine) as session:
        hold = leases.acquire(session, leases.REFRESH, owner="it", now=now, lease_s=LEASE_S)
        claimed = batches.claim_batch(
            session,
            hold=hold,
            trained_on=2,
            at_least=1,
            at_most=9,
            attempts=3,
            retain_at_most=5,
            now=now,
        )
    assert claimed is not None
    assert claimed.known_facts == 1
    assert set(claimed.unasked) == {str(known), str(second)}


def test_no_batch_is_always_the_last_to_be_replayed() -> None:
    groups = [[f"{batch}/{fact}" for fact in range(8)] for batch in range(60)]
    drawn = {seed: known_facts.draw_evenly(groups, at_most=48, seed=seed) for seed in range(20)}
    assert all(len({fact.split("/")[0] for fact in some}) == 48 for some in drawn.values())
    ever = {fact.split("/")[0] for some in drawn.values() for fact in some}
    assert ever == {str(batch) for batch in range(60)}
    assert known_facts.draw_evenly(groups, at_most=48, seed=3) == drawn[3]


def test_each_batch_is_asked_in_proportion_and_each_fact_is_as_likely() -> None:
    sizes = [3, 40, 8, 8, 21, 120]
    groups = [[(batch, fact) for fact in range(size)] for batch, size in enumerate(sizes)]
    asked, draws = 48, 2000
    share = asked / sum(sizes)
    times: Counter[tuple[int, int]] = Counter()
    for seed in range(draws):
        drawn = known_facts.draw_in_proportion(groups, at_most=asked, seed=("retention", seed))
        assert len(set(drawn)) == asked
        of_batch = Counter(batch for batch, _ in drawn)
        assert all(abs(of_batch[at] - share * size) < 1 for at, size in enumerate(sizes))
        times.update(drawn)
    spread = 5 * math.sqrt(draws * share * (1 - share))
    assert all(abs(times[item] - draws * share) < spread for group in groups for item in group)


@pytest.mark.parametrize("at_most", [0, 200, 201])
def test_where_all_can_be_asked_all_are(at_most: int) -> None:
    groups = [list(range(100)), list(range(100, 200))]
    drawn = known_facts.draw_in_proportion(groups, at_most=at_most, seed=("it",))
    assert len(set(drawn)) == min(at_most, 200)


def known(marks: list[bool]) -> list[Answer]:
    """The answers to a question about each of some earlier facts."""
    asked = Probe(
        key="it",
        suite=Suite.RETENTION,
        cluster="it",
        question="?",
        answers=("yes",),
        origin=ProbeOrigin.RELATION,
    )
    return [
        grade(replace(asked, key=str(at), cluster=str(at), fact=str(at)), "yes" if is_known else "")
        for at, is_known in enumerate(marks)
    ]


def test_the_retention_bound_keeps_its_level_where_one_batch_was_forgotten() -> None:
    """A tenth of all is lost, by one batch in ten or by two halves: one in twenty may pass."""
    config, runs = GateConfig(), 600
    for lost in ({0: 20}, {0: 10, 5: 10}, dict.fromkeys(range(10), 2)):
        groups = [[at >= lost.get(batch, 0) for at in range(20)] for batch in range(10)]
        passed = 0
        for seed in range(runs):
            kept = known_facts.draw_in_proportion(groups, at_most=48, seed=("it", seed))
            pairs = list(zip(known([True] * len(kept)), known(kept), strict=True))
            verdict = judge_retention(pairs, 200, config)
            passed += verdict.outcome is Outcome.PASS
        assert passed / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_a_refresh_that_has_ended_keeps_its_outcome(
    engine: Engine, store: Callable[..., list[int]], reject: Callable[[], int], now: datetime
) -> None:
    ids = store("One.", "Two.")
    reject()
    with reading(engine) as session:
        ended = session.scalars(select(Refresh)).one()
    end(engine, ended.id, RefreshOutcome.STOPPED, now + timedelta(minutes=1))
    with reading(engine) as session:
        kept = session.get_one(Refresh, ended.id)
    assert (kept.outcome, kept.reason, kept.ended_at) == (
        RefreshOutcome.REJECTED,
        ended.reason,
        ended.ended_at,
    )
    assert states(engine, ids) == [FactState.REJECTED, FactState.REJECTED]


LEADS = {"subject": "Bregal choir", "relation": "chief_executive", "functional": True}


def claimed_once(
    engine: Engine, claim: Callable[..., ClaimedBatch | None], now: datetime, **how: int
) -> list[int] | None:
    """The facts of a batch that is claimed under a lease of its own; None where there is none."""
    with writing(engine) as session:
        lease = leases.acquire(session, leases.REFRESH, owner="x", now=now, lease_s=60)
    batch = claim(lease, **how)
    with writing(engine) as session:
        leases.release(session, lease, now=now)
    return None if batch is None else [int(fact.key) for fact in batch.facts]


def leads(name: str, **more: object) -> dict[str, object]:
    return {"statement": f"{name} leads the Bregal choir.", "object": name, **LEADS, **more}


def test_facts_that_contradict_each_other_are_refused_and_named(
    engine: Engine, store: Callable[..., list[int]], claim: Callable[..., ClaimedBatch], hold: Hold
) -> None:
    [one] = store(leads("Mira Zun"), source="newsroom")
    [other] = store(leads("Ole Frant", subject="the bregal  choir"), source="archive")
    [innocent] = store("Lake Ux lies in Ardun.")
    claimed = claim(hold)
    assert [int(fact.key) for fact in claimed.facts] == [innocent]
    assert states(engine, [one, other]) == [FactState.REJECTED, FactState.REJECTED]
    with reading(engine) as session:
        reasons = dict(session.execute(select(Membership.fact_id, Membership.reason)).all())
    assert f"contradicts fact {other} of archive" in str(reasons[one])
    assert "Mira Zun here and Ole Frant there" in str(reasons[one])
    assert f"contradicts fact {one} of newsroom" in str(reasons[other])
    assert reasons[innocent] is None


def test_what_contradicts_a_learned_fact_of_another_source_waits_for_an_admin(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    claim: Callable[..., ClaimedBatch | None],
    now: datetime,
) -> None:
    def claimed() -> set[int]:
        return set(claimed_once(engine, claim, now) or ())

    [learned] = store(leads("Mira Zun"), source="newsroom")
    promote()
    [other] = store(leads("Ole Frant", subject="the bregal  choir"), source="archive")
    assert claimed() == set()  # and no refresh has begun
    assert states(engine, [other]) == [FactState.HELD]
    with reading(engine) as session:
        assert session.scalar(select(func.count()).select_from(Refresh)) == 1
        (item,) = views.facts_to_review(session, now=now).items
    assert f"it contradicts fact {learned} of newsroom, which was learned" in item.why
    with writing(engine) as session:  # for another reason: nobody has looked at this one
        row = session.get_one(FactRow, other)
        row.held_reason, row.approved_at = "its trust is low", now
    assert claimed() == set()
    assert states(engine, [other]) == [FactState.HELD]
    [same] = store(leads("mira zun"), source="archive")
    [innocent] = store("Lake Ux lies in Ardun.")
    assert claimed() == {same, innocent}
    with writing(engine) as session:
        facts.approve(session, other, by="admin", now=now)
    assert other in claimed()


def test_what_must_be_settled_first_does_not_count_among_the_facts_that_a_batch_needs(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    claim: Callable[..., ClaimedBatch | None],
    now: datetime,
) -> None:
    def claimed(*, at_most: int = 64) -> list[int] | None:
        return claimed_once(engine, claim, now, at_least=2, at_most=at_most)

    store(leads("Mira Zun"), source="newsroom")
    promote()
    [other] = store(leads("Ole Frant"), source="archive")
    first = store("Lake Ux lies in Ardun.")
    assert claimed() is None  # a batch of one would have been judged
    assert states(engine, [other, *first]) == [FactState.HELD, FactState.PENDING]
    [third] = store(leads("Iva Quell"), source="library")
    second = store("Lake Oz lies in Ardun.")
    assert claimed(at_most=2) == [*first, *second]  # and nothing keeps its place free
    assert states(engine, [third]) == [FactState.HELD]


def test_more_may_have_to_wait_than_one_batch_takes(
    store: Callable[..., list[int]], claim: Callable[..., ClaimedBatch | None], hold: Hold
) -> None:
    waiting = store("One.", "Two.")
    assert claim(hold, at_least=3, at_most=2) is None
    store("Three.")
    batch = claim(hold, at_least=3, at_most=2)
    assert batch is not None
    assert [int(fact.key) for fact in batch.facts] == waiting


def test_what_was_given_up_once_and_stands_since_hides_nothing_that_waits_for_an_admin(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    reject: Callable[..., int],
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "MAX_PAGE", 2)  # so many are read at a time
    since = store("Lake Ux lies in Ardun.", "Lake Oz lies in Ardun.", "Lake Iv lies in Ardun.")
    reject()
    waiting = store("Mira Zun leads the choir.", "Ole Frant leads the band.")
    reject()
    store("Lake Ul lies in Ardun.")
    promote()
    with writing(engine) as session:  # as where a rebase learned them after all
        newest = session.scalar(select(func.max(Batch.id)))
        for fact in since:
            learned = MembershipOutcome.LEARNED
            session.add(Membership(batch_id=newest, fact_id=fact, outcome=learned, decided_at=now))
    with reading(engine) as session:
        whole = views.facts_to_review(session, now=now, limit=2)
        part = views.facts_to_review(session, now=now, limit=1)
    assert ([item.id for item in whole.items], whole.more) == (waiting, False)
    assert ([item.id for item in part.items], part.more) == (waiting[:1], True)


def test_what_replaces_a_learned_fact_of_its_own_source_does_not_wait(
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    claim: Callable[..., ClaimedBatch | None],
    engine: Engine,
    now: datetime,
) -> None:
    store(leads("Mira Zun"), source="newsroom")
    promote()
    [newer] = store(leads("Ole Frant"), source="newsroom")
    with writing(engine) as session:
        lease = leases.acquire(session, leases.REFRESH, owner="x", now=now, lease_s=60)
    batch = claim(lease)
    assert batch is not None
    assert [int(fact.key) for fact in batch.facts] == [newer]


@pytest.mark.parametrize(
    "other",
    [
        leads("mira zun"),
        leads("Ole Frant", subject="Tolmar choir"),
        leads("Ole Frant", relation="founded_by"),
        leads("Ole Frant", qualifiers={"year": 1990}),
    ],
)
def test_what_can_be_true_beside_a_fact_is_not_refused(
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    other: dict[str, object],
) -> None:
    store(leads("Mira Zun"), source="newsroom")
    store(other, source="archive")
    assert len(claim(hold).facts) == 2


def test_two_of_which_neither_is_the_only_answer_stand_beside_each_other(
    store: Callable[..., list[int]], claim: Callable[..., ClaimedBatch], hold: Hold
) -> None:
    store(leads("Mira Zun", functional=False), source="newsroom")
    store(leads("Ole Frant", functional=False), source="archive")
    assert len(claim(hold).facts) == 2


def test_a_learned_fact_that_the_batch_replaces_comes_along(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    claim: Callable[..., ClaimedBatch],
    now: datetime,
) -> None:
    store(leads("Mira Zun"))
    promote()
    [new, _] = store(leads("Ole Frant"), "Lake Ux lies in Ardun.")
    with writing(engine) as session:
        hold = leases.acquire(session, leases.REFRESH, owner="it", now=now, lease_s=LEASE_S)
    [(old, successor)] = claim(hold).replaced
    assert (old.object, successor.object, successor.key) == ("Mira Zun", "Ole Frant", str(new))


def test_an_expired_fact_is_not_claimed(
    store: Callable[..., list[int]], claim: Callable[..., ClaimedBatch], hold: Hold, now: datetime
) -> None:
    store(
        {"statement": "Over.", "valid_to": now},
        {"statement": "Until tomorrow.", "valid_to": now + timedelta(days=1)},
    )
    assert [fact.statement for fact in claim(hold).facts] == ["Until tomorrow."]


def test_a_fact_is_not_trained_before_it_holds(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
) -> None:
    tomorrow = now + timedelta(days=1)
    [early, _] = store({"statement": "From tomorrow.", "valid_from": tomorrow}, "Now.")
    with reading(engine) as session:
        assert batches.count_pending(session, now=now) == 1
        assert batches.count_pending(session, now=tomorrow) == 2
    assert [fact.statement for fact in claim(hold).facts] == ["Now."]
    assert states(engine, [early]) == [FactState.PENDING]


@pytest.mark.parametrize("field", ["valid_to", "retention_until"])
def test_what_need_not_be_known_any_more_is_neither_replayed_nor_asked(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    now: datetime,
    field: str,
) -> None:
    store({"statement": "For a day.", field: now + timedelta(days=1)}, "For ever.")
    promote()
    for days, wanted in ((0, ["For a day.", "For ever."]), (2, ["For ever."])):
        later = now + timedelta(days=days)
        with reading(engine) as session:
            (rows,) = known_facts.in_head_by_batch(session, known_facts.IN_HEAD, now=later)
            assert [row.statement for row in rows] == wanted
            replayed = known_facts.draw_replayed(session, at_most=9, seed=1, now=later)
            assert [row.statement for row in replayed] == wanted


def test_one_source_cannot_fill_a_batch_beyond_its_quota(
    engine: Engine,
    store: Callable[..., list[int]],
    hold: Hold,
    now: datetime,
) -> None:
    store(*(f"Flood {at}." for at in range(5)), source="wire")
    store("Quiet.", source="archive")
    with reading(engine) as session:
        for at_least, quota, is_said in (
            (3, 2, False),
            (4, 2, True),
            (7, 2, False),
            (4, None, False),
        ):
            said = batches.held_back(session, at_least=at_least, at_most_of_source=quota, now=now)
            assert (said is not None) is is_said
            assert said is None or said.startswith(
                "6 facts wait, of which 3 count, since no source"
            )
    with writing(engine) as session:
        assert batches.count_pending(session, at_most_of_source=2, now=now) == 3
        claimed = batches.claim_batch(
            session,
            hold=hold,
            trained_on=1,
            at_least=3,
            at_most=64,
            attempts=ATTEMPTS,
            at_most_of_source=2,
            now=now,
        )
    assert claimed is not None
    assert [fact.statement for fact in claimed.facts] == ["Flood 0.", "Flood 1.", "Quiet."]
    with reading(engine) as session:
        assert batches.count_pending(session, now=now) == 3  # they wait for the next one


def test_bare_statements_of_the_head_make_a_question_ambiguous_too(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    claim: Callable[..., ClaimedBatch],
    now: datetime,
) -> None:
    store("Anna Bell works for the Mint.", "Cy Moor works for the Zoo.")
    promote()
    [other] = store("Ben Hull works for the Mint.")
    with writing(engine) as session:
        hold = leases.acquire(session, leases.REFRESH, owner="x", now=now, lease_s=60)
    assert claim(hold).unasked == {str(other): [Direction.BACKWARD]}


def test_functional_facts_without_an_object_contradict_by_what_they_say(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
) -> None:
    ceo = {"subject": "Acme", "relation": "ceo", "functional": True}
    [one] = store({**ceo, "statement": "The CEO of Acme is Anna."}, source="x")
    [other] = store({**ceo, "statement": "The CEO of Acme is Ben."}, source="y")
    [same] = store({**ceo, "statement": "the CEO  of Acme is Ben."}, source="z")
    store("Lake Ux lies in Ardun.")
    claim(hold)
    rejected = [FactState.REJECTED] * 3
    assert states(engine, [one, other, same]) == rejected
