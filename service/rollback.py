"""The way back: take one adapter out of the head, or point the head at an earlier release.

Nothing is subtracted and no release is edited: the head moves to a recipe that lacks the adapter.
The model is composed and verified first, so that the move itself is one short transaction.
"""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine

from service import leases, lineage
from service.current import follow_head
from service.db import reading, writing
from service.errors import Conflict
from service.leases import Hold
from service.lineage import Head, Recipe
from service.models import HeadAction
from service.removal import Removal, RemovalPlan
from service.settings import Settings
from service.snapshots import compose_recipe, held, snapshot_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """A head that moved back."""

    from_release: int
    to_release: int
    seq: int
    taken_out: tuple[int, ...]  #: adapters that were in the head and no longer are
    trained_on_them: tuple[int, ...]  #: adapters still in, that were trained with those present
    is_forced: bool = False  #: nobody looked first at what the head says without them
    report: dict[str, Any] | None = None  #: what was found where somebody did


def take_out(
    settings: Settings,
    engine: Engine,
    plan: RemovalPlan,
    *,
    by: str,
    reason: str,
    removal: Removal | None = None,
    hold: Hold | None = None,
) -> Rollback:
    """Move the head to its recipe without some adapters, which may have others in their place.

    `removal` is what was found when this was examined. Where it was not, and this recipe never was
    the head, the move is recorded as forced. With the lease that a rebase holds it is recorded as
    such. Raises ArtefactError when a part of the new recipe is damaged, HeadMoved when somebody
    else was faster, LeaseLost where `hold` was, and Conflict where `removal` did not pass.
    """
    if removal is not None and not removal.passes:
        raise Conflict(f"The head stays: {'; '.join(removal.verdict.reasons)}.")
    report = None if removal is None else removal.about
    is_forced = removal is None and plan.release_id is None
    action = HeadAction.FORCED_ROLLBACK if is_forced else HeadAction.ROLLBACK
    with held(settings, plan.recipe):
        digest = _composed(settings, engine, plan.recipe)
        now = datetime.now(UTC)
        with writing(engine) as session:
            if hold is not None:
                leases.renew(session, hold, now=now, lease_s=settings.schedule.lease_s)
                action = HeadAction.REBASE
            release = lineage.release_with(session, plan.recipe, snapshot_digest=digest, now=now)
            seq = lineage.move_head(
                session,
                release.id,
                expected_seq=plan.head.seq,
                action=action,
                by=by,
                reason=reason,
                now=now,
                report=report,
            )
        follow_head(settings, engine)
    if is_forced:
        log.warning("%s took adapters %s out unexamined: %s", by, plan.taken_out, reason)
    return Rollback(
        from_release=plan.head.release_id,
        to_release=release.id,
        seq=seq,
        taken_out=_left_out(plan.head, plan.recipe.adapter_ids),
        trained_on_them=plan.trained_on_them,
        is_forced=is_forced,
        report=report,
    )


def go_back(
    settings: Settings, engine: Engine, release_id: int, *, by: str, reason: str
) -> Rollback:
    """Point the head at another release, whose model is at hand and as it was last verified.

    Raises NotFound for an unknown release, Conflict when it is the head already or never was,
    ArtefactError when its model is damaged and cannot be rebuilt, HeadMoved when somebody else was
    faster.
    """
    with reading(engine) as session:
        head = lineage.read_head(session)
        target = lineage.recipe_of(session, release_id)
        was_head = lineage.was_head(session, release_id)
    if release_id == head.release_id:
        raise Conflict(f"Release {release_id} is the head already.")
    if not was_head:
        raise Conflict(
            f"Release {release_id} was never the head: a rebase that did not come to its end made "
            "it, and the gate has not passed it as a whole."
        )
    with held(settings, target):
        snapshot_of(settings, engine, release_id, at_once=True)
        with writing(engine) as session:
            seq = lineage.move_head(
                session,
                release_id,
                expected_seq=head.seq,
                action=HeadAction.ROLLBACK,
                by=by,
                reason=reason,
                now=datetime.now(UTC),
            )
        follow_head(settings, engine)
    return Rollback(
        from_release=head.release_id,
        to_release=release_id,
        seq=seq,
        taken_out=_left_out(head, target.adapter_ids),
        trained_on_them=(),
    )


def _composed(settings: Settings, engine: Engine, recipe: Recipe) -> str:
    """Have a recipe's snapshot at hand. One that was released must come out as it was then."""
    with reading(engine) as session:
        known = lineage.release_of(session, recipe)
        found = None if known is None else (known.id, known.snapshot_digest)
    if found is None:
        return compose_recipe(settings, recipe)
    release_id, digest = found
    snapshot_of(settings, engine, release_id)
    return digest


def _left_out(head: Head, kept: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(adapter for adapter in head.recipe.adapter_ids if adapter not in kept)
