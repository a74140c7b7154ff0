"""Does everything that is recorded hold together? What must be so at any moment, one rule each.

The fast form reads the database, and of the artefacts only whether they are there and look as they
did when they were last verified; the whole one reads every byte. It changes nothing. A refresh that
runs, or one that was killed, is no problem: what it left is taken up or cleared by the next.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session, aliased

from adapters.errors import ArtefactError
from adapters.store import is_as_stamped, read_manifest, verify
from service import audit, leases, lineage
from service.db import reading
from service.errors import DatabaseNotReady
from service.models import (
    Adapter,
    Batch,
    FactRow,
    HeadMove,
    Membership,
    MembershipOutcome,
    Refresh,
    RefreshOutcome,
    Release,
    ReleaseAdapter,
)
from service.places import Places
from service.settings import Settings
from service.traces import ERASED

MOST_NAMED = 5  #: of the same problem, in one sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What was found. Without a problem, every rule holds."""

    is_fast: bool
    rules: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """What every rule has at hand."""

    session: Session
    places: Places
    head: lineage.Head
    is_fast: bool
    now: datetime


def check(settings: Settings, engine: Engine, *, fast: bool, now: datetime) -> Checked:
    """Put every rule to one consistent view of the database."""
    with reading(engine) as session:
        try:
            head = lineage.read_head(session)
        except DatabaseNotReady as error:
            return Checked(is_fast=fast, rules=len(RULES), problems=(str(error),))
        places = Places(settings.state_dir)
        look = _Look(session=session, places=places, head=head, is_fast=fast, now=now)
        problems = tuple(problem for rule in RULES for problem in rule(look))
    return Checked(is_fast=fast, rules=len(RULES), problems=problems)


def _head_moves_follow_each_other(look: _Look) -> Iterator[str]:
    newest, count = look.session.execute(
        select(func.max(HeadMove.seq), func.count(HeadMove.seq))
    ).one()
    if newest != count:
        yield f"The head moved {newest} times by its last move, and {count} moves are there."


def _a_promotion_moved_the_head_once(look: _Look) -> Iterator[str]:
    """Every promoted refresh has one move, and its adapter is in the release that it moved to."""
    moves = look.session.scalars(select(HeadMove).where(HeadMove.refresh_id.is_not(None)))
    moved = {move.refresh_id: move.release_id for move in moves}
    rows = look.session.execute(
        select(Refresh.id, Adapter.id)
        .outerjoin(Adapter, Adapter.refresh_id == Refresh.id)
        .where(Refresh.outcome == RefreshOutcome.PROMOTED)
    ).all()
    for refresh_id, adapter_id in rows:
        release_id = moved.pop(refresh_id, None)
        if release_id is None:
            yield f"Refresh {refresh_id} is promoted, and no move of the head is of it."
        elif adapter_id not in lineage.recipe_of(look.session, release_id).adapter_ids:
            yield f"Refresh {refresh_id} moved the head to a release without its adapter."
    for unlike in moved:
        yield f"A move of the head is of refresh {unlike}, which is not promoted."


def _recipes_have_their_digests(look: _Look) -> Iterator[str]:
    for release in look.session.scalars(select(Release)):
        if lineage.recipe_of(look.session, release.id).digest != release.recipe_digest:
            yield f"Release {release.id} is made of something else than its digest says."
    places = select(ReleaseAdapter.release_id, func.max(ReleaseAdapter.position), func.count())
    for release_id, last, count in look.session.execute(places.group_by(ReleaseAdapter.release_id)):
        if last != count - 1:
            yield f"Release {release_id} lacks a line of its recipe."


def _no_fact_is_learned_twice_in_the_head(look: _Look) -> Iterator[str]:
    in_head = lineage.batches_of(look.session, look.head.recipe.adapter_ids)
    twice = look.session.scalars(
        select(Membership.fact_id)
        .where(Membership.batch_id.in_(in_head), Membership.outcome == MembershipOutcome.LEARNED)
        .group_by(Membership.fact_id)
        .having(func.count() > 1)
    ).all()
    if twice:
        yield f"Facts {_some(twice)} are learned by two adapters of the head."


