"""Facts: stored once, superseded, retracted, and the one function that derives their state."""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.models import Adapter, FactRow, HeadMove, Membership, MembershipOutcome, ReleaseAdapter
from service.schemas import FactIn


class FactState(StrEnum):
    """Where a fact stands. Derived, never stored."""

    PENDING = "pending"  #: without a batch: the next refresh takes it
    IN_WORK = "in_work"  #: a refresh is at it
    LIVE = "live"  #: its adapter is in the head and its own probes passed
    UNLEARNED = "unlearned"  #: the same, but its own probes did not pass: a later refresh takes it
    QUARANTINED = "quarantined"  #: the same, and it was tried as often as it may be
    UNPROVEN = "unproven"  #: its adapter is in the head, and it has no probes
    UNDECIDED = "undecided"  #: the gate could not tell: a later refresh takes it, among more
    REJECTED = "rejected"  #: the gate did not pass its adapter, or it could not be trained
    ROLLED_BACK = "rolled_back"  #: its adapter was in a head and no longer is
    SUPERSEDED = "superseded"  #: replaced by a newer fact
    RETRACTED = "retracted"  #: withdrawn by its owner


class Stored(StrEnum):
    """What became of one item of a request."""

    STORED = "stored"
    DUPLICATE = "duplicate"  #: the same body under the same key: nothing to do
    CONFLICT = "conflict"  #: another body under the same key: refused


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemOutcome:
    """The outcome of one item. For a conflict `id` is the fact that holds the key."""

    stored: Stored
    id: int
    external_id: str
    digest: str
    held_digest: str  #: of the body that is stored under the key


STATE_IN_HEAD = {
    MembershipOutcome.LEARNED: FactState.LIVE,
    MembershipOutcome.UNLEARNED: FactState.UNLEARNED,
    MembershipOutcome.QUARANTINED: FactState.QUARANTINED,
    MembershipOutcome.UNPROVEN: FactState.UNPROVEN,
}


STATE_OUTSIDE = {
    MembershipOutcome.UNDECIDED: FactState.UNDECIDED,
    MembershipOutcome.REJECTED: FactState.REJECTED,
}
#: After these a fact waits again, beside new ones.
TRIED_AGAIN = (MembershipOutcome.UNLEARNED, MembershipOutcome.UNDECIDED)


def insert_fact(
    session: Session, fact: FactIn, *, source: str, recorded_by: str, now: datetime
) -> ItemOutcome:
    """Store one fact, unless its source already has one under the same key.

    A savepoint holds the item, so a neighbour in the same transaction never suffers from it.
    """
    held = _held(session, source, fact.key)
    if held is not None:
        return _seen_before(fact, held)
    row = FactRow(
        source=source,
        external_id=fact.key,
        body_digest=fact.digest,
        recorded_at=now,
        recorded_by=recorded_by,
        **fact.model_dump(exclude={"external_id", "provenance", "probes"}),
        provenance=fact.provenance.model_dump(mode="json", exclude_none=True),
        probes=[probe.model_dump(mode="json") for probe in fact.probes],
    )
    try:
        with session.begin_nested():
            session.add(row)
            session.flush()
    except IntegrityError:  # another writer stored the same key in the same moment
        held = _held(session, source, fact.key)
        if held is None:
            raise
        return _seen_before(fact, held)
    _supersede_older(session, row)
    return ItemOutcome(
        stored=Stored.STORED,
        id=row.id,
        external_id=row.external_id,
        digest=row.body_digest,
        held_digest=row.body_digest,
    )


def _held(session: Session, source: str, key: str) -> FactRow | None:
    return session.scalar(
        select(FactRow).where(FactRow.source == source, FactRow.external_id == key)
    )


def _seen_before(fact: FactIn, held: FactRow) -> ItemOutcome:
    is_same = held.body_digest == fact.digest
    return ItemOutcome(
        stored=Stored.DUPLICATE if is_same else Stored.CONFLICT,
        id=held.id,
        external_id=held.external_id,
        digest=fact.digest,
        held_digest=held.body_digest,
    )


