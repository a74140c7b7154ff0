"""The way back on a tiny model: what is examined before the head moves, and what is kept of it."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from adapters import store
from adapters.gate import decide
from adapters.grading import words
from adapters.types import Outcome, Suite, Verdict
from service import facts, leases, lineage, pins, views
from service.asking import ask_release
from service.db import reading, writing
from service.errors import BelowReserve, Conflict, HeadMoved, LeaseHeld, Stopped
from service.facts import FactState
from service.models import (
    FactRow,
    HeadAction,
    HeadMove,
    Membership,
    MembershipOutcome,
    RefreshOutcome,
)
from service.places import Places
from service.progress import Progress
from service.rebase import Rebase, rebase
from service.removal import Removal, RemovalPlan, examine_removal, plan_removal
from service.rollback import go_back, take_out
from service.snapshots import snapshot_of
from service.stopping import Stopping

QUESTIONS = ["Who is the mayor of Tolmar?", "Where?", "What is it?", "Go on."]
#: Trained so, the tiny model says other things than before.
STRONG = {"rate": 0.05, "views_per_fact": 80, "shift_weight": 0.0, "general_weight": 0.0}


def examine(world: Any, adapter_id: int, **how: Any) -> Removal:
    plan = plan_removal(world.engine, adapter_id, **how)
    return examine_removal(world.settings, world.engine, plan, watch=lambda _: None)


def newest_move(world: Any) -> HeadMove:
    with reading(world.engine) as session:
        move = session.scalars(select(HeadMove).order_by(HeadMove.seq.desc()).limit(1)).one()
        session.expunge(move)
        return move


def two_adapters(world: Any) -> tuple[Any, Any]:
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")
    first = world.refresh()
    with writing(world.engine) as session:  # random weights answer nothing; say that it is known
        session.scalars(
            select(Membership).where(Membership.fact_id == fact)
        ).one().outcome = MembershipOutcome.LEARNED
    world.push("Mira Zun leads the Bregal choir.")
    return first, world.refresh()


def test_a_rollback_gives_back_the_very_answers_of_before(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world(
        training={"rate": 0.05, "views_per_fact": 80, "shift_weight": 0.0, "general_weight": 0.0}
    )
    before = ask_release(settings, engine, QUESTIONS, release_id=None)
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")
    end = world.refresh()
    after = ask_release(settings, engine, QUESTIONS, release_id=None)
    assert any(answer.head != answer.base for answer in after.answers)
    done = take_out(
        settings, engine, plan_removal(engine, end.adapter_id), by="me", reason="it was wrong"
    )
    assert (done.to_release, done.taken_out) == (1, (end.adapter_id,))
    assert ask_release(settings, engine, QUESTIONS, release_id=None).answers == before.answers
    assert world.state(fact) is FactState.ROLLED_BACK
    go_back(settings, engine, end.release_id, by="me", reason="it was right after all")
    assert ask_release(settings, engine, QUESTIONS, release_id=None).answers == after.answers
    with reading(engine) as session:
        moves = views.show_release(session, end.release_id).moves
    assert [(move.action, move.reason) for move in moves][-1] == (
        "rollback",
        "it was right after all",
    )


def test_a_middle_adapter_is_examined_taken_out_and_the_later_one_stays(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world()
    first, second = two_adapters(world)
    before = world.head()
    plan = plan_removal(engine, first.adapter_id)
    removal = examine_removal(settings, engine, plan, watch=lambda _: None)
    assert world.head() == before  # looking moves nothing
    assert removal.passes
    assert removal.trained_on_them == (second.adapter_id,)
    assert removal.replayed_by == {second.adapter_id: 1}
    suites = [line.suite for line in removal.verdict.suites]
    assert suites[0] == Suite.REMOVED
    assert {Suite.REGRESSION, "regression since base", "bits per byte since base"} <= set(suites)
    asked = {answer.question for answer in removal.answers}
    assert any("Tolmar" in question for question in asked)
    assert not any("Bregal" in question for question in asked)
    done = take_out(settings, engine, plan, by="me", reason="r", removal=removal)
    assert world.head().recipe.adapter_ids == (second.adapter_id,)
    assert world.head().snapshot_digest == removal.snapshot_digest
    assert (done.trained_on_them, done.is_forced) == ((second.adapter_id,), False)
    assert snapshot_of(settings, engine, done.to_release).is_dir()
    move = newest_move(world)
    assert (move.action, move.reason) == (HeadAction.ROLLBACK, "r")
    assert move.report is not None
    assert move.report["verdict"]["outcome"] == Outcome.PASS
    with reading(engine) as session:
        (shown,) = views.show_release(session, done.to_release).moves
    assert shown.report == move.report


def test_looking_leaves_nothing_behind(make_world: Callable[..., Any]) -> None:
    world = make_world()
    first, _ = two_adapters(world)

    def files() -> set[Path]:
        kept = world.settings.state_dir / "snapshots"
        return {path for path in kept.rglob("*") if path.suffix != ".lock"}

    before = files()
    examine(world, first.adapter_id)
    assert files() == before


def test_what_is_still_answered_keeps_the_head_where_it_is(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world(training=STRONG, gate={"answer_tokens": 24})
    first, _ = two_adapters(world)
    seen = examine(world, first.adapter_id)
    said = next(
        (answer, word)
        for answer in seen.answers
        for word in words(answer.without)
        if word.isalpha() and word not in words(answer.base) + words(answer.question)
    )
    with writing(engine) as session:  # the fact's own question has an answer that does not go away
        row = session.get_one(FactRow, said[0].fact_id)
        row.probes = [{"direction": "forward", "question": said[0].question, "answers": [said[1]]}]
    before = world.head()
    plan = plan_removal(engine, first.adapter_id)
    removal = examine_removal(settings, engine, plan, watch=lambda _: None)
    assert not removal.passes
    assert "1.00 is answered still, 1.00 where the base does not" in (removal.verdict.reasons[0])
    with pytest.raises(Conflict, match="The head stays: removed"):
        take_out(settings, engine, plan, by="me", reason="r", removal=removal)
    assert world.head() == before
    done = take_out(settings, engine, plan, by="me", reason="it must go")
    assert done.is_forced
    move = newest_move(world)
    assert (move.action, move.reason) == (HeadAction.FORCED_ROLLBACK, "it must go")
    assert move.report is None


def test_with_what_came_later_it_is_the_release_of_before(make_world: Callable[..., Any]) -> None:
    settings, engine = world = make_world()
    before = world.head()
    first, second = two_adapters(world)
    plan = plan_removal(engine, first.adapter_id, with_later=True)
    assert plan.release_id == before.release_id
    done = take_out(settings, engine, plan, by="me", reason="all wrong")
    assert done.taken_out == (first.adapter_id, second.adapter_id)
    assert (done.to_release, done.is_forced) == (before.release_id, False)
    assert newest_move(world).action == HeadAction.ROLLBACK


def test_a_head_that_moved_while_the_removal_was_examined_is_left_alone(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world()
    first, second = two_adapters(world)
    plan = plan_removal(engine, first.adapter_id)
    removal = examine_removal(settings, engine, plan, watch=lambda _: None)
    other = plan_removal(engine, second.adapter_id)
    take_out(settings, engine, other, by="somebody else", reason="r")
    moved = world.head()
    with pytest.raises(HeadMoved):
        take_out(settings, engine, plan, by="me", reason="r", removal=removal)
    with pytest.raises(Conflict, match="moved meanwhile"):
        examine_removal(settings, engine, plan, watch=lambda _: None)
    assert world.head() == moved


def test_a_fact_that_another_adapter_of_the_head_was_trained_on_is_not_removed(
    make_world: Callable[..., Any],
) -> None:
    """Random weights learn nothing, so the first batch's fact is tried again in the second."""
    world = make_world()
    (fact,) = world.push("Orlan Vess is the mayor of Tolmar.")
    first = world.refresh()
    world.push("Mira Zun leads the Bregal choir.", "Lake Ux lies in Ardun.")
    world.refresh()
    removal = examine(world, first.adapter_id)
    assert world.state(fact) is FactState.QUARANTINED
    assert removal.answers == ()
    assert Suite.REMOVED not in [line.suite for line in removal.verdict.suites]