def _what_is_in_work_has_a_refresh_that_runs(look: _Look) -> Iterator[str]:
    """While the lease is held its refresh may be at it; one that died is the next one's to end."""
    stuck = look.session.scalars(
        select(Membership.fact_id)
        .join(Batch, Batch.id == Membership.batch_id)
        .join(Refresh, Refresh.id == Batch.refresh_id)
        .where(Membership.outcome.is_(None), Refresh.outcome.is_not(None))
    ).all()
    if stuck:
        yield f"Facts {_some(stuck)} are in work in a refresh that has ended."
    running = look.session.scalars(select(Refresh.id).where(Refresh.outcome.is_(None))).all()
    is_held = leases.is_held(look.session, leases.REFRESH, now=look.now)
    if len(running) > 1 and is_held:
        yield f"Refreshes {_some(running)} run at the same time."


def _an_ended_refresh_says_when(look: _Look) -> Iterator[str]:
    unlike = look.session.scalars(
        select(Refresh.id).where(Refresh.outcome.is_(None) != Refresh.ended_at.is_(None))
    ).all()
    if unlike:
        yield f"Refreshes {_some(unlike)} have an outcome and no end, or an end and no outcome."


def _no_fact_replaces_what_replaced_it(look: _Look) -> Iterator[str]:
    """The newer one may have come first: it was told ahead, and has begun since."""
    by = aliased(FactRow)
    in_a_ring = look.session.scalars(
        select(FactRow.id)
        .join(by, by.id == FactRow.superseded_by)
        .where((by.id == FactRow.id) | (by.superseded_by == FactRow.id))
    ).all()
    if in_a_ring:
        yield f"Facts {_some(in_a_ring)} are replaced by what they replaced."


def _an_erased_fact_says_nothing(look: _Look) -> Iterator[str]:
    telling = look.session.scalars(
        select(FactRow.id).where(
            FactRow.erased_at.is_not(None),
            (FactRow.statement != ERASED)
            | FactRow.subject.is_not(None)
            | FactRow.object.is_not(None),
        )
    ).all()
    if telling:
        yield f"Facts {_some(telling)} are erased and still say something."
    erased = set(
        look.session.scalars(select(Adapter.id).where(Adapter.erased_at.is_not(None)))
    ).intersection(look.head.recipe.adapter_ids)
    if erased:
        yield f"Adapters {_some(sorted(erased))} were erased and are in the head."


def _the_audit_log_is_whole(look: _Look) -> Iterator[str]:
    yield from audit.verify(look.session).problems


def _the_base_is_there(look: _Look) -> Iterator[str]:
    yield from _artefact(look, look.places.base, look.head.recipe.base_digest, "The base")


def _adapters_are_there(look: _Look) -> Iterator[str]:
    """All of them that were not erased: with the base they are what any release is made of."""
    for adapter in look.session.scalars(select(Adapter).where(Adapter.erased_at.is_(None))):
        folder = look.places.adapter(adapter.digest)
        yield from _artefact(look, folder, adapter.digest, f"Adapter {adapter.id}")


def _the_heads_model_is_whole(look: _Look) -> Iterator[str]:
    """One that is not there is composed when somebody asks for it."""
    folder = look.places.snapshot(look.head.recipe.digest)
    if look.head.recipe.adapter_ids and folder.is_dir():
        yield from _artefact(look, folder, look.head.snapshot_digest, "The head's model")


def _artefact(look: _Look, folder: Path, digest: str, name: str) -> Iterator[str]:
    try:
        if not look.is_fast:
            verify(folder, digest=digest)
        elif not is_as_stamped(folder, digest) and read_manifest(folder)["digest"] != digest:
            yield f"{name} in {folder} is another one than is recorded."
    except (ArtefactError, OSError) as error:
        yield f"{name}: {error}"


def _some(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:MOST_NAMED]))
    return shown if len(ids) <= MOST_NAMED else f"{shown} and {len(ids) - MOST_NAMED} more"


RULES: tuple[Callable[[_Look], Iterator[str]], ...] = (
    _head_moves_follow_each_other,
    _a_promotion_moved_the_head_once,
    _recipes_have_their_digests,
    _no_fact_is_learned_twice_in_the_head,
    _what_is_in_work_has_a_refresh_that_runs,
    _an_ended_refresh_says_when,
    _no_fact_replaces_what_replaced_it,
    _an_erased_fact_says_nothing,
    _the_audit_log_is_whole,
    _the_base_is_there,
    _adapters_are_there,
    _the_heads_model_is_whole,
)
