"""Facts: stored once, superseded, retracted, and the one function that derives their state."""

import hashlib
import hmac
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select, true
from sqlalchemy.orm import Session, aliased

from adapters.types import Suite
from service import audit
from service.audit import Act
from service.errors import Conflict, NotFound
from service.insert import insert_new
from service.models import (
    Adapter,
    Batch,
    Erasure,
    FactRow,
    HeadMove,
    Membership,
    MembershipOutcome,
    ProbeAnswer,
    Refresh,
    RefreshOutcome,
    ReleaseAdapter,
)
from service.schemas import FactIn
from service.settings import FactSettings

KEYS_A_QUERY = 500  #: an SQL statement may have so many parameters
FACTS = FactRow.metadata.tables[FactRow.__tablename__]
UNIQUE = ("source", "external_id")
INSERT_TRIES = 10


class FactState(StrEnum):
    """Where a fact stands. Derived, never stored."""

    HELD = "held"  #: must be approved by an admin before a refresh takes it
    EXPIRED = "expired"  #: valid no longer: neither trained nor asked any more; to be retracted
    PENDING = "pending"  #: without a batch: the next refresh takes it, from its valid_from on
    IN_WORK = "in_work"  #: a refresh is at it
    LIVE = "live"  #: its adapter is in the head and its own probes passed
    FORGOTTEN = "forgotten"  #: it was live, and a later release no longer answers for it
    UNLEARNED = (
        "unlearned"  #: the same as live, but its own probes did not pass: a later refresh takes it
    )
    QUARANTINED = "quarantined"  #: the same, and it was tried as often as it may be
    UNPROVEN = "unproven"  #: its adapter is in the head, and it has no probes
    UNDECIDED = "undecided"  #: the gate could not tell: a later refresh takes it, among more
    REJECTED = "rejected"  #: the gate did not pass its adapter, or it could not be trained
    ROLLED_BACK = "rolled_back"  #: its adapter was in a head and no longer is
    SUPERSEDED = "superseded"  #: replaced by a newer fact
    RETRACTED = "retracted"  #: withdrawn by its owner
    ERASED = "erased"  #: the same, and nothing that it said is left (service.erasure)


class Stored(StrEnum):
    """What became of one item of a request."""

    STORED = "stored"
    DUPLICATE = "duplicate"  #: the same body under the same key: nothing to do
    CONFLICT = "conflict"  #: another body under the same key: refused
    ERASED = "erased"  #: its key is that of a fact that was erased: refused


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemOutcome:
    """The outcome of one item. For a conflict `id` is the fact that holds the key."""

    stored: Stored
    id: int
    external_id: str
    digest: str
    held_digest: str  #: of the body that is stored under the key
    waits_for: str | None  #: why it waits for an admin, where it does
    withdrawn: str | None = None  #: why it stands no longer, where it was there before


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
#: What a fact is instead, whose earlier adapter is in the head.
STILL_IN_HEAD = {
    FactState.UNDECIDED: FactState.UNLEARNED,
    FactState.REJECTED: FactState.QUARANTINED,
}
#: After these a fact waits again, beside new ones.
TRIED_AGAIN = (MembershipOutcome.UNLEARNED, MembershipOutcome.UNDECIDED)


def reason_to_hold(fact: FactIn, settings: FactSettings) -> str | None:
    """Why a fact must wait for an admin, by the settings of the day; None where it need not."""
    if fact.trust is not None and fact.trust.casefold() in map(str.casefold, settings.hold_trust):
        return f"its trust is {fact.trust!r} (facts.hold_trust)"
    least = settings.hold_confidence_below
    if fact.confidence is not None and fact.confidence < least:
        return f"its confidence is {fact.confidence:g}, below {least:g}"
    return None


def insert_fact(
    session: Session,
    fact: FactIn,
    *,
    source: str,
    recorded_by: str,
    held_reason: str | None = None,
    pepper: bytes | None = None,
    now: datetime,
) -> ItemOutcome:
    """Store one fact: `insert_facts` of one."""
    (outcome,) = insert_facts(
        session,
        [(fact, held_reason)],
        source=source,
        recorded_by=recorded_by,
        pepper=pepper,
        now=now,
    )
    return outcome


