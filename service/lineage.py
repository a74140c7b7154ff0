"""The only writer of releases and of the head.

A release is a recipe, known by its digest: the same base and adapters in the same order are the
same release, however one came there. The head's history is append-only.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from adapters.store import canonical_digest
from adapters.types import Verdict
from service import audit, batches, facts, leases
from service.audit import Act
from service.errors import Conflict, DatabaseNotReady, HeadMoved, NotFound
from service.leases import Hold
from service.models import (
    Adapter,
    HeadAction,
    HeadMove,
    MembershipOutcome,
    Refresh,
    RefreshOutcome,
    Release,
    ReleaseAdapter,
)

#: How a head came that was examined, or is the base; a rollback says so by its report.
EXAMINED = (HeadAction.INIT, HeadAction.PROMOTION, HeadAction.APPROVAL, HeadAction.REBASE)
#: What an adapter that was not promoted says of itself: the digest of the model that was examined.
EXAMINED_AS = "examined_as"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a release is made of."""

    base_digest: str
    adapter_ids: tuple[int, ...]
    adapter_digests: tuple[str, ...]

    @property
    def digest(self) -> str:
        return canonical_digest([self.base_digest, *self.adapter_digests])

    def with_adapter(self, adapter_id: int, digest: str) -> "Recipe":
        """The same with one more at its end."""
        return Recipe(
            base_digest=self.base_digest,
            adapter_ids=(*self.adapter_ids, adapter_id),
            adapter_digests=(*self.adapter_digests, digest),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A release, and the number of the move that made it the head."""

    seq: int
    release_id: int
    recipe: Recipe
    snapshot_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An adapter as it was examined, and what becomes of its batch's facts once it is let in."""

    refresh_id: int
    adapter_id: int
    head: Head  #: that it was trained on, or the release in its place
    snapshot_digest: str  #: of both composed
    outcomes: Mapping[int, MembershipOutcome]  #: by fact; those of no other are unproven
    reasons: Mapping[int, str] = field(default_factory=dict)  #: for facts that were not learned
    tries: int  #: after so many a fact that stayed open is not tried again


def read_head(session: Session) -> Head:
    """The release that is served now. Raises DatabaseNotReady before the first one exists."""
    move = session.scalar(select(HeadMove).order_by(HeadMove.seq.desc()).limit(1))
    if move is None:
        raise DatabaseNotReady("There is no release yet; run `lorewright init`.")
    return line_at(session, move.release_id, seq=move.seq)


def line_at(session: Session, release_id: int, *, seq: int) -> Head:
    """Another release in the head's place: what a rebase trains on until it moves the head."""
    release = session.get_one(Release, release_id)
    return Head(
        seq=seq,
        release_id=release.id,
        recipe=recipe_of(session, release.id),
        snapshot_digest=release.snapshot_digest,
    )


def recipe_of(session: Session, release_id: int) -> Recipe:
    """Raises NotFound for an unknown release."""
    release = session.get(Release, release_id)
    if release is None:
        raise NotFound(f"There is no release {release_id}.")
    adapters = session.execute(  # not all of their rows, which say what each was trained on
        select(Adapter.id, Adapter.digest)
        .join(ReleaseAdapter, ReleaseAdapter.adapter_id == Adapter.id)
        .where(ReleaseAdapter.release_id == release_id)
        .order_by(ReleaseAdapter.position)
    ).all()
    return _recipe(release.base_digest, [(adapter_id, digest) for adapter_id, digest in adapters])


def _recipe(base_digest: str, adapters: Sequence[tuple[int, str]]) -> Recipe:
    return Recipe(
        base_digest=base_digest,
        adapter_ids=tuple(adapter_id for adapter_id, _ in adapters),
        adapter_digests=tuple(digest for _, digest in adapters),
    )


def check_not_erased(session: Session, release_id: int, *, until_written: bool = False) -> None:
    """Raises Conflict for a release that cannot be composed any more.

    `until_written`, to the end of the transaction, its adapters stay so: an erasure that is about
    to give one of them up waits, and then sees a head that has moved to it.
    """
    adapters = (
        select(Adapter.id, Adapter.erased_at)
        .join(ReleaseAdapter, ReleaseAdapter.adapter_id == Adapter.id)
        .where(ReleaseAdapter.release_id == release_id)
        .order_by(Adapter.id)
    )
    if until_written:
        adapters = adapters.with_for_update(read=True, of=Adapter)
    for adapter_id, erased_at in session.execute(adapters):
        if erased_at is not None:
            raise Conflict(
                f"Release {release_id} is gone for good: its adapter {adapter_id} was deleted at "
                f"{erased_at.isoformat(timespec='seconds')}, when facts that it had seen were "
                "erased."
            )


def recipe_without(session: Session, *adapter_ids: int) -> Recipe:
    """The head's recipe without some adapters.

    Raises NotFound for an unknown adapter, Conflict for one that is not in the head.
    """
    head = read_head(session)
    for adapter_id in adapter_ids:
        if session.get(Adapter, adapter_id) is None:
            raise NotFound(f"There is no adapter {adapter_id}.")
        if adapter_id not in head.recipe.adapter_ids:
            was_in = releases_with(session, adapter_id)
            why = "it was taken out before" if was_in else "the gate never let it in"
            raise Conflict(
                f"Adapter {adapter_id} is not in the head (release {head.release_id}): {why}."
            )
    left = [kept for kept in head.recipe.adapter_ids if kept not in adapter_ids]
    kept = [(held, session.get_one(Adapter, held).digest) for held in left]
    return _recipe(head.recipe.base_digest, kept)


def release_of(session: Session, recipe: Recipe) -> Release | None:
    """The release of a recipe, where there is one."""
    return session.scalar(select(Release).where(Release.recipe_digest == recipe.digest))


def was_head(session: Session, release_id: int) -> bool:
    """Whether a release was ever served: a rebase makes some that were not."""
    move = select(HeadMove.seq).where(HeadMove.release_id == release_id).limit(1)
    return session.scalar(move) is not None


def was_examined(session: Session, release_id: int) -> bool:
    """Whether a release became the head after somebody had looked at what it says."""
    moves = session.scalars(select(HeadMove).where(HeadMove.release_id == release_id))
    return any(move.action in EXAMINED or move.report is not None for move in moves)


def examined_by(session: Session, release_id: int) -> int:
    """The refresh whose candidate was just this release.

    Raises NotFound for an unknown release, Conflict where there is none.
    """
    recipe = recipe_of(session, release_id)
    if recipe.adapter_ids:
        newest = session.get_one(Adapter, recipe.adapter_ids[-1])
        before = recipe_of(session, newest.trained_on)
        if before.with_adapter(newest.id, newest.digest) == recipe:
            return newest.refresh_id
    raise Conflict(
        f"Release {release_id} was never examined as a candidate: it is the base, or a rollback "
        "made it."
    )


def batches_of(session: Session, adapter_ids: Collection[int]) -> list[int]:
    """The batches that some adapters were trained on."""
    wanted = Adapter.id.in_(sorted(adapter_ids))
    return list(session.scalars(select(Adapter.batch_id).where(wanted).order_by(Adapter.id)))


def release_with(
    session: Session, recipe: Recipe, *, snapshot_digest: str, now: datetime
) -> Release:
    """The release of a recipe: the one that is there, or a new one.

    Raises Conflict when it is there with another snapshot: a rebuild must be bit-identical.
    """
    known = release_of(session, recipe)
    if known is not None:
        if known.snapshot_digest != snapshot_digest:
            raise Conflict(
                f"Release {known.id} was composed as {known.snapshot_digest[:12]}… and now comes "
                f"out as {snapshot_digest[:12]}…: the environment or an artefact changed."
            )
        return known
    release = Release(
        recipe_digest=recipe.digest,
        base_digest=recipe.base_digest,
        snapshot_digest=snapshot_digest,
        created_at=now,
    )
    session.add(release)
    session.flush()
    session.add_all(
        ReleaseAdapter(release_id=release.id, position=position, adapter_id=adapter_id)
        for position, adapter_id in enumerate(recipe.adapter_ids)
    )
    return release


def make_first_release(session: Session, *, base_digest: str, by: str, now: datetime) -> int:
    """The base as it is becomes release and head, unless there is a head already."""
    if session.scalar(select(HeadMove.seq).limit(1)) is not None:
        return read_head(session).release_id
    recipe = Recipe(base_digest=base_digest, adapter_ids=(), adapter_digests=())
    release = release_with(session, recipe, snapshot_digest=base_digest, now=now)
    move_head(
        session,
        release.id,
        expected_seq=0,
        action=HeadAction.INIT,
        by=by,
        reason="the base as published",
        now=now,
    )
    return release.id


def move_head(
    session: Session,
    release_id: int,
    *,
    expected_seq: int,
    action: HeadAction,
    by: str,
    reason: str,
    now: datetime,
    refresh_id: int | None = None,
    report: dict[str, Any] | None = None,
) -> int:
    """Append one move to the head's history and return its number.

    Raises HeadMoved when the head is no longer the one that the caller saw, and Conflict for a
    release that an erasure took an adapter of.
    """
    check_not_erased(session, release_id, until_written=True)
    newest = session.scalar(select(HeadMove.seq).order_by(HeadMove.seq.desc()).limit(1)) or 0
    moved = f"The head moved from {expected_seq} meanwhile; look at it again and decide anew."
    if newest != expected_seq:
        raise HeadMoved(moved)
    move = HeadMove(
        seq=expected_seq + 1,
        release_id=release_id,
        action=action,
        by=by,
        reason=reason,
        moved_at=now,
        refresh_id=refresh_id,
        report=report,
    )
    session.add(move)
    try:
        session.flush()
    except IntegrityError as error:
        raise HeadMoved(moved) from error
    audit.record(session, Act.HEAD_MOVED, by=by, about=audit.about_move(move), now=now)
    return expected_seq + 1


def record_adapter(
    session: Session,
    *,
    refresh_id: int,
    batch_id: int,
    trained_on: int,
    digest: str,
    base_digest: str,
    about: dict[str, Any],
    now: datetime,
) -> int:
    """Write down a candidate; what becomes of it is for the refresh's outcome to say."""
    adapter = Adapter(
        refresh_id=refresh_id,
        batch_id=batch_id,
        trained_on=trained_on,
        digest=digest,
        base_digest=base_digest,
        about=about,
        created_at=now,
    )
    session.add(adapter)
    session.flush()
    return adapter.id


def promote(
    session: Session, candidate: Candidate, *, hold: Hold, verdict: Verdict, now: datetime
) -> int:
    """Make head + candidate the new head, in the caller's one transaction; return the release.

    Raises LeaseLost or HeadMoved; either way the transaction must be aborted.
    """
    leases.release(session, hold, now=now)
    release_id = _add_to_head(
        session,
        candidate,
        action=HeadAction.PROMOTION,
        by=hold.owner,
        reason=f"refresh {candidate.refresh_id} passed the gate",
        now=now,
    )
    _end(session, candidate.refresh_id, RefreshOutcome.PROMOTED, verdict, now)
    return release_id


def undecided_candidate(session: Session, adapter_id: int) -> tuple[Head, Recipe]:
    """The head, and what it would be with a candidate of which the gate could not tell.

    Raises NotFound for an unknown adapter, and Conflict with the reason for one that is not an
    admin's to let in: the gate decided, the head is not the one that it was examined beside, or its
    facts changed or were tried again since.
    """
    adapter = session.get(Adapter, adapter_id)
    if adapter is None:
        raise NotFound(f"There is no adapter {adapter_id}.")
    refresh = session.get_one(Refresh, adapter.refresh_id)
    if refresh.outcome != RefreshOutcome.INSUFFICIENT:
        raise Conflict(
            f"Adapter {adapter_id} is of refresh {refresh.id}, which ended as "
            f"{refresh.outcome or 'nothing yet'}: only one of which the gate could not tell "
            f"({RefreshOutcome.INSUFFICIENT}) can be let in."
        )
    if adapter.erased_at is not None:
        raise Conflict(
            f"Adapter {adapter_id} was deleted at {adapter.erased_at.isoformat(timespec='seconds')}"
            ", when facts that it had seen were erased."
        )
    head = read_head(session)
    if head.release_id != adapter.trained_on:
        raise Conflict(
            f"Adapter {adapter_id} was trained and examined on release {adapter.trained_on}, and "
            f"the head is release {head.release_id}: nobody has seen the two together. Its facts "
            "join the next batch."
        )
    later = batches.tried_since(session, adapter.batch_id)
    if later:
        raise Conflict(
            f"Facts of adapter {adapter_id} were in a later batch, too: "
            f"{', '.join(map(str, later))}. Its verdict is the one that counts."
        )
    decided = batches.decided_by_verdict(session, refresh.id)
    withdrawn = batches.withdrawn(session, decided, or_replaced=True)
    if withdrawn:
        raise Conflict(
            f"Fact {', '.join(map(str, withdrawn))} of adapter {adapter_id} was withdrawn or "
            "replaced since; the others wait for a batch without it."
        )
    return head, head.recipe.with_adapter(adapter.id, adapter.digest)


def let_in(session: Session, candidate: Candidate, *, by: str, reason: str, now: datetime) -> int:
    """Promote a candidate of which the gate could not tell, on an admin's word; return the release.

    What the gate said stays with the refresh. Raises what `undecided_candidate` raises, HeadMoved
    when the head is no longer the one that the caller saw, and LeaseHeld while a refresh runs.
    """
    hold = leases.acquire(session, leases.REFRESH, owner=by, now=now, lease_s=0)
    leases.release(session, hold, now=now)
    undecided_candidate(session, candidate.adapter_id)
    refresh = session.get_one(Refresh, candidate.refresh_id)
    memberships = batches.decided_by_verdict(session, refresh.id)
    for fact_id in facts.held_of(session, [membership.fact_id for membership in memberships]):
        facts.approve(session, fact_id, by=by, now=now)
    batches.reopen(session, memberships)
    release_id = _add_to_head(
        session, candidate, action=HeadAction.APPROVAL, by=by, reason=reason, now=now
    )
    refresh.outcome = RefreshOutcome.PROMOTED
    refresh.reason = f"let in by {by}: {reason}; the gate could not tell: {refresh.reason}"
    return release_id


def _add_to_head(
    session: Session,
    candidate: Candidate,
    *,
    action: HeadAction,
    by: str,
    reason: str,
    now: datetime,
) -> int:
    """Move the head to its recipe with one more adapter, and decide the memberships in work."""
    release_id = _add_to_line(session, candidate, now=now)
    move_head(
        session,
        release_id,
        expected_seq=candidate.head.seq,
        action=action,
        by=by,
        reason=reason,
        now=now,
        refresh_id=candidate.refresh_id,
    )
    return release_id


def _add_to_line(session: Session, candidate: Candidate, *, now: datetime) -> int:
    """The release of head and candidate, with the memberships in work decided.

    Raises HeadMoved where a fact of the batch was retracted meanwhile. One that was replaced goes
    in as it was: a source that replaces one faster than a batch is trained would keep all others
    out, and its successor is in the next batch, whose gate asks that the old answer is gone.
    """
    withdrawn = batches.withdrawn(session, batches.in_work(session, candidate.refresh_id))
    if withdrawn:
        raise HeadMoved(
            f"Fact {', '.join(map(str, withdrawn))} was retracted meanwhile; "
            "the others wait for a batch without it."
        )
    adapter = session.get_one(Adapter, candidate.adapter_id)
    recipe = candidate.head.recipe.with_adapter(adapter.id, adapter.digest)
    digest = candidate.snapshot_digest
    release = release_with(session, recipe, snapshot_digest=digest, now=now)
    batches.decide_memberships(
        session,
        candidate.refresh_id,
        candidate.outcomes,
        default=MembershipOutcome.UNPROVEN,
        reasons=candidate.reasons,
        tries=candidate.tries,
        now=now,
    )
    return release.id


def pass_beside_head(
    session: Session, candidate: Candidate, *, verdict: Verdict, now: datetime
) -> int:
    """Make a release of a line beside the head that passed the gate; the head stays. Its id.

    Raises HeadMoved where a fact of the batch was retracted meanwhile.
    """
    release_id = _add_to_line(session, candidate, now=now)
    _end(session, candidate.refresh_id, RefreshOutcome.REBASED, verdict, now)
    return release_id


def reject(
    session: Session,
    *,
    hold: Hold | None,
    refresh_id: int,
    outcome: RefreshOutcome,
    verdict: Verdict,
    are_freed: bool = False,
    held: Mapping[int, str] = MappingProxyType({}),
    tries: int,
    now: datetime,
) -> None:
    """Keep the candidate with its reasons; the head stays. Raises LeaseLost.

    Where the gate could not tell, the facts are tried again, up to `tries` times in all; where they
    `are_freed`, they are what they were before. Those that are `held`, each with its reason, wait
    for an admin, however often they were tried. Without a `hold` the lease stays the caller's.
    """
    if hold is not None:
        leases.release(session, hold, now=now)
    decided = (
        MembershipOutcome.UNDECIDED
        if outcome is RefreshOutcome.INSUFFICIENT
        else MembershipOutcome.REJECTED
    )
    batches.decide_memberships(
        session,
        refresh_id,
        {},
        default=MembershipOutcome.FREED if are_freed else decided,
        reason="; ".join(verdict.reasons),
        tries=tries,
        stay_open=held,
        now=now,
    )
    facts.hold(session, held)
    _end(session, refresh_id, outcome, verdict, now)


def _end(
    session: Session, refresh_id: int, outcome: RefreshOutcome, verdict: Verdict, now: datetime
) -> None:
    refresh = session.get_one(Refresh, refresh_id)
    refresh.outcome, refresh.ended_at, refresh.phase = outcome, now, "ended"
    refresh.reason = "; ".join(verdict.reasons) or "all suites passed"
    refresh.verdict = asdict(verdict)


def first_release_id(session: Session) -> int:
    """The release that is the base as published."""
    first = session.scalar(select(HeadMove.release_id).order_by(HeadMove.seq).limit(1))
    if first is None:
        raise DatabaseNotReady("There is no release yet; run `lorewright init`.")
    return first


def releases_with(session: Session, adapter_id: int) -> list[int]:
    """Every release whose recipe holds the adapter."""
    return list(
        session.scalars(
            select(ReleaseAdapter.release_id)
            .where(ReleaseAdapter.adapter_id == adapter_id)
            .order_by(ReleaseAdapter.release_id)
        )
    )
