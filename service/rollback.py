"""The way back: take one adapter out of the head, or point the head at an earlier release.

Nothing is subtracted and no release is edited: the head moves to a recipe that lacks the adapter.
The model is composed and verified first, so that the move itself is one short transaction.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine

from service import lineage
from service.db import reading, writing
from service.errors import Conflict
from service.lineage import Head
from service.models import HeadAction
from service.settings import Settings
from service.snapshots import compose_recipe, snapshot_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """A head that moved back."""

    from_release: int
    to_release: int
    seq: int
    taken_out: tuple[int, ...]  #: adapters that were in the head and no longer are
    trained_on_them: tuple[int, ...]  #: adapters still in, that were trained with those present


def take_out(
    settings: Settings, engine: Engine, adapter_id: int, *, by: str, reason: str
) -> Rollback:
    """Move the head to its recipe without one adapter.

    Raises NotFound or Conflict for an adapter that is unknown or not in the head, ArtefactError
    when a part of the new recipe is damaged, HeadMoved when somebody else was faster.
    """
    with reading(engine) as session:
        head = lineage.read_head(session)
        recipe = lineage.recipe_without(session, adapter_id)
    digest = compose_recipe(settings, recipe)
    now = datetime.now(UTC)
    with writing(engine) as session:
        release = lineage.release_with(session, recipe, snapshot_digest=digest, now=now)
        seq = lineage.move_head(
            session,
            release.id,
            expected_seq=head.seq,
            action=HeadAction.ROLLBACK,
            by=by,
            reason=reason,
            now=now,
        )
    at = head.recipe.adapter_ids.index(adapter_id)
    return Rollback(
        from_release=head.release_id,
        to_release=release.id,
        seq=seq,
        taken_out=(adapter_id,),
        trained_on_them=head.recipe.adapter_ids[at + 1 :],
    )


def go_back(
    settings: Settings, engine: Engine, release_id: int, *, by: str, reason: str
) -> Rollback:
    """Point the head at another release, whose model is verified first.

    Raises NotFound for an unknown release, Conflict when it is the head already, ArtefactError
    when its model is damaged and cannot be rebuilt, HeadMoved when somebody else was faster.
    """
    with reading(engine) as session:
        head = lineage.read_head(session)
        target = lineage.recipe_of(session, release_id)
    if release_id == head.release_id:
        raise Conflict(f"Release {release_id} is the head already.")
    snapshot_of(settings, engine, release_id)
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
    return Rollback(
        from_release=head.release_id,
        to_release=release_id,
        seq=seq,
        taken_out=_left_out(head, target.adapter_ids),
        trained_on_them=(),
    )


def _left_out(head: Head, kept: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(adapter for adapter in head.recipe.adapter_ids if adapter not in kept)