def insert_facts(
    session: Session,
    items: Sequence[tuple[FactIn, str | None]],
    *,
    source: str,
    recorded_by: str,
    pepper: bytes | None = None,
    now: datetime,
) -> list[ItemOutcome]:
    """Store facts, each unless its source already has one under the same key; outcomes in order.

    With each stands why it must wait for an admin, where it must. With the installation's `pepper`
    a key is known again whose fact was erased. The facts must be of one source.
    """
    keys = [fact.key for fact, _ in items]
    new: dict[str, dict[str, Any]] = {}
    for key, (fact, reason) in zip(keys, items, strict=True):
        if key not in new:
            new[key] = _columns_of(fact, source, recorded_by, reason, now)
    # Nearly always all are new: what is held is asked for where a key was once erased, or some did
    # not go in. Another writer may then store one of the rest in the same moment. PostgreSQL gives
    # an id to what does not go in, too, and never takes it back: there it is asked for first.
    must_ask = session.get_bind().dialect.name != "sqlite" or (
        pepper is not None and session.scalar(select(Erasure.id).limit(1)) is not None
    )
    held = _held(session, source, keys, pepper) if must_ask else {}
    for _ in range(INSERT_TRIES):
        new = {key: row for key, row in new.items() if key not in held}
        stored = _insert(session, new)
        if stored is not None:
            break
        held = _held(session, source, keys, pepper)
    else:
        raise Conflict("Somebody stores the same keys at the same time; send them again.")
    outcomes = []
    for key, (fact, reason) in zip(keys, items, strict=True):
        if key in held:
            outcomes.append(_seen_before(fact, held[key]))
            continue
        held[key] = _Held(stored[key], fact.digest, reason, is_erased=False)
        if fact.functional:
            _let_newest_stand(session, session.get_one(FactRow, stored[key]), now=now)
        outcomes.append(_outcome(fact, held[key], Stored.STORED))
    return outcomes


@dataclass(frozen=True, slots=True)
class _Held:
    """What is stored under a key."""

    id: int
    digest: str
    waits_for: str | None
    is_erased: bool
    withdrawn: str | None = None


def _held(
    session: Session, source: str, keys: Sequence[str], pepper: bytes | None
) -> dict[str, _Held]:
    """What the source has under these keys, and what it had until that was erased."""
    held = _stored_under(session, source, {key: key for key in keys})
    missing = [key for key in keys if key not in held]
    # Asked after the keys themselves: an erasure that ends in between is seen.
    if missing and pepper is not None and session.scalar(select(Erasure.id).limit(1)) is not None:
        erased = {key_once_erased(source, key, pepper): key for key in missing}
        held |= _stored_under(session, source, erased)
    return held


def _stored_under(session: Session, source: str, meant: Mapping[str, str]) -> dict[str, _Held]:
    """What the source has under the keys of a mapping, by what each of them stands for."""
    wanted = list(meant)
    found = {}
    for first in range(0, len(wanted), KEYS_A_QUERY):
        rows = session.execute(
            select(
                FactRow.external_id,
                FactRow.id,
                FactRow.body_digest,
                FactRow.held_reason,
                FactRow.approved_at,
                FactRow.erased_at,
                FactRow.superseded_by,
                FactRow.retracted_at,
            ).where(
                FactRow.source == source,
                FactRow.external_id.in_(wanted[first : first + KEYS_A_QUERY]),
            )
        )
        for external_id, fact_id, digest, reason, approved_at, erased_at, by, retracted in rows:
            found[meant[external_id]] = _Held(
                fact_id,
                digest,
                None if approved_at else reason,
                is_erased=erased_at is not None,
                withdrawn=_why_withdrawn(retracted, by),
            )
    return found


def _why_withdrawn(retracted_at: datetime | None, superseded_by: int | None) -> str | None:
    if retracted_at is not None:
        return "it was retracted"
    return None if superseded_by is None else f"it was replaced by fact {superseded_by}"


def _columns_of(
    fact: FactIn, source: str, recorded_by: str, held_reason: str | None, now: datetime
) -> dict[str, Any]:
    return {
        **fact.body,
        "valid_from": fact.valid_from,
        "valid_to": fact.valid_to,
        "retention_until": fact.retention_until,
        "source": source,
        "external_id": fact.key,
        "body_digest": fact.digest,
        "recorded_at": now,
        "recorded_by": recorded_by,
        "provenance": {name: told for name, told in fact.body["provenance"].items() if told},
        "held_reason": held_reason,
    }