def _supersede_older(session: Session, newer: FactRow) -> None:
    """A functional fact replaces older ones of the same source, subject, relation and qualifiers.

    Only of its own source: what one team sends must not take back what another one said.
    """
    if not newer.functional:
        return
    older = session.scalars(
        select(FactRow).where(
            FactRow.source == newer.source,
            FactRow.subject == newer.subject,
            FactRow.relation == newer.relation,
            FactRow.functional,
            FactRow.superseded_by.is_(None),
            FactRow.retracted_at.is_(None),
            FactRow.id < newer.id,
        )
    )
    for row in older:
        if canonical(row.qualifiers) == canonical(newer.qualifiers):
            row.superseded_by = newer.id


def canonical(value: object) -> str:
    """A free-form value as one text, to compare."""
    return json.dumps(value, sort_keys=True)


def is_pending() -> ColumnElement[bool]:
    """SQL for: was never tried, or only by refreshes that ended without a verdict."""
    return _stands() & ~_was_given(*set(MembershipOutcome) - {MembershipOutcome.FREED})


def is_tried_again(head: Collection[int]) -> ColumnElement[bool]:
    """SQL for: every try so far left it open, and a later refresh takes it along.

    `head` are the head's batches: what an admin took out does not come back by itself.
    """
    return (
        _stands()
        & _was_given(*TRIED_AGAIN)
        & ~_was_given(*set(MembershipOutcome) - {*TRIED_AGAIN, MembershipOutcome.FREED})
        & ~exists().where(
            Membership.fact_id == FactRow.id,
            Membership.outcome == MembershipOutcome.UNLEARNED,
            Membership.batch_id.not_in(sorted(head)),
        )
    )


def _stands() -> ColumnElement[bool]:
    return FactRow.superseded_by.is_(None) & FactRow.retracted_at.is_(None)


def _was_given(*outcomes: MembershipOutcome) -> ColumnElement[bool]:
    """SQL for: has a membership with one of these outcomes, or is in work."""
    return exists().where(
        Membership.fact_id == FactRow.id,
        Membership.outcome.is_(None) | Membership.outcome.in_(sorted(outcomes)),
    )


def states_of(session: Session, facts: Sequence[FactRow]) -> dict[int, FactState]:
    """Every fact's state, from its memberships and the head's recipe."""
    ids = [fact.id for fact in facts]
    latest = {
        membership.fact_id: membership
        for membership in session.scalars(
            select(Membership)
            .where(
                Membership.fact_id.in_(ids),
                Membership.outcome.is_(None) | (Membership.outcome != MembershipOutcome.FREED),
            )
            .order_by(Membership.batch_id)
        )
    }
    in_head = head_batches(session)
    return {fact.id: state_of(fact, latest.get(fact.id), in_head) for fact in facts}


def state_of(fact: FactRow, membership: Membership | None, in_head: Iterable[int]) -> FactState:
    """One fact's state from its latest membership that was not freed, and the head's batches."""
    if fact.retracted_at is not None:
        return FactState.RETRACTED
    if fact.superseded_by is not None:
        return FactState.SUPERSEDED
    if membership is None:
        return FactState.PENDING
    if membership.outcome is None:
        return FactState.IN_WORK
    outcome = MembershipOutcome(membership.outcome)
    if outcome in STATE_OUTSIDE:
        return STATE_OUTSIDE[outcome]
    if membership.batch_id not in in_head:
        return FactState.ROLLED_BACK
    return STATE_IN_HEAD[outcome]


def head_batches(session: Session) -> frozenset[int]:
    """The batches whose adapters are in the head."""
    newest = select(HeadMove.release_id).order_by(HeadMove.seq.desc()).limit(1)
    return frozenset(
        session.scalars(
            select(Adapter.batch_id)
            .join(ReleaseAdapter, ReleaseAdapter.adapter_id == Adapter.id)
            .where(ReleaseAdapter.release_id == newest.scalar_subquery())
        )
    )


def retract(session: Session, fact_id: int, *, now: datetime) -> FactRow:
    """Withdraw a fact: it is no longer trained. What an adapter already learned stays until that
    adapter is taken out. Raises NotFound, or Conflict when it was retracted before."""
    row = session.get(FactRow, fact_id)
    if row is None:
        raise NotFound(f"There is no fact {fact_id}.")
    if row.retracted_at is not None:
        raise Conflict(f"Fact {fact_id} was already retracted at {row.retracted_at.isoformat()}.")
    row.retracted_at = now
    return row
