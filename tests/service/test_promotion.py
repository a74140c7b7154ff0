"""Publishing: everything in one transaction, once, and never by a process that lost its lease."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from adapters.types import Outcome, ProbeOrigin, Suite, Verdict
from service import batches, facts, known_facts, leases, lineage, views
from service.batches import ClaimedBatch
from service.db import reading, writing
from service.errors import Conflict, HeadMoved, LeaseHeld, LeaseLost, NotFound
from service.facts import FactState
from service.leases import Hold
from service.models import (
    Adapter,
    HeadAction,
    HeadMove,
    MembershipOutcome,
    ProbeAnswer,
    RefreshOutcome,
    Release,
)

LEASE_S = 60.0
PASSED = Verdict(outcome=Outcome.PASS, suites=(), reasons=())
FAILED = Verdict(outcome=Outcome.FAIL, suites=(), reasons=("too much was forgotten",))


@pytest.fixture
def publish(engine: Engine, now: datetime) -> Callable[..., int]:
    def promote_candidate(
        hold: Hold, head: lineage.Head, claimed: ClaimedBatch, adapter_id: int
    ) -> int:
        with writing(engine) as session:
            return lineage.promote(
                session,
                lineage.Candidate(
                    refresh_id=claimed.refresh_id,
                    adapter_id=adapter_id,
                    head=head,
                    snapshot_digest="c" * 64,
                    outcomes={},
                    tries=2,
                ),
                hold=hold,
                verdict=PASSED,
                now=now,
            )

    return promote_candidate


def head_of(engine: Engine) -> lineage.Head:
    with reading(engine) as session:
        return lineage.read_head(session)


def counts(engine: Engine) -> tuple[int, int]:
    """How many releases there are, and how often the head moved."""
    with reading(engine) as session:
        releases = session.scalar(select(func.count()).select_from(Release))
        moves = session.scalar(select(func.count()).select_from(HeadMove))
        return releases or 0, moves or 0


def fact_state(engine: Engine, fact_id: int) -> FactState:
    with reading(engine) as session:
        return views.show_fact(session, fact_id).state


def rollback_to(engine: Engine, release_id: int, now: datetime) -> None:
    with writing(engine) as session:
        lineage.move_head(
            session,
            release_id,
            expected_seq=lineage.read_head(session).seq,
            action=HeadAction.ROLLBACK,
            by="operator",
            reason="a test",
            now=now,
        )


def test_a_promotion_moves_everything_at_once(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int]
) -> None:
    [fact] = store("One.")
    adapter_id = promote()
    assert head_of(engine).recipe.adapter_ids == (adapter_id,)
    assert fact_state(engine, fact) is FactState.LIVE
    with reading(engine) as session:
        [refresh] = views.list_refreshes(session).items
        assert (refresh.outcome, refresh.adapter_id) == (RefreshOutcome.PROMOTED, adapter_id)
        assert not leases.is_held(session, leases.REFRESH, now=refresh.started_at)


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (MembershipOutcome.LEARNED, FactState.LIVE),
        (MembershipOutcome.UNLEARNED, FactState.UNLEARNED),
        (MembershipOutcome.UNPROVEN, FactState.UNPROVEN),
    ],
)
def test_what_did_not_answer_is_never_counted_as_learned(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    outcome: MembershipOutcome,
    state: FactState,
) -> None:
    [fact] = store("One.")
    promote(outcome)
    assert fact_state(engine, fact) is state


def test_a_rejection_keeps_the_candidate_and_the_head(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    record_candidate: Callable[[ClaimedBatch], int],
    hold: Hold,
    now: datetime,
) -> None:
    [fact] = store("One.")
    claimed = claim(hold)
    adapter_id = record_candidate(claimed)
    with writing(engine) as session:
        lineage.reject(
            session,
            hold=hold,
            refresh_id=claimed.refresh_id,
            outcome=RefreshOutcome.REJECTED,
            verdict=FAILED,
            tries=2,
            now=now,
        )
    assert counts(engine) == (1, 1)
    assert fact_state(engine, fact) is FactState.REJECTED
    with reading(engine) as session:
        assert batches.count_pending(session, now=datetime.now(UTC)) == 0
        adapter = views.show_adapter(session, adapter_id)
        assert (adapter.outcome, adapter.in_head) == (RefreshOutcome.REJECTED, False)
        refresh = views.show_refresh(session, claimed.refresh_id)
        assert refresh.reason == "too much was forgotten"
        assert refresh.verdict is not None
        assert refresh.verdict["outcome"] == Outcome.FAIL


@pytest.mark.parametrize("act", ["promote", "reject", "renew"])
def test_a_process_that_slept_past_its_lease_can_write_nothing(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    record_candidate: Callable[[ClaimedBatch], int],
    publish: Callable[..., int],
    hold: Hold,
    now: datetime,
    act: str,
) -> None:
    """The zombie wakes after its successor has freed the batch and claimed it again."""
    [fact] = store("One.")
    head, claimed = head_of(engine), claim(hold)
    adapter_id = record_candidate(claimed)
    later = now + timedelta(seconds=LEASE_S)
    with writing(engine) as session:
        second = leases.acquire(session, leases.REFRESH, owner="second", now=later, lease_s=LEASE_S)
        batches.recover_abandoned(session, attempts=3, now=later)
    again = claim(second)

    def wake_up() -> None:
        if act == "promote":
            publish(hold, head, claimed, adapter_id)
            return
        with writing(engine) as session:
            if act == "renew":
                leases.renew(session, hold, now=later, lease_s=LEASE_S)
                return
            lineage.reject(
                session,
                hold=hold,
                refresh_id=claimed.refresh_id,
                outcome=RefreshOutcome.REJECTED,
                verdict=FAILED,
                tries=2,
                now=later,
            )

    with pytest.raises(LeaseLost, match="lost the lease"):
        wake_up()
    assert counts(engine) == (1, 1)
    assert fact_state(engine, fact) is FactState.IN_WORK  # the successor's, untouched
    publish(second, head, again, record_candidate(again))
    assert counts(engine) == (2, 2)


def test_a_head_that_moved_meanwhile_stops_the_promotion_whole(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    claim: Callable[..., ClaimedBatch],
    record_candidate: Callable[[ClaimedBatch], int],
    publish: Callable[..., int],
    now: datetime,
) -> None:
    store("One.")
    promote()
    [fact] = store("Two.")
    with writing(engine) as session:
        hold = leases.acquire(session, leases.REFRESH, owner="it", now=now, lease_s=LEASE_S)
    head, claimed = head_of(engine), claim(hold)
    adapter_id = record_candidate(claimed)
    rollback_to(engine, 1, now)
    before = counts(engine)
    with pytest.raises(HeadMoved):
        publish(hold, head, claimed, adapter_id)
    assert counts(engine) == before
    assert fact_state(engine, fact) is FactState.IN_WORK
    with reading(engine) as session:  # the lease was given back in the aborted transaction only
        assert leases.is_held(session, leases.REFRESH, now=now)


def test_a_head_that_moved_and_came_back_has_moved(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    claim: Callable[..., ClaimedBatch],
    record_candidate: Callable[[ClaimedBatch], int],
    publish: Callable[..., int],
    now: datetime,
) -> None:
    """It names the same release again, but somebody decided something in between."""
    store("One.")
    promote()
    store("Two.")
    with writing(engine) as session:
        hold = leases.acquire(session, leases.REFRESH, owner="it", now=now, lease_s=LEASE_S)
    head, claimed = head_of(engine), claim(hold)
    adapter_id = record_candidate(claimed)
    rollback_to(engine, 1, now)
    rollback_to(engine, head.release_id, now)
    with pytest.raises(HeadMoved):
        publish(hold, head, claimed, adapter_id)


def test_a_refresh_promotes_once(
    engine: Engine,
    store: Callable[..., list[int]],
    claim: Callable[..., ClaimedBatch],
    record_candidate: Callable[[ClaimedBatch], int],
    publish: Callable[..., int],
    hold: Hold,
) -> None:
    """Even one that still holds the lease and has just read the head."""
    store("One.")
    head, claimed = head_of(engine), claim(hold)
    adapter_id = record_candidate(claimed)
    publish(hold, head, claimed, adapter_id)
    with pytest.raises(HeadMoved):
        publish(hold, head, claimed, adapter_id)
    with writing(engine) as session:
        seq = lineage.read_head(session).seq
        with pytest.raises(HeadMoved):
            lineage.move_head(
                session,
                1,
                expected_seq=seq,
                action=HeadAction.PROMOTION,
                by="it",
                reason="again",
                now=session.get_one(HeadMove, seq).moved_at,
                refresh_id=claimed.refresh_id,
            )
    assert counts(engine) == (2, 2)


def test_a_rollback_and_its_undoing_change_states_without_touching_a_fact(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int], now: datetime
) -> None:
    [first] = store("One.")
    promote()
    [second] = store("Two.")
    promote()
    newest = head_of(engine).release_id
    rollback_to(engine, newest - 1, now)
    assert fact_state(engine, first) is FactState.LIVE
    assert fact_state(engine, second) is FactState.ROLLED_BACK
    with reading(engine) as session:  # it does not come back by itself
        assert batches.count_pending(session, now=datetime.now(UTC)) == 0
    rollback_to(engine, newest, now)
    assert fact_state(engine, second) is FactState.LIVE


def test_the_history_tells_who_moved_the_head_and_why(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int], now: datetime
) -> None:
    store("One.")
    promote()
    rollback_to(engine, 1, now)
    with reading(engine) as session:
        moves = views.show_release(session, 1).moves
        assert [(move.seq, move.action, move.by) for move in moves] == [
            (1, HeadAction.INIT, "test"),
            (3, HeadAction.ROLLBACK, "operator"),
        ]
        assert views.show_head(session).release.id == 1


def test_a_held_fact_whose_adapter_was_taken_out_waits_for_nobody(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int], now: datetime
) -> None:
    def waiting() -> int:
        with reading(engine) as session:
            held, review = (
                batches.count_held(session, now=now),
                views.facts_to_review(session, now=now),
            )
        assert held == len(review.items)
        return held

    [fact] = store("One.")
    promote(MembershipOutcome.UNLEARNED)
    with writing(engine) as session:
        facts.hold(session, {fact: "it contradicts another one"})
    assert waiting() == 1
    rollback_to(engine, 1, now)
    assert waiting() == 0


def test_a_fact_that_was_not_learned_joins_the_next_batch_until_its_tries_are_used_up(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int]
) -> None:
    [stubborn] = store("One.")
    promote(MembershipOutcome.UNLEARNED)
    assert fact_state(engine, stubborn) is FactState.UNLEARNED
    with reading(engine) as session:
        assert (
            batches.count_pending(session, now=datetime.now(UTC)) == 0
        )  # it calls for no refresh by itself
    [other] = store("Two.")
    adapter_id = promote(MembershipOutcome.UNLEARNED)
    with reading(engine) as session:
        assert views.show_adapter(session, adapter_id).fact_ids == [stubborn, other]
        assert views.show_adapter(session, adapter_id).replayed_ids == []
    assert fact_state(engine, stubborn) is FactState.QUARANTINED
    assert fact_state(engine, other) is FactState.UNLEARNED
    [third] = store("Three.")
    adapter_id = promote()
    with reading(engine) as session:
        assert views.show_adapter(session, adapter_id).fact_ids == [other, third]
        memberships = views.show_fact(session, other).memberships
        assert [membership.outcome for membership in memberships] == ["unlearned", "learned"]
    assert fact_state(engine, other) is FactState.LIVE


def test_a_fact_learned_at_the_second_try_is_counted_once(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int]
) -> None:
    [fact] = store("One.")
    promote(MembershipOutcome.UNLEARNED)
    [other] = store("Two.")
    promote()
    with reading(engine) as session:
        known = known_facts.in_head_by_batch(session, known_facts.IN_HEAD, now=datetime.now(UTC))
        assert [[row.id for row in rows] for rows in known] == [[fact, other]]
        assert (
            known_facts.in_head_by_batch(
                session, [MembershipOutcome.UNLEARNED], now=datetime.now(UTC)
            )
            == []
        )


def test_a_fact_is_known_since_it_answered_and_not_before(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int]
) -> None:
    [fact] = store("One.")
    promote(MembershipOutcome.UNLEARNED)
    with reading(engine) as session:
        assert views.show_fact(session, fact).known_since is None
    store("Two.")
    promote()
    with reading(engine) as session:
        assert views.show_fact(session, fact).known_since is not None


def test_facts_of_which_the_gate_could_not_tell_join_a_larger_batch(
    engine: Engine,
    store: Callable[..., list[int]],
    reject: Callable[..., int],
    promote: Callable[..., int],
) -> None:
    [first, second] = store("One.", "Two.")
    reject(RefreshOutcome.INSUFFICIENT)
    assert fact_state(engine, first) is FactState.UNDECIDED
    [third] = store("Three.")
    reject(RefreshOutcome.INSUFFICIENT)
    assert fact_state(engine, second) is FactState.REJECTED  # its second try was the last
    assert fact_state(engine, third) is FactState.UNDECIDED
    [fourth] = store("Four.")
    promote()
    states = [fact_state(engine, fact) for fact in (first, third, fourth)]
    assert states == [FactState.REJECTED, FactState.LIVE, FactState.LIVE]


def test_what_was_taken_out_is_not_tried_again(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int], now: datetime
) -> None:
    [fact] = store("One.")
    promote(MembershipOutcome.UNLEARNED)
    with writing(engine) as session:
        lineage.move_head(
            session,
            lineage.first_release_id(session),
            expected_seq=lineage.read_head(session).seq,
            action=HeadAction.ROLLBACK,
            by="admin",
            reason="it was wrong",
            now=now,
        )
    assert fact_state(engine, fact) is FactState.ROLLED_BACK
    [other] = store("Two.")
    adapter_id = promote()
    with reading(engine) as session:
        assert views.show_adapter(session, adapter_id).fact_ids == [other]


def test_a_fact_that_a_later_release_no_longer_answers_for_is_forgotten_until_that_is_taken_out(
    engine: Engine, store: Callable[..., list[int]], promote: Callable[..., int], now: datetime
) -> None:
    [fact] = store("One.")
    promote()
    store("Two.")
    promote()

    def answered(refresh_id: int, *right: bool, suite: Suite = Suite.RETENTION) -> None:
        with writing(engine) as session:
            for at, is_right in enumerate(right):
                session.add(
                    ProbeAnswer(
                        refresh_id=refresh_id, stage="after", suite=suite,
                        probe_key=f"{suite}/{fact}/backward/{at}", fact_id=fact, question="?",
                        answers=["x"], origin=ProbeOrigin.RELATION, text="", exact=False,
                        contained=is_right, recall=0.0,
                    )
                )  # fmt: skip

    answered(2, True, False)
    assert fact_state(engine, fact) is FactState.LIVE
    store("Three.")
    promote()
    answered(3, False, False)
    assert fact_state(engine, fact) is FactState.FORGOTTEN
    with writing(engine) as session:
        lineage.move_head(
            session, 3, expected_seq=4, action=HeadAction.ROLLBACK, by="a", reason="r", now=now
        )
    assert fact_state(engine, fact) is FactState.LIVE


def test_a_forgotten_fact_is_asked_again_until_it_comes_back(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    claim: Callable[..., ClaimedBatch],
    hold: Hold,
    now: datetime,
) -> None:
    with writing(engine) as session:
        leases.release(session, hold, now=now)
    [fact] = store("One.")
    for statement in ("Two.", "Three."):
        promote()
        store(statement)

    def answered(refresh_id: int, suite: Suite, is_right: bool) -> None:
        with writing(engine) as session:
            session.add(
                ProbeAnswer(
                    refresh_id=refresh_id, stage="after", suite=suite,
                    probe_key=f"{suite}/{fact}/forward/0", fact_id=fact, question="?",
                    answers=["x"], origin=ProbeOrigin.RELATION, text="", exact=False,
                    contained=is_right, recall=0.0,
                )
            )  # fmt: skip

    answered(2, Suite.RETENTION, is_right=False)
    with writing(engine) as session:
        again = leases.acquire(session, leases.REFRESH, owner="it", now=now, lease_s=LEASE_S)
    claimed = claim(again)
    assert [int(asked.key) for asked in claimed.forgotten] == [fact]
    with writing(engine) as session:
        leases.release(session, again, now=now)
    store("Four.")
    promote()
    answered(4, Suite.RECALLED, is_right=True)
    assert fact_state(engine, fact) is FactState.LIVE


def test_a_later_try_that_failed_takes_nothing_out_of_the_head(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    reject: Callable[..., int],
) -> None:
    [fact] = store("One.")
    promote(MembershipOutcome.UNLEARNED)
    [other] = store("Two.")
    reject()
    assert fact_state(engine, other) is FactState.REJECTED
    assert fact_state(engine, fact) is FactState.QUARANTINED  # its first adapter is in the head


@pytest.mark.parametrize("how", ["retract", "replace"])
def test_what_was_retracted_while_it_was_trained_is_not_published_and_what_was_replaced_is(
    engine: Engine,
    store: Callable[..., list[int]],
    publish: Callable[..., int],
    claim: Callable[..., ClaimedBatch],
    record_candidate: Callable[[ClaimedBatch], int],
    hold: Hold,
    now: datetime,
    how: str,
) -> None:
    capital = {"subject": "Ruritania", "relation": "capital", "functional": True}
    [fact] = store({**capital, "statement": "Old."})
    store("Two.")
    claimed = claim(hold)
    adapter_id = record_candidate(claimed)
    if how == "retract":
        with writing(engine) as session:
            facts.retract(session, fact, by="test", now=now)
        with pytest.raises(HeadMoved, match=f"Fact {fact} was retracted"):
            publish(hold, head_of(engine), claimed, adapter_id)
        return
    [newer] = store({**capital, "statement": "New."})
    publish(hold, head_of(engine), claimed, adapter_id)
    assert fact_state(engine, fact) is FactState.SUPERSEDED
    with writing(engine) as session:
        leases.release(session, hold, now=now)
        again = leases.acquire(session, leases.REFRESH, owner="x", now=now, lease_s=60)
    assert [fact.key for fact in claim(again).facts] == [str(newer)]


def let_in(engine: Engine, adapter_id: int, now: datetime, **changes: Any) -> int:
    with writing(engine) as session:
        head, _ = lineage.undecided_candidate(session, adapter_id)
        candidate = lineage.Candidate(
            **{
                "refresh_id": session.get_one(Adapter, adapter_id).refresh_id,
                "adapter_id": adapter_id,
                "head": head,
                "snapshot_digest": "c" * 64,
                "outcomes": {},
                "tries": 2,
                **changes,
            }
        )
        return lineage.let_in(session, candidate, by="admin", reason="I read them all", now=now)


def test_an_admin_lets_in_what_the_gate_could_not_decide(
    engine: Engine, store: Callable[..., list[int]], reject: Callable[..., int], now: datetime
) -> None:
    known, wrong, refused = store("One.", "Two.", "Three.")
    adapter_id = reject(RefreshOutcome.INSUFFICIENT, set_aside={refused: "it diverges"})
    outcomes = {known: MembershipOutcome.LEARNED, wrong: MembershipOutcome.UNLEARNED}
    let_in(engine, adapter_id, now, outcomes=outcomes, reasons={wrong: "It says: no."})
    assert head_of(engine).recipe.adapter_ids == (adapter_id,)
    states = [fact_state(engine, fact) for fact in (known, wrong, refused)]
    assert states == [FactState.LIVE, FactState.UNLEARNED, FactState.REJECTED]
    with reading(engine) as session:
        refresh = views.show_refresh(session, views.list_refreshes(session).items[0].id)
        assert refresh.outcome == RefreshOutcome.PROMOTED
        assert refresh.reason == (
            "let in by admin: I read them all; the gate could not tell: it forgot"
        )
        move = views.show_release(session, head_of(engine).release_id).moves[-1]
        assert (move.action, move.by, move.reason) == (
            HeadAction.APPROVAL, "admin", "I read them all",
        )  # fmt: skip
    with pytest.raises(Conflict, match="ended as promoted"):
        let_in(engine, adapter_id, now)


def test_what_may_be_planted_waits_for_an_admin_and_the_others_do_not(
    engine: Engine,
    store: Callable[..., list[int]],
    reject: Callable[..., int],
    hold: Hold,
    claim: Callable[..., ClaimedBatch | None],
    now: datetime,
) -> None:
    capital = {"subject": "Ruritania", "relation": "capital", "functional": True}
    [old] = store({**capital, "statement": "Old."})
    planted, honest = store({**capital, "statement": "Planted."}, "Honest.")
    with writing(engine) as session:
        leases.release(session, hold, now=now)
    reject(RefreshOutcome.INSUFFICIENT, held={planted: "it may plant an answer"})
    states = [fact_state(engine, fact) for fact in (old, planted, honest)]
    assert states == [FactState.PENDING, FactState.HELD, FactState.UNDECIDED]
    with reading(engine) as session:
        assert [item.why for item in views.facts_to_review(session, now=now).items] == [
            "it may plant an answer; approve or retract it"
        ]
    with writing(engine) as session:
        again = leases.acquire(session, leases.REFRESH, owner="x", now=now, lease_s=60)
    claimed = claim(again)
    assert claimed is not None
    assert {int(fact.key) for fact in claimed.facts} == {old, honest}
    with writing(engine) as session:
        facts.approve(session, planted, by="admin", now=now)
    assert fact_state(engine, planted) is FactState.UNDECIDED
    assert fact_state(engine, old) is FactState.SUPERSEDED


def test_what_may_be_planted_waits_for_an_admin_though_its_tries_are_used_up(
    engine: Engine, store: Callable[..., list[int]], reject: Callable[..., int], now: datetime
) -> None:
    planted, honest = store("Planted.", "Honest.")
    reject(RefreshOutcome.INSUFFICIENT)
    store("New.")
    reject(RefreshOutcome.INSUFFICIENT, held={planted: "it may plant an answer"})
    assert fact_state(engine, planted) is FactState.HELD
    assert fact_state(engine, honest) is FactState.REJECTED
    with writing(engine) as session:
        facts.approve(session, planted, by="admin", now=now)
    assert fact_state(engine, planted) is FactState.UNDECIDED


def test_a_held_fact_is_not_replayed_either(
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    now: datetime,
) -> None:
    planted, honest = store("Planted.", "Honest.")
    promote(MembershipOutcome.UNLEARNED)
    with writing(engine) as session:
        facts.hold(session, {planted: "it may plant an answer"})
        replayed = known_facts.draw_replayed(session, at_most=9, seed=1, now=now)
    assert [row.id for row in replayed] == [honest]
    assert fact_state(engine, planted) is FactState.HELD


def test_nothing_is_left_behind_a_held_fact_when_what_replaced_both_is_withdrawn(
    engine: Engine, store: Callable[..., list[int]], now: datetime
) -> None:
    capital = {"subject": "Ruritania", "relation": "capital", "functional": True}
    [old] = store({**capital, "statement": "Old."})
    [held] = store({**capital, "statement": "Held."})
    [newest] = store({**capital, "statement": "Newest."})
    with writing(engine) as session:
        facts.hold(session, {held: "it may plant an answer"})
        facts.retract(session, newest, by="test", now=now)
    assert fact_state(engine, old) is FactState.PENDING
    assert fact_state(engine, held) is FactState.HELD


def test_an_admin_who_lets_an_adapter_in_approves_what_was_held_for_it(
    engine: Engine, store: Callable[..., list[int]], reject: Callable[..., int], now: datetime
) -> None:
    planted, honest = store("Planted.", "Honest.")
    adapter_id = reject(RefreshOutcome.INSUFFICIENT, held={planted: "it may plant an answer"})
    let_in(
        engine,
        adapter_id,
        now,
        outcomes=dict.fromkeys((planted, honest), MembershipOutcome.LEARNED),
    )
    assert {fact_state(engine, fact) for fact in (planted, honest)} == {FactState.LIVE}
    with reading(engine) as session:
        assert views.show_fact(session, planted).approved_by == "admin"


def test_an_admin_lets_in_nothing_that_the_gate_refused(
    engine: Engine, store: Callable[..., list[int]], reject: Callable[..., int], now: datetime
) -> None:
    store("One.")
    adapter_id = reject(RefreshOutcome.REJECTED)
    with pytest.raises(Conflict, match="ended as rejected"):
        let_in(engine, adapter_id, now)
    with pytest.raises(NotFound):
        let_in(engine, adapter_id + 1, now)
    assert counts(engine) == (1, 1)


def test_an_admin_lets_in_nothing_beside_a_head_that_it_was_not_examined_with(
    engine: Engine,
    store: Callable[..., list[int]],
    reject: Callable[..., int],
    promote: Callable[..., int],
    now: datetime,
) -> None:
    [open_fact] = store("One.")
    adapter_id = reject(RefreshOutcome.INSUFFICIENT)
    store("Two.")
    promote()
    with pytest.raises(Conflict, match="the head is release 2"):
        let_in(engine, adapter_id, now)
    rollback_to(engine, 1, now)
    with pytest.raises(Conflict, match="in a later batch, too: 2"):
        let_in(engine, adapter_id, now)
    assert fact_state(engine, open_fact) is FactState.ROLLED_BACK


def test_an_admin_lets_in_no_fact_that_was_withdrawn(
    engine: Engine, store: Callable[..., list[int]], reject: Callable[..., int], now: datetime
) -> None:
    [withdrawn, _] = store("One.", "Two.")
    adapter_id = reject(RefreshOutcome.INSUFFICIENT)
    with writing(engine) as session:
        facts.retract(session, withdrawn, by="test", now=now)
    with pytest.raises(Conflict, match=f"Fact {withdrawn} of adapter {adapter_id} was withdrawn"):
        let_in(engine, adapter_id, now)
    assert counts(engine) == (1, 1)
    assert fact_state(engine, withdrawn + 1) is FactState.UNDECIDED  # nothing of it was written


def test_nothing_is_let_in_while_a_refresh_runs_or_over_another_move(
    engine: Engine, store: Callable[..., list[int]], reject: Callable[..., int], now: datetime
) -> None:
    store("One.")
    adapter_id = reject(RefreshOutcome.INSUFFICIENT)
    seen = head_of(engine)
    with writing(engine) as session:
        hold = leases.acquire(session, leases.REFRESH, owner="it", now=now, lease_s=LEASE_S)
    with pytest.raises(LeaseHeld):
        let_in(engine, adapter_id, now)
    with writing(engine) as session:
        leases.release(session, hold, now=now)
    rollback_to(engine, 1, now)  # the same release, but somebody decided meanwhile
    with pytest.raises(HeadMoved):
        let_in(engine, adapter_id, now, head=seen)