def _insert(session: Session, rows: Mapping[str, dict[str, Any]]) -> dict[str, int] | None:
    """Store rows of one source; the new ids by key, which rise in the order that the rows came in.

    None, and nothing is stored, where one of the keys is taken. The ids are asked for afterwards:
    for PostgreSQL one statement with the values of all rows, which RETURNING needs, takes three
    times as long.
    """
    if not rows:
        return {}
    before = session.scalar(select(func.max(FactRow.id))) or 0
    with session.begin_nested() as part:
        count = insert_new(session, FACTS, list(rows.values()), unique=UNIQUE)
        if count < len(rows):
            part.rollback()
            return None
    source = next(iter(rows.values()))["source"]
    # By the id alone: by the source, too, SQLite would go through all that it ever sent.
    new = select(FactRow.external_id, FactRow.id, FactRow.source).where(FactRow.id > before)
    return {
        key: fact_id
        for key, fact_id, sent_by in session.execute(new)
        if sent_by == source and key in rows
    }


def key_once_erased(source: str, key: str, pepper: bytes) -> str:
    """What stands for a key of an erased fact: it can be checked, but not read or guessed."""
    code = hmac.new(pepper, json.dumps([source, key]).encode(), hashlib.sha256)
    return f"erased:{code.hexdigest()}"


def _seen_before(fact: FactIn, held: _Held) -> ItemOutcome:
    is_same = held.digest == fact.digest
    stored = Stored.DUPLICATE if is_same else Stored.CONFLICT
    return _outcome(fact, held, Stored.ERASED if held.is_erased else stored)


def _outcome(fact: FactIn, held: _Held, stored: Stored) -> ItemOutcome:
    return ItemOutcome(
        stored=stored,
        id=held.id,
        external_id=fact.key,
        digest=fact.digest,
        held_digest=held.digest,
        waits_for=held.waits_for,
        withdrawn=held.withdrawn,
    )


def let_begun_stand(session: Session, *, now: datetime) -> None:
    """Let functional facts that were told of ahead replace others, once they hold."""
    begun = select(FactRow).where(
        is_pending(now), FactRow.functional, FactRow.valid_from > FactRow.recorded_at
    )
    for row in session.scalars(begun.order_by(FactRow.valid_from, FactRow.id)):
        if row.superseded_by is None:
            _let_newest_stand(session, row, now=now)


def _let_newest_stand(session: Session, row: FactRow, *, now: datetime) -> None:
    """Of functional facts of one source, subject, relation and qualifiers the newest replaces all.

    Only of one source: what one team sends must not take back what another one said. And only what
    may be trained counts: a held fact replaces nothing, and nothing replaces it, before it is
    approved; nor does one that has ended, or has not begun. The newest is the one that was told of
    last, or that began since.
    """
    if not row.functional or (row.held_reason and not row.approved_at) or not _holds(row, now):
        return
    if session.get_bind().dialect.name == "postgresql":  # where two may write at once
        about = json.dumps([row.source, row.subject, row.relation])
        session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(about, 0))))
    same = session.scalars(
        select(FactRow).where(
            FactRow.source == row.source,
            FactRow.subject == row.subject,
            FactRow.relation == row.relation,
            FactRow.functional,
            FactRow.superseded_by.is_(None),
            FactRow.retracted_at.is_(None),
            ~is_held(),
        )
    )
    rivals = [
        other
        for other in same
        if canonical(other.qualifiers) == canonical(row.qualifiers) and _holds(other, now)
    ]
    newest = max(rivals, key=lambda rival: (_since(rival), rival.id))
    replaced = [rival for rival in rivals if rival is not newest]
    if not replaced:
        return
    before = select(FactRow).where(FactRow.superseded_by.in_([rival.id for rival in replaced]))
    for other in (*session.scalars(before), *replaced):  # what they replaced is replaced by it, too
        other.superseded_by = newest.id


def _holds(row: FactRow, now: datetime) -> bool:
    """Whether it has begun and has not ended."""
    has_begun = row.valid_from is None or row.valid_from <= now
    return has_begun and (row.valid_to is None or row.valid_to > now)


def _since(row: FactRow) -> datetime:
    """Since when it is the word of its source."""
    return max(row.recorded_at, row.valid_from or row.recorded_at)