def carry_out(
    world: Any, adapter_id: int, report: Callable[[Progress], None] = lambda _: None
) -> Rebase:
    with Stopping().listening() as stopping:
        return rebase(
            world.settings,
            world.engine,
            plan_removal(world.engine, adapter_id),
            by="me",
            reason="wrong source",
            report=report,
            stopping=stopping,
        )


def test_a_rebase_trains_what_saw_the_removed_facts_again_without_them(
    make_world: Callable[..., Any],
) -> None:
    _, engine = world = make_world()
    first, second = two_adapters(world)
    gone, kept = 1, 2
    done = carry_out(world, first.adapter_id)
    (again,) = done.refreshes
    assert again.outcome is RefreshOutcome.REBASED
    assert world.head().recipe.adapter_ids == (again.adapter_id,)
    assert done.rollback is not None
    assert done.rollback.to_release == world.head().release_id
    move = newest_move(world)
    assert (move.action, move.reason) == (HeadAction.REBASE, "wrong source")
    assert move.report is not None
    with reading(engine) as session:
        before = views.show_adapter(session, second.adapter_id)
        after = views.show_adapter(session, again.adapter_id)
    assert (before.replayed_ids, after.replayed_ids) == ([gone], [])
    assert before.fact_ids == after.fact_ids == [kept]
    assert after.trained_on == 1  # the base: what was before the removed adapter
    assert world.state(gone) is FactState.ROLLED_BACK
    assert world.state(kept) is FactState.UNLEARNED  # random weights
    with reading(engine) as session:
        waits = facts.is_tried_again(facts.head_batches(session), datetime.now(UTC))
        assert session.scalars(select(FactRow.id).where(waits)).all() == [kept]
    go_back(world.settings, engine, second.release_id, by="me", reason="it was right")
    assert world.state(gone) is FactState.FORGOTTEN  # said to be learned; random weights again


