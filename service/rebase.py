"""Take an adapter out and train the later ones that saw its facts again, without these.

Or, where facts are to be erased, train every adapter again that saw them.

It is done on a line of releases beside the head: from the release before the adapter on, each later
adapter is either added as it is or, where it replayed facts that go, trained again on what the line
has come to, and judged like any refresh. Where the whole does not pass, those that were added as
they are are trained again as well, since they may lean on what goes. The head moves once, at the
end, to a recipe that was examined as a removal. Whatever fails on the way leaves the head where it
was.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from service import batches, known_facts, leases, lineage
from service.batches import ClaimedBatch
from service.db import reading, writing
from service.disk import check_room, size_of_model
from service.errors import HeadMoved, LeaseLost
from service.leases import Hold
from service.lineage import Head, Recipe
from service.models import Adapter, RefreshOutcome
from service.progress import Progress, Report
from service.record import renewing
from service.refresh import (
    RefreshEnd,
    collect_afterwards,
    learn_beside_head,
    symmetric_relations,
)
from service.removal import Removal, RemovalPlan, examine_removal, removed_facts
from service.rollback import Rollback, take_out
from service.settings import Settings
from service.snapshots import compose_recipe, snapshot_of
from service.stopping import Stopping


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebase:
    """How a rebase ended. The head moved only where there is a `rollback`."""

    refreshes: tuple[RefreshEnd, ...]  #: one for each adapter that was trained again
    removal: Removal | None  #: None where a refresh was not passed by the gate
    rollback: Rollback | None
    #: Facts of later adapters that are not in the new head: set aside, withdrawn, or not to be
    #: retained any more.
    left: tuple[int, ...] = ()


def rebase(
    settings: Settings,
    engine: Engine,
    plan: RemovalPlan,
    *,
    by: str,
    reason: str,
    report: Report,
    stopping: Stopping,
    judged: Callable[[Removal], None] = lambda _: None,
) -> Rebase:
    """Carry out the plan with the later adapters that were shown what goes trained again.

    Those that were not stay as they are, unless the whole does not pass with them: what they
    learned may have rested on what goes. Then they are trained again, too, and the whole is
    examined once more. `judged` is told what was found of it, before the head moves, if it does.
    Raises BelowReserve where there is no room for another model, at the start or before one of the
    adapters, LeaseHeld while a refresh runs, HeadMoved when somebody else moved the head, and what
    a refresh raises.
    """
    check_room(settings, needed=size_of_model(settings))
    with writing(engine) as session:
        lease_s = settings.schedule.lease_s
        hold = leases.acquire_refresh(session, now=_now(), lease_s=lease_s)
        batches.recover_abandoned(session, attempts=settings.schedule.attempts, now=_now())
    last = [time.monotonic()]

    def watch(progress: Progress) -> None:
        last[0] = time.monotonic()
        report(progress)

    try:
        with renewing(engine, hold, settings.schedule, seen=lambda: last[0]):
            line = _Line(settings, engine, hold, plan)
            removal = _train_and_examine(line, watch, stopping, judged)
            done = None
            if removal is not None and removal.passes:
                new = _plan_of(line)
                done = take_out(
                    settings, engine, new, by=by, reason=reason, removal=removal, hold=hold
                )
            left = line.left_facts() if line.is_whole else ()
    finally:
        try:
            with writing(engine) as session:
                leases.release(session, hold, now=_now())
        except LeaseLost:
            pass  # a successor has it; what was not published stays so
    collect_afterwards(settings, engine)
    return Rebase(refreshes=tuple(line.ends), removal=removal, rollback=done, left=left)


def _train_and_examine(
    line: "_Line", watch: Report, stopping: Stopping, judged: Callable[[Removal], None]
) -> Removal | None:
    """What was found of the whole, if the gate passed its parts; where that failed, what before."""
    if not line.train_again(watch, stopping):
        return None
    removal = examine_removal(line.settings, line.engine, _plan_of(line), watch=watch)
    judged(removal)
    if removal.passes or not line.as_they_were or not line.train_the_rest(watch, stopping):
        return removal
    removal = examine_removal(line.settings, line.engine, _plan_of(line), watch=watch)
    judged(removal)
    return removal


def _plan_of(line: "_Line") -> RemovalPlan:
    return replace(line.plan, recipe=line.at.recipe, trained_on_them=(), release_id=None)


class _Line:
    """Releases beside the head, one adapter after another."""

    def __init__(self, settings: Settings, engine: Engine, hold: Hold, plan: RemovalPlan) -> None:
        self.settings = settings
        self.engine = engine
        self.hold = hold
        self.plan = plan
        self.ends: list[RefreshEnd] = []
        with self._guarded() as session:
            before = lineage.recipe_without(session, *plan.taken_out, *plan.trained_on_them)
            found = removed_facts(session, plan, retain_at_most=0, now=_now())
        self.saw_them = {*found.replayed_by, *found.saw_erased}  #: adapters that are to stay
        self.at = self._released(before)  #: what the line has come to
        #: The later adapters that were put on the line as they were, and what it was before each.
        self.as_they_were: dict[int, Head] = {}
        self.is_whole = False  #: every later adapter is on it

    @contextmanager
    def _guarded(self) -> Iterator[Session]:
        """A transaction that this process owns the lease in, and the head is still the plan's."""
        with writing(self.engine) as session:
            lease_s = self.settings.schedule.lease_s
            leases.renew(session, self.hold, now=_now(), lease_s=lease_s)
            if lineage.read_head(session).seq != self.plan.head.seq:
                raise HeadMoved("The head moved meanwhile; look at it again and decide anew.")
            yield session

    def train_again(self, watch: Report, stopping: Stopping) -> bool:
        """Put all later adapters on the line; False where the gate did not pass one of them."""
        return self._put(self.plan.trained_on_them, watch, stopping)

    def train_the_rest(self, watch: Report, stopping: Stopping) -> bool:
        """Begin once more at the first that was put on the line as it was, and train all."""
        first = next(iter(self.as_they_were))
        self.at = self.as_they_were[first]
        later = self.plan.trained_on_them[self.plan.trained_on_them.index(first) :]
        self.saw_them |= set(later)
        self.as_they_were.clear()
        return self._put(later, watch, stopping)

    def _put(self, adapter_ids: Sequence[int], watch: Report, stopping: Stopping) -> bool:
        self.is_whole = False
        for adapter_id in adapter_ids:
            check_room(self.settings, needed=size_of_model(self.settings))
            with self._guarded() as session:
                adapter = session.get_one(Adapter, adapter_id)
                batch_id, digest = adapter.batch_id, adapter.digest
            if adapter_id not in self.saw_them:
                self.as_they_were[adapter_id] = self.at
                self.at = self._released(self.at.recipe.with_adapter(adapter_id, digest))
                continue
            claimed = self._claim(batch_id)
            if claimed is None:
                continue  # none of its facts is to be retained any more
            end = learn_beside_head(
                self.settings, self.engine, self.hold, self.at, claimed, watch, stopping
            )
            self.ends.append(end)
            if end.outcome is not RefreshOutcome.REBASED or end.release_id is None:
                return False
            with reading(self.engine) as session:
                self.at = lineage.line_at(session, end.release_id, seq=self.plan.head.seq)
        self.is_whole = True
        return True

    def _claim(self, batch_id: int) -> ClaimedBatch | None:
        with self._guarded() as session:
            return batches.claim_again(
                session,
                batch_id,
                hold=self.hold,
                trained_on=self.at.release_id,
                replay_at_most=self.settings.training.replay_facts,
                retain_at_most=self.settings.gate.retention_facts,
                symmetric=symmetric_relations(self.settings.suites.relations),
                now=_now(),
            )

    def _released(self, recipe: Recipe) -> Head:
        """A recipe as a release beside the head, its model at hand."""
        with reading(self.engine) as session:
            known = lineage.release_of(session, recipe)
            release_id = None if known is None else known.id
        if release_id is None:
            digest = compose_recipe(self.settings, recipe)
            with self._guarded() as session:
                release_id = lineage.release_with(
                    session, recipe, snapshot_digest=digest, now=_now()
                ).id
        snapshot_of(self.settings, self.engine, release_id)
        with reading(self.engine) as session:
            return lineage.line_at(session, release_id, seq=self.plan.head.seq)

    def left_facts(self) -> tuple[int, ...]:
        """The facts of later adapters that the line does not hold."""
        with reading(self.engine) as session:
            later, held = (
                known_facts.facts_in(session, lineage.batches_of(session, adapters))
                for adapters in (self.plan.trained_on_them, self.at.recipe.adapter_ids)
            )
        return tuple(sorted(later - held))


def _now() -> datetime:
    return datetime.now(UTC)