def _restore_older(session: Session, withdrawn: FactRow) -> None:
    """What a withdrawn fact replaced stands again: the newest of it, in place of the others.

    A held one replaces nothing, and nothing replaces it.
    """
    behind = session.scalars(select(FactRow).where(FactRow.superseded_by == withdrawn.id))
    replaced = sorted(behind, key=lambda row: (_since(row), row.id), reverse=True)
    held = [row for row in replaced if _waits_for_admin(row)]
    standing = next((row for row in replaced if row.retracted_at is None and row not in held), None)
    for row in replaced:
        is_behind = standing is not None and row is not standing and row not in held
        row.superseded_by = standing.id if standing is not None and is_behind else None


def canonical(value: object) -> str:
    """A free-form value as one text, to compare."""
    return json.dumps(value, sort_keys=True)


def is_pending(now: datetime) -> ColumnElement[bool]:
    """SQL for: was never tried, or only by refreshes that ended without a verdict."""
    return _may_be_trained(now) & ~_was_given(*set(MembershipOutcome) - {MembershipOutcome.FREED})


def is_tried_again(head: Collection[int], now: datetime) -> ColumnElement[bool]:
    """SQL for: every try so far left it open, and a later refresh takes it along.

    `head` are the head's batches: what an admin took out does not come back by itself. What a
    rebase trained beside the head counts only where it came into it.
    """
    in_head = sorted(head)
    # What a rebase came to since then counts, and not what it was trained again instead of.
    counts = Membership.batch_id.not_in(_rebased(in_head)) & (
        Membership.batch_id.in_(in_head) | ~_was_trained_again(in_head)
    )
    return (
        _may_be_trained(now)
        & _was_given(*TRIED_AGAIN)
        & ~_was_given(*set(MembershipOutcome) - {*TRIED_AGAIN, MembershipOutcome.FREED}, of=counts)
        & ~_was_taken_out(in_head)
    )


def is_settled_by_approval(head: Collection[int], now: datetime) -> ColumnElement[bool]:
    """SQL for: waits for an admin's approval and for nothing else, where `head` are its batches."""
    return is_valid(now) & is_held() & ~_was_taken_out(sorted(head))


def _was_taken_out(in_head: Sequence[int]) -> ColumnElement[bool]:
    """SQL for: an adapter that left it open was in a head, and no later one that saw it is."""
    return exists().where(
        Membership.fact_id == FactRow.id,
        Membership.outcome == MembershipOutcome.UNLEARNED,
        Membership.batch_id.not_in(in_head),
        Membership.batch_id.not_in(_rebased(in_head)),
        ~_was_trained_again(in_head),
    )


def _was_trained_again(in_head: Sequence[int]) -> ColumnElement[bool]:
    """SQL for: a later batch of a membership's fact is in the head."""
    later = aliased(Membership)
    return exists().where(
        later.fact_id == Membership.fact_id,
        later.batch_id > Membership.batch_id,
        later.batch_id.in_(in_head),
    )


def _rebased(in_head: Collection[int]) -> Select[int]:
    """SQL for the batches that a rebase trained and that did not come into the head."""
    return (
        select(Batch.id)
        .join(Refresh, Refresh.id == Batch.refresh_id)
        .where(Refresh.outcome == RefreshOutcome.REBASED, Batch.id.not_in(in_head))
    )


def is_valid(now: datetime) -> ColumnElement[bool]:
    """SQL for: its sender still stands by it."""
    return (
        FactRow.superseded_by.is_(None)
        & FactRow.retracted_at.is_(None)
        & (FactRow.valid_to.is_(None) | (FactRow.valid_to > now))
    )


def is_retained(now: datetime) -> ColumnElement[bool]:
    """SQL for: the model must still know it once it does."""
    return is_valid(now) & (FactRow.retention_until.is_(None) | (FactRow.retention_until > now))


def is_held() -> ColumnElement[bool]:
    """SQL for: waits for an admin."""
    return FactRow.held_reason.is_not(None) & FactRow.approved_at.is_(None)


def _may_be_trained(now: datetime) -> ColumnElement[bool]:
    has_begun = FactRow.valid_from.is_(None) | (FactRow.valid_from <= now)
    return is_valid(now) & has_begun & ~is_held()


def _was_given(
    *outcomes: MembershipOutcome, of: ColumnElement[bool] | None = None
) -> ColumnElement[bool]:
    """SQL for: has a membership with one of these outcomes, or is in work.

    `of` says which memberships count; all of them by default.
    """
    return exists().where(
        Membership.fact_id == FactRow.id,
        Membership.outcome.is_(None) | Membership.outcome.in_(sorted(outcomes)),
        true() if of is None else of,
    )