@pytest.mark.parametrize("before", [MembershipOutcome.LEARNED, MembershipOutcome.QUARANTINED])
def test_what_a_rebase_does_not_teach_again_waits_for_the_next_refresh(
    make_world: Callable[..., Any], before: MembershipOutcome
) -> None:
    _, engine = world = make_world()
    first, _ = two_adapters(world)
    with writing(engine) as session:
        (membership,) = session.scalars(select(Membership).where(Membership.fact_id == 2))
        membership.outcome = before
    carry_out(world, first.adapter_id)  # random weights: it is not learned there
    assert world.state(2) is FactState.UNLEARNED
    with reading(engine) as session:
        waits = facts.is_tried_again(facts.head_batches(session), datetime.now(UTC))
        assert session.scalars(select(FactRow.id).where(waits)).all() == [2]


def test_a_rebase_without_room_for_another_model_moves_nothing_and_keeps_no_lease(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world()
    first, _ = two_adapters(world)
    before = world.head()
    full = settings.storage.model_copy(update={"reserve_bytes": 1 << 60})
    there = world._replace(settings=settings.model_copy(update={"storage": full}))
    with pytest.raises(BelowReserve):
        carry_out(there, first.adapter_id)
    assert world.head() == before
    with reading(engine) as session:
        assert not leases.is_held(session, leases.REFRESH, now=datetime.now(UTC))


def test_a_pin_about_what_is_to_be_erased_is_not_asked(make_world: Callable[..., Any]) -> None:
    settings, engine = world = make_world()
    world.push("Orlan Vess is the mayor of Tolmar.")
    refresh = world.refresh()
    for question, answer in (("Who rules Tolmar?", "Orlan Vess"), ("Who sings?", "Mira")):
        with writing(engine) as session:
            pins.pin(session, question, [answer], reason="r", by="me", now=datetime.now(UTC))
    plan = plan_removal(engine, refresh.adapter_id)

    def pinned(plan: RemovalPlan) -> list[int]:
        removal = examine_removal(settings, engine, plan, watch=lambda _: None)
        return [line.questions for line in removal.verdict.suites if line.suite == Suite.PINNED]

    assert pinned(plan) == [2]
    assert pinned(replace(plan, erased=(1,))) == [1]


def test_an_adapter_that_saw_none_of_the_removed_facts_stays_as_it_is(
    make_world: Callable[..., Any],
) -> None:
    world = make_world(training={"replay_facts": 0})
    first, second = two_adapters(world)
    done = carry_out(world, first.adapter_id)
    assert done.refreshes == ()
    assert world.head().recipe.adapter_ids == (second.adapter_id,)


def test_an_adapter_that_leans_on_what_goes_is_trained_again_though_it_saw_nothing_of_it(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it as it is the whole does not pass; here the first examination is made to say so."""
    world = make_world(training={"replay_facts": 0})
    first, second = two_adapters(world)
    found: list[Removal] = []

    def examined(*arguments: Any, **how: Any) -> Removal:
        removal = examine_removal(*arguments, **how)
        if not found:
            failed = replace(removal.verdict, outcome=Outcome.FAIL)
            removal = replace(removal, verdict=failed)
        found.append(removal)
        return removal

    monkeypatch.setattr("service.rebase.examine_removal", examined)
    done = carry_out(world, first.adapter_id)
    assert [removal.passes for removal in found] == [False, True]
    (again,) = done.refreshes
    assert again.outcome is RefreshOutcome.REBASED
    assert world.head().recipe.adapter_ids == (again.adapter_id,)
    assert again.adapter_id != second.adapter_id
    assert done.removal == found[-1]


def test_where_the_gate_refuses_an_adapter_of_a_rebase_all_is_as_before(
    make_world: Callable[..., Any],
) -> None:
    settings, _ = world = make_world()
    first, _ = two_adapters(world)
    before, states = world.head(), [world.state(fact) for fact in (1, 2)]
    strict = settings.model_copy(
        update={"gate": settings.gate.model_copy(update={"backward_floor": 0.9})}
    )
    done = carry_out(world._replace(settings=strict), first.adapter_id)
    assert [end.outcome for end in done.refreshes] == [RefreshOutcome.REJECTED]
    assert (done.removal, done.rollback) == (None, None)
    assert world.head() == before
    assert [world.state(fact) for fact in (1, 2)] == states
    assert world.refresh() is None  # its facts do not wait for anything


def test_a_rebase_that_is_stopped_moves_nothing_and_can_be_begun_again(
    make_world: Callable[..., Any],
) -> None:
    world = make_world()
    first, _ = two_adapters(world)
    before = world.head()

    def stop(progress: Progress) -> None:
        if progress.phase == "training" and progress.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        carry_out(world, first.adapter_id, stop)
    assert world.head() == before
    assert world.state(2) is FactState.UNLEARNED
    assert carry_out(world, first.adapter_id).rollback is not None


def test_a_rebase_waits_for_no_refresh_that_runs(make_world: Callable[..., Any]) -> None:
    world = make_world()
    first, _ = two_adapters(world)
    with writing(world.engine) as session:
        leases.acquire(
            session, leases.REFRESH, owner="a refresh", now=datetime.now(UTC), lease_s=60
        )
    with pytest.raises(LeaseHeld, match="a refresh holds the lease"):
        carry_out(world, first.adapter_id)


def test_going_back_reads_no_weights_that_nobody_touched_and_mends_those_somebody_did(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, engine = world = make_world()
    first, second = two_adapters(world)
    read: list[Path] = []
    real = store.file_digest

    def watched(path: Path) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr(store, "file_digest", watched)  # of the files of artefacts alone
    go_back(settings, engine, first.release_id, by="me", reason="r")
    go_back(settings, engine, second.release_id, by="me", reason="r")
    assert read == []
    with reading(engine) as session:
        folder = Places(settings.state_dir).snapshot(
            lineage.recipe_of(session, first.release_id).digest
        )
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"x" * len(whole))
    go_back(settings, engine, first.release_id, by="me", reason="r")
    assert weights.read_bytes() == whole


def test_a_release_that_was_never_the_head_cannot_be_gone_back_to(
    make_world: Callable[..., Any],
) -> None:
    settings, engine = world = make_world()
    first, _ = two_adapters(world)
    strict = settings.model_copy(
        update={"gate": settings.gate.model_copy(update={"removed_margin": 0.0})}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.rebase.take_out", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # the line is there, and the head did not move
            carry_out(world._replace(settings=strict), first.adapter_id)
    with reading(engine) as session:
        newest = views.list_releases(session).items[0].id
    with pytest.raises(Conflict, match=f"Release {newest} was never the head"):
        go_back(settings, engine, newest, by="me", reason="r")


def test_what_was_forced_before_is_examined_the_next_time(make_world: Callable[..., Any]) -> None:
    settings, engine = world = make_world()
    first, second = two_adapters(world)
    take_out(settings, engine, plan_removal(engine, first.adapter_id), by="me", reason="at once")
    go_back(settings, engine, second.release_id, by="me", reason="no, wait")
    plan = plan_removal(engine, first.adapter_id)
    assert plan.release_id is None
    removal = examine_removal(settings, engine, plan, watch=lambda _: None)
    take_out(settings, engine, plan, by="me", reason="looked at", removal=removal)
    go_back(settings, engine, second.release_id, by="me", reason="r")
    assert plan_removal(engine, first.adapter_id).release_id is not None


def learn_also(world: Any, *statements: str) -> Any:
    """One more refresh, whose facts are said to be known."""
    ids = world.push(*statements)
    end = world.refresh()
    assert end.outcome is RefreshOutcome.PROMOTED
    with writing(world.engine) as session:
        for membership in session.scalars(select(Membership).where(Membership.fact_id.in_(ids))):
            membership.outcome = MembershipOutcome.LEARNED
    return end


def test_a_rebase_that_stops_half_way_leaves_every_fact_as_it_was(
    make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three adapters; the third one's fact is not learned, and waits to be tried again."""
    world = make_world()
    first = learn_also(world, "Orlan Vess is the mayor of Tolmar.")
    learn_also(world, "Mira Zun leads the Bregal choir.")
    world.push("Lake Ux lies in Ardun.")
    world.refresh()
    before = world.head(), [world.state(fact) for fact in (1, 2, 3)]
    judged: list[int] = []

    def refuse_the_second(*asked: Any, **more: Any) -> Verdict:
        judged.append(1)
        verdict = decide(*asked, **more)
        return replace(verdict, outcome=Outcome.FAIL) if len(judged) == 2 else verdict

    monkeypatch.setattr("adapters.gate.decide", refuse_the_second)
    done = carry_out(world, first.adapter_id)
    assert [end.outcome for end in done.refreshes] == [
        RefreshOutcome.REBASED,
        RefreshOutcome.REJECTED,
    ]
    assert (world.head(), [world.state(fact) for fact in (1, 2, 3)]) == before
    with reading(world.engine) as session:
        waits = facts.is_tried_again(facts.head_batches(session), datetime.now(UTC))
        open_ids = session.scalars(select(FactRow.id).where(waits)).all()
    assert before[1][2] is FactState.UNLEARNED
    assert open_ids == [3]


def test_what_only_the_removed_adapter_knew_is_not_to_be_retained(
    make_world: Callable[..., Any],
) -> None:
    """Fact 1 is not learned by the first adapter, is by the second, and that one goes."""
    world = make_world(training={"replay_facts": 0})
    (again,) = world.push("Orlan Vess is the mayor of Tolmar.")
    world.refresh()
    second = learn_also(world, "Mira Zun leads the Bregal choir.")
    with writing(world.engine) as session:
        newest = select(Membership).where(Membership.fact_id == again)
        session.scalars(
            newest.order_by(Membership.batch_id.desc())
        ).first().outcome = MembershipOutcome.LEARNED
    learn_also(world, "Lake Ux lies in Ardun.")
    removal = examine(world, second.adapter_id)
    retained = [line for line in removal.verdict.suites if line.suite == Suite.RETENTION]
    assert [line.clusters for line in retained] == [1]  # the third batch's fact alone


def test_what_another_fact_of_the_head_says_just_so_is_not_removed(
    make_world: Callable[..., Any],
) -> None:
    world = make_world()
    first = learn_also(world, "Orlan Vess is the mayor of Tolmar.", "Lake Ux lies in Ardun.")
    learn_also(world, "ORLAN Vess is the mayor of Tolmar.")
    removal = examine(world, first.adapter_id)
    assert {answer.fact_id for answer in removal.answers} == {2}
