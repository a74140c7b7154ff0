"""Take an adapter out and train the later ones that saw its facts again, without these.

It is done on a line of releases beside the head: from the release before the adapter on, each later
adapter is either added as it is or, where it replayed facts that go, trained again on what the line
has come to, and judged like any refresh. The head moves once, at the end, to a recipe that was
examined as a removal. Whatever fails on the way leaves the head where it was.
"""

import os
import socket
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import Engine

from service import batches, leases, lineage
from service.db import reading, writing
from service.errors import LeaseLost
from service.leases import Hold
from service.lineage import Head, Recipe
from service.models import Adapter, RefreshOutcome
from service.progress import Progress, Report
from service.record import renewing
from service.refresh import RefreshEnd, learn_beside_head, symmetric_relations
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


def rebase(
    settings: Settings,
    engine: Engine,
    plan: RemovalPlan,
    *,
    by: str,
    reason: str,
    report: Report,
    stopping: Stopping,
) -> Rebase:
    """Carry out the plan with the later adapters that were shown what goes trained again.

    Raises LeaseHeld while a refresh runs, HeadMoved when somebody else moved the head, and what a
    refresh raises.
    """
    owner = f"{socket.gethostname()}:{os.getpid()}"
    with writing(engine) as session:
        hold = leases.acquire(
            session, leases.REFRESH, owner=owner, now=_now(), lease_s=settings.schedule.lease_s
        )
        batches.recover_abandoned(session, attempts=settings.schedule.attempts, now=_now())
    last = [time.monotonic()]

    def watch(progress: Progress) -> None:
        last[0] = time.monotonic()
        report(progress)

    try:
        with renewing(engine, hold, settings.schedule, seen=lambda: last[0]):
            ends: list[RefreshEnd] = []
            line = _trained_again(settings, engine, hold, plan, ends, watch, stopping)
            if line is None:
                return Rebase(refreshes=tuple(ends), removal=None, rollback=None)
            new = replace(plan, recipe=line.recipe, trained_on_them=(), release_id=None)
            removal = examine_removal(settings, engine, new, watch=watch)
            done = None
            if removal.passes:
                done = take_out(
                    settings, engine, new, by=by, reason=reason, removal=removal, is_rebased=True
                )
            return Rebase(refreshes=tuple(ends), removal=removal, rollback=done)
    finally:
        try:
            with writing(engine) as session:
                leases.release(session, hold, now=_now())
        except LeaseLost:
            pass  # a successor has it; what was not published stays so


def _trained_again(
    settings: Settings,
    engine: Engine,
    hold: Hold,
    plan: RemovalPlan,
    ends: list[RefreshEnd],
    watch: Report,
    stopping: Stopping,
) -> Head | None:
    """The line with all later adapters on it; None where the gate did not pass one of them."""
    with reading(engine) as session:
        before = lineage.recipe_without(session, *plan.taken_out, *plan.trained_on_them)
        found = removed_facts(session, plan, retain_at_most=0, now=_now())
    line = _released(settings, engine, before, plan.head.seq)
    for adapter_id in plan.trained_on_them:
        with reading(engine) as session:
            adapter = session.get_one(Adapter, adapter_id)
            batch_id, digest = adapter.batch_id, adapter.digest
        if adapter_id not in found.replayed_by:
            line = _released(
                settings, engine, line.recipe.with_adapter(adapter_id, digest), plan.head.seq
            )
            continue
        with writing(engine) as session:
            leases.renew(session, hold, now=_now(), lease_s=settings.schedule.lease_s)
            claimed = batches.claim_again(
                session,
                batch_id,
                hold=hold,
                trained_on=line.release_id,
                replay_at_most=settings.training.replay_facts,
                retain_at_most=settings.gate.retention_facts,
                symmetric=symmetric_relations(settings.suites.relations),
                now=_now(),
            )
        if claimed is None:
            continue  # none of its facts is to be retained any more
        end = learn_beside_head(settings, engine, hold, line, claimed, watch, stopping)
        ends.append(end)
        if end.outcome is not RefreshOutcome.REBASED or end.release_id is None:
            return None
        with reading(engine) as session:
            line = lineage.line_at(session, end.release_id, seq=plan.head.seq)
    return line


def _released(settings: Settings, engine: Engine, recipe: Recipe, seq: int) -> Head:
    """A recipe as a release beside the head, its model at hand."""
    with reading(engine) as session:
        known = lineage.release_of(session, recipe)
        release_id = None if known is None else known.id
    if release_id is None:
        digest = compose_recipe(settings, recipe)
        with writing(engine) as session:
            release_id = lineage.release_with(
                session, recipe, snapshot_digest=digest, now=_now()
            ).id
    snapshot_of(settings, engine, release_id)
    with reading(engine) as session:
        return lineage.line_at(session, release_id, seq=seq)


def _now() -> datetime:
    return datetime.now(UTC)