def states_of(session: Session, facts: Sequence[FactRow], *, now: datetime) -> dict[int, FactState]:
    """Every fact's state, from its memberships, the head's recipe and the time."""
    ids = [fact.id for fact in facts]
    in_head = head_batches(session)
    tried = session.scalars(
        select(Membership)
        .where(
            Membership.fact_id.in_(ids),
            Membership.outcome.is_(None) | (Membership.outcome != MembershipOutcome.FREED),
            Membership.batch_id.not_in(_rebased(sorted(in_head))),
        )
        .order_by(Membership.batch_id)
    ).all()
    latest = {membership.fact_id: membership for membership in tried}
    states = {fact.id: state_of(fact, latest.get(fact.id), in_head, now=now) for fact in facts}
    by_id = {fact.id: fact for fact in facts}
    for membership in tried:  # a later try that failed takes nothing out of the head
        state = states[membership.fact_id]
        if membership.outcome not in STATE_IN_HEAD or membership.batch_id not in in_head:
            continue
        is_known = membership.outcome == MembershipOutcome.LEARNED
        if is_known and state in (*STILL_IN_HEAD, FactState.IN_WORK):
            fact = by_id[membership.fact_id]  # what is known is tried again by a rebase alone
            states[fact.id] = state_of(fact, membership, in_head, now=now)
        elif state in STILL_IN_HEAD:
            states[membership.fact_id] = STILL_IN_HEAD[state]
    live = [fact_id for fact_id, state in states.items() if state is FactState.LIVE]
    return states | dict.fromkeys(forgotten(session, live, in_head), FactState.FORGOTTEN)


def forgotten(session: Session, fact_ids: Sequence[int] | None, head: Collection[int]) -> set[int]:
    """Those, of all facts or of these, that were no longer known when last asked again.

    Only refreshes whose batch is in the head count: what an admin took out forgot nothing.

    A direction is known where at least half of its wordings are answered (adapters.judges).
    """
    asked = session.execute(
        select(ProbeAnswer.fact_id, ProbeAnswer.probe_key, ProbeAnswer.contained, Adapter.id)
        .join(Adapter, Adapter.refresh_id == ProbeAnswer.refresh_id)
        .where(
            true() if fact_ids is None else ProbeAnswer.fact_id.in_(fact_ids),
            ProbeAnswer.suite.in_([Suite.RETENTION, Suite.RECALLED]),
            ProbeAnswer.stage == "after",
            Adapter.batch_id.in_(sorted(head)),
        )
        .order_by(Adapter.id)
    )
    last: dict[int, tuple[int, dict[str, list[bool]]]] = {}
    for found, key, contained, adapter_id in asked:
        fact_id = int(found or 0)
        if fact_id not in last or last[fact_id][0] != adapter_id:
            last[fact_id] = (adapter_id, {})
        question = key.rpartition("/")[0]  # all wordings of a direction have it in common
        last[fact_id][1].setdefault(question, []).append(contained)
    return {
        fact_id
        for fact_id, (_, directions) in last.items()
        if any(2 * sum(marks) < len(marks) for marks in directions.values())
    }


def state_of(
    fact: FactRow, membership: Membership | None, in_head: Iterable[int], *, now: datetime
) -> FactState:
    """One fact's state from its latest membership that was not freed, and the head's batches."""
    if fact.erased_at is not None:
        return FactState.ERASED
    if fact.retracted_at is not None:
        return FactState.RETRACTED
    if fact.superseded_by is not None:
        return FactState.SUPERSEDED
    is_expired = fact.valid_to is not None and fact.valid_to <= now
    if membership is None:
        waits = FactState.HELD if _waits_for_admin(fact) else FactState.PENDING
        return FactState.EXPIRED if is_expired else waits
    if membership.outcome is None:
        return FactState.IN_WORK
    outcome = MembershipOutcome(membership.outcome)
    if outcome in STATE_OUTSIDE:
        if outcome is MembershipOutcome.UNDECIDED and is_expired:
            return FactState.EXPIRED
        if outcome is MembershipOutcome.UNDECIDED and _waits_for_admin(fact):
            return FactState.HELD
        return STATE_OUTSIDE[outcome]
    if membership.batch_id not in in_head:
        return FactState.ROLLED_BACK
    if is_expired:
        return FactState.EXPIRED
    is_open = outcome in (MembershipOutcome.UNLEARNED, MembershipOutcome.QUARANTINED)
    return FactState.HELD if is_open and _waits_for_admin(fact) else STATE_IN_HEAD[outcome]


def _waits_for_admin(fact: FactRow) -> bool:
    """As `is_held`."""
    return fact.held_reason is not None and fact.approved_at is None


def head_batches(session: Session) -> frozenset[int]:
    """The batches whose adapters are in the head."""
    newest = session.scalar(select(HeadMove.release_id).order_by(HeadMove.seq.desc()).limit(1))
    return frozenset() if newest is None else release_batches(session, newest)


def release_batches(session: Session, release_id: int) -> frozenset[int]:
    """The batches whose adapters are in a release."""
    return frozenset(
        session.scalars(
            select(Adapter.batch_id)
            .join(ReleaseAdapter, ReleaseAdapter.adapter_id == Adapter.id)
            .where(ReleaseAdapter.release_id == release_id)
        )
    )


def hold(session: Session, reasons: Mapping[int, str]) -> None:
    """Let no refresh take these facts until an admin has looked at them, each for its reason.

    What they replaced stands again. One that was approved before is held again; for what, stays.
    """
    for row in session.scalars(select(FactRow).where(FactRow.id.in_(reasons))):
        reason, earlier = reasons[row.id], row.held_reason if row.approved_at else None
        if earlier:
            reason = earlier if reason in earlier else f"{reason} (approved before: {earlier})"
        row.held_reason, row.approved_at, row.approved_by = reason, None, None
        _restore_older(session, row)


def held_of(session: Session, fact_ids: Collection[int]) -> list[int]:
    """Those of the facts that wait for an admin and still stand."""
    wanted = select(FactRow.id).where(
        FactRow.id.in_(fact_ids),
        is_held(),
        FactRow.superseded_by.is_(None),
        FactRow.retracted_at.is_(None),
    )
    return list(session.scalars(wanted.order_by(FactRow.id)))


def rejected_of(session: Session, fact_ids: Collection[int], *, now: datetime) -> list[int]:
    """Those of the facts that no refresh takes any more."""
    rows = session.scalars(select(FactRow).where(FactRow.id.in_(fact_ids))).all()
    states = states_of(session, rows, now=now)
    return sorted(fact_id for fact_id, state in states.items() if state is FactState.REJECTED)


def approve(session: Session, fact_id: int, *, by: str, now: datetime) -> FactRow:
    """Let a held fact go on. Raises NotFound, or Conflict where that would change nothing."""
    row = session.get(FactRow, fact_id)
    if row is None:
        raise NotFound(f"There is no fact {fact_id}.")
    if row.held_reason is None:
        raise Conflict(f"Fact {fact_id} is not held: it needs no approval.")
    if row.approved_at is not None:
        raise Conflict(
            f"Fact {fact_id} was already approved by {row.approved_by} at "
            f"{row.approved_at.isoformat()}."
        )
    if row.retracted_at is not None:
        raise Conflict(f"Fact {fact_id} was retracted at {row.retracted_at.isoformat()}.")
    if row.superseded_by is not None:
        raise Conflict(
            f"Fact {fact_id} was replaced by fact {row.superseded_by}; it stands again, and waits "
            "for an approval, once that one is retracted."
        )
    row.approved_at, row.approved_by = now, by
    audit.record(session, Act.FACT_APPROVED, by=by, about={"fact": fact_id}, now=now)
    _let_newest_stand(session, row, now=now)
    return row


def retract(session: Session, fact_id: int, *, by: str, now: datetime) -> FactRow:
    """Withdraw a fact: it is no longer trained, and what it replaced stands again.

    What an adapter already learned stays until that adapter is taken out. Raises NotFound, or
    Conflict when it was retracted before.
    """
    row = session.get(FactRow, fact_id)
    if row is None:
        raise NotFound(f"There is no fact {fact_id}.")
    if row.retracted_at is not None:
        raise Conflict(f"Fact {fact_id} was already retracted at {row.retracted_at.isoformat()}.")
    row.retracted_at = now
    audit.record(session, Act.FACT_RETRACTED, by=by, about={"fact": fact_id}, now=now)
    _restore_older(session, row)
    return row
