"""Batches: the waiting facts claimed for one adapter, and freed when no verdict comes."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from types import MappingProxyType

from sqlalchemy import ColumnElement, Select, delete, false, func, select
from sqlalchemy.orm import Session, aliased

from adapters.masking import random_for
from adapters.questions import is_same_value, plain_name
from adapters.types import Direction, Fact
from service.facts import (
    TRIED_AGAIN,
    canonical,
    forgotten,
    head_batches,
    is_pending,
    is_settled_by_approval,
    is_tried_again,
    let_begun_stand,
    release_batches,
)
from service.facts import hold as hold_for_admin
from service.known_facts import (
    IN_HEAD,
    ambiguous,
    draw_in_proportion,
    draw_replayed,
    fact_of,
    in_head_by_batch,
)
from service.leases import Hold
from service.models import (
    Batch,
    FactRow,
    LeftOut,
    Membership,
    MembershipOutcome,
    Refresh,
    RefreshOutcome,
    Replacement,
    Replay,
    TrainingLoss,
)

log = logging.getLogger(__name__)


#: A refresh that ended so counts against its facts; being overtaken or stopped is not their fault.
COUNTED = (RefreshOutcome.FAILED, RefreshOutcome.ABANDONED)
WITH_VERDICT = (RefreshOutcome.PROMOTED, RefreshOutcome.REJECTED, RefreshOutcome.INSUFFICIENT)
#: So many forgotten facts, drawn anew each time, are asked whether they came back.
MOST_RECALLED = 16
#: What becomes of a fact that may not be tried again.
LAST_TRY = {
    MembershipOutcome.UNLEARNED: MembershipOutcome.QUARANTINED,
    MembershipOutcome.UNDECIDED: MembershipOutcome.REJECTED,
}
#: A refresh that ended so may have left a checkpoint of its training.
INTERRUPTED = (RefreshOutcome.STOPPED, RefreshOutcome.HINDERED, RefreshOutcome.ABANDONED)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedBatch:
    """A refresh that has begun, and the facts it is to learn."""

    refresh_id: int
    batch_id: int
    facts: tuple[Fact, ...]
    replayed: tuple[Fact, ...] = ()  #: of earlier batches, shown again beside them
    retained: tuple[Fact, ...] = ()  #: of earlier batches, asked again before and after
    #: Earlier facts, each with the fact of the batch that replaces it.
    replaced: tuple[tuple[Fact, Fact], ...] = ()
    forgotten: tuple[Fact, ...] = ()  #: of earlier batches, asked whether they came back
    known_facts: int = 0  #: how many there are of which these were drawn
    #: Directions in which a fact, by its key, is not asked: its answer would not be the only one.
    unasked: Mapping[str, Collection[Direction]] = field(default_factory=dict)
    #: Part of a batch that kept failing: too small to be judged by, so what does not pass waits on.
    is_part: bool = False


def count_pending(session: Session, *, at_most_of_source: int | None = None, now: datetime) -> int:
    """How many facts call for a refresh; those that are tried again only join one."""
    wanted = _is_pending_in_quota(at_most_of_source, now)
    return session.scalar(select(func.count()).select_from(FactRow).where(wanted)) or 0


def count_held(session: Session, *, now: datetime) -> int:
    """How many facts wait for an admin and for nothing else."""
    wanted = is_settled_by_approval(head_batches(session), now)
    return session.scalar(select(func.count()).select_from(FactRow).where(wanted)) or 0


def held_back(
    session: Session, *, at_least: int, at_most_of_source: int | None, now: datetime
) -> str | None:
    """Where facts enough wait and no refresh begins, since too many are of one source: says so."""
    waiting = count_pending(session, now=now)
    counted = count_pending(session, at_most_of_source=at_most_of_source, now=now)
    if counted >= at_least or waiting < at_least:
        return None
    return (
        f"{waiting} facts wait, of which {counted} count, since no source may have more than "
        f"{at_most_of_source} in a batch (schedule.at_most_of_source); a refresh wants {at_least} "
        "(schedule.at_least)."
    )


def claim_batch(
    session: Session,
    *,
    hold: Hold,
    trained_on: int,
    at_least: int,
    at_most: int,
    attempts: int,
    at_most_of_source: int | None = None,
    replay_at_most: int = 0,
    retain_at_most: int = 0,
    symmetric: Collection[str] = (),
    now: datetime,
) -> ClaimedBatch | None:
    """The oldest pending facts as one new batch, or None while too few are waiting.

    Half of a batch whose refreshes failed `attempts` times comes first (`suspected`). Then a batch
    whose refresh was interrupted, as it was: its training can be gone on with.
    Facts that an earlier refresh left open join the pending ones, in up to half of the batch.
    Relations that are `symmetric` hold the other way round, too.
    Facts that contradict what the release has learned are held for an admin, also where no batch
    comes of the others: they do not count among those that are `at_least` to be there.
    The caller guards the transaction with its lease, so no two claim the same facts.
    """
    let_begun_stand(session, now=now)
    while True:  # what is held is not chosen again, and what it replaced stands again
        learned = _learned(session, trained_on, now)
        halved = suspected(session, attempts=attempts, now=now)
        rows = (
            halved
            or _interrupted(session, trained_on, now)
            or _oldest(session, at_least, at_most, at_most_of_source, now)
        )
        unsettled = contradictions_of_known(rows, [row for group in learned for row in group])
        if not unsettled:
            break
        hold_for_admin(session, unsettled)
        session.flush()
    if halved:
        log.warning(
            "%s refreshes failed in a row; half of the last batch is tried alone: facts %s",
            attempts,
            ", ".join(str(row.id) for row in halved),
        )
    if not rows:
        return None
    return _begin(
        session,
        rows,
        learned,
        hold=hold,
        trained_on=trained_on,
        replay_at_most=replay_at_most,
        retain_at_most=retain_at_most,
        symmetric=symmetric,
        is_part=bool(halved),
        now=now,
    )


def claim_again(
    session: Session,
    batch_id: int,
    *,
    hold: Hold,
    trained_on: int,
    replay_at_most: int,
    retain_at_most: int,
    symmetric: Collection[str],
    now: datetime,
) -> ClaimedBatch | None:
    """The facts of a batch of the head, to be trained again on a release that is not the head.

    None where none of them is to be retained any more. The caller guards the transaction.
    """
    held = in_head_by_batch(session, IN_HEAD, Membership.batch_id == batch_id, now=now)
    rows = [row for group in held for row in group]
    if not rows:
        return None
    return _begin(
        session,
        rows,
        _learned(session, trained_on, now),
        hold=hold,
        trained_on=trained_on,
        replay_at_most=replay_at_most,
        retain_at_most=retain_at_most,
        symmetric=symmetric,
        now=now,
    )


def _learned(session: Session, release_id: int, now: datetime) -> list[list[FactRow]]:
    """The facts that a release has learned and that still stand, by batch."""
    held = release_batches(session, release_id)
    return in_head_by_batch(session, [MembershipOutcome.LEARNED], held=held, now=now)


def _begin(
    session: Session,
    rows: Sequence[FactRow],
    learned: Sequence[Sequence[FactRow]],
    *,
    hold: Hold,
    trained_on: int,
    replay_at_most: int,
    retain_at_most: int,
    symmetric: Collection[str],
    is_part: bool = False,
    now: datetime,
) -> ClaimedBatch:
    """A refresh of these facts on a release, and which facts it `learned` are asked with them."""
    held = release_batches(session, trained_on)
    known = [row for group in learned for row in group]
    refresh = Refresh(
        started_at=now,
        lease_token=hold.token,
        trained_on=trained_on,
        phase="claimed",
        step=0,
        steps=0,
        timings={},
    )
    session.add(refresh)
    session.flush()
    batch = Batch(refresh_id=refresh.id, created_at=now)
    session.add(batch)
    session.flush()
    session.add_all(Membership(batch_id=batch.id, fact_id=row.id) for row in rows)
    session.flush()
    refused = contradictions(rows)
    reject_some(session, refresh.id, refused, now=now)
    rows = [row for row in rows if row.id not in refused]
    ids = {row.id for row in rows}
    replayed = draw_replayed(
        session, at_most=replay_at_most, seed=trained_on, without=ids, held=held, now=now
    )
    session.add_all(Replay(batch_id=batch.id, fact_id=row.id) for row in replayed)
    retained = draw_in_proportion(learned, at_most=retain_at_most, seed=("retention", trained_on))
    lost = forgotten(session, None, held) - {row.id for row in retained}
    lost_rows = [row for row in known if row.id in lost]
    again = random_for("recalled", trained_on).sample(lost_rows, min(MOST_RECALLED, len(lost_rows)))
    facts = tuple(fact_of(row) for row in rows)
    unasked = _record_ambiguous(
        session,
        batch.id,
        (*facts, *map(fact_of, [*retained, *again])),
        facts,
        symmetric,
        held=held,
        now=now,
    )
    replaced = _replaced(session, facts, held)
    session.add_all(
        Replacement(batch_id=batch.id, fact_id=key)
        for key in sorted({int(old.key) for old, _ in replaced})
    )
    return ClaimedBatch(
        refresh_id=refresh.id,
        batch_id=batch.id,
        facts=facts,
        replayed=tuple(fact_of(row) for row in replayed),
        retained=tuple(fact_of(row) for row in retained),
        replaced=replaced,
        forgotten=tuple(fact_of(row) for row in again),
        known_facts=len(known),
        unasked=unasked,
        is_part=is_part,
    )


def contradictions(rows: Sequence[FactRow]) -> dict[int, str]:
    """Facts of which another one cannot be true beside them, each with the reason.

    Two that say different things of one subject, relation and set of qualifiers, of which at least
    one says that there is only one answer. Those of one source replaced each other when they came,
    where they write their subject alike.
    """
    reasons: dict[int, str] = {}
    for some in _by_what_they_are_about(rows).values():
        for one, other in combinations(some, 2):
            if _can_both_be(one, other):
                continue
            for row, against in ((one, other), (other, one)):
                reasons.setdefault(
                    row.id,
                    f"It contradicts fact {against.id} of {against.source}: "
                    f"{_difference(row, against)}. Settle which, and send that one again under a "
                    "new external id.",
                )
    return reasons


def contradictions_of_known(rows: Sequence[FactRow], known: Sequence[FactRow]) -> dict[int, str]:
    """Facts that cannot be true beside one that was learned: reasons.

    But for those that an admin approved when they were held for this very reason. What was
    replaced, as by a newer fact of its own source, is not among the `known`.
    """
    learned = _by_what_they_are_about(known)
    reasons: dict[int, str] = {}
    for about, some in _by_what_they_are_about(rows).items():
        for row in some:
            for other in learned.get(about, ()):
                said = f"it contradicts fact {other.id} of "
                was_approved = row.approved_at is not None and said in str(row.held_reason)
                if not was_approved and not _can_both_be(row, other):
                    reasons[row.id] = (
                        f"{said}{other.source}, which was learned "
                        f"(retract that one if it is wrong): {_difference(row, other)}"
                    )
    return reasons


def _by_what_they_are_about(
    rows: Sequence[FactRow],
) -> dict[tuple[str, str, str], list[FactRow]]:
    about: dict[tuple[str, str, str], list[FactRow]] = {}
    for row in rows:
        if row.subject and row.relation:
            key = (plain_name(row.subject), row.relation, canonical(row.qualifiers))
            about.setdefault(key, []).append(row)
    return about


def _can_both_be(one: FactRow, other: FactRow) -> bool:
    if not (one.functional or other.functional):
        return True
    if one.object and other.object:
        return is_same_value(one.object, other.object)
    return plain_name(one.statement) == plain_name(other.statement)


def _difference(row: FactRow, other: FactRow) -> str:
    here, there = row.object or row.statement, other.object or other.statement
    return f"{row.relation} of {row.subject} is {here} here and {there} there, and only one can be"


def _replaced(
    session: Session, batch: Sequence[Fact], held: Collection[int]
) -> tuple[tuple[Fact, Fact], ...]:
    """The learned facts of some batches that facts of this one supersede, with their successors."""
    by_id = {int(fact.key): fact for fact in batch}
    learned = session.scalars(
        select(FactRow)
        .join(Membership, Membership.fact_id == FactRow.id)
        .where(
            FactRow.superseded_by.in_(by_id),
            FactRow.retracted_at.is_(None),
            Membership.outcome == MembershipOutcome.LEARNED,
            Membership.batch_id.in_(sorted(held)),
        )
        .order_by(FactRow.id)
    )
    return tuple((fact_of(row), by_id[int(row.superseded_by or 0)]) for row in learned)


def _record_ambiguous(
    session: Session,
    batch_id: int,
    asked: Sequence[Fact],
    batch: Sequence[Fact],
    symmetric: Collection[str],
    *,
    held: Collection[int],
    now: datetime,
) -> dict[str, list[Direction]]:
    """In which directions each fact has no single answer, which is written down with the reason."""
    unasked = ambiguous(session, asked, batch, symmetric, held=held, now=now)
    session.add_all(
        LeftOut(batch_id=batch_id, fact_id=int(key), direction=direction, reason=reason)
        for key, reasons in unasked.items()
        for direction, reason in reasons.items()
    )
    return {key: list(reasons) for key, reasons in unasked.items()}


def _interrupted(session: Session, trained_on: int, now: datetime) -> list[FactRow]:
    """The facts of the last refresh, where it was interrupted on this head and all still wait."""
    last = session.scalar(select(Refresh).order_by(Refresh.id.desc()).limit(1))
    if last is None or last.outcome not in INTERRUPTED or last.trained_on != trained_on:
        return []
    freed = session.scalars(
        select(Membership.fact_id)
        .join(Batch, Batch.id == Membership.batch_id)
        .where(Batch.refresh_id == last.id, Membership.outcome == MembershipOutcome.FREED)
    ).all()
    waiting = select(FactRow).where(FactRow.id.in_(freed), _is_waiting(session, now))
    rows = list(session.scalars(waiting.order_by(FactRow.id)))
    return rows if len(rows) == len(freed) else []


def suspected(session: Session, *, attempts: int, now: datetime) -> list[FactRow]:
    """Half of the facts among which one may kill every refresh, however many are waiting.

    Where `attempts` refreshes in a row failed with a fact, it or one beside it may be at fault: a
    process that was killed says no more. So batches become smaller until that fact is alone. What
    of them passes the gate is let in; what does not is too little to judge by, and its facts wait
    for the next batch like new ones. The newest batch that failed is halved first, so nothing but
    its own record says how far this has come.
    """
    failed = _failures().subquery()
    last = session.execute(
        select(failed.c.fact_id, failed.c.last)
        .join(FactRow, FactRow.id == failed.c.fact_id)
        .where(failed.c.failures >= attempts, _is_waiting(session, now))
        .order_by(failed.c.last.desc(), failed.c.fact_id)
    ).all()
    if not last:
        return []
    newest = last[0].last
    size = session.scalar(
        select(func.count())
        .select_from(Membership)
        .join(Batch)
        .where(Batch.refresh_id == newest, Membership.outcome == MembershipOutcome.FREED)
    )
    ids = [row.fact_id for row in last if row.last == newest][: ((size or 0) + 1) // 2]
    return list(session.scalars(select(FactRow).where(FactRow.id.in_(ids)).order_by(FactRow.id)))


def _oldest(
    session: Session,
    at_least: int,
    at_most: int,
    at_most_of_source: int | None,
    now: datetime,
) -> list[FactRow]:
    """The oldest pending facts, where there are enough, beside those that are tried again."""

    def oldest(condition: ColumnElement[bool], at_most: int) -> list[FactRow]:
        chosen = select(FactRow).where(condition).order_by(FactRow.id).limit(at_most)
        return list(session.scalars(chosen))

    if count_pending(session, at_most_of_source=at_most_of_source, now=now) < at_least:
        return []
    pending = oldest(_is_pending_in_quota(at_most_of_source, now), at_most)
    again = oldest(is_tried_again(head_batches(session), now), at_most // 2)
    rows = again + pending[: at_most - len(again)]
    return sorted(rows, key=lambda row: row.id)


def _is_pending_in_quota(at_most_of_source: int | None, now: datetime) -> ColumnElement[bool]:
    """SQL for: pending, and among the oldest that its source may have in one batch."""
    if at_most_of_source is None:
        return is_pending(now)
    place = func.row_number().over(partition_by=FactRow.source, order_by=FactRow.id)
    placed = select(FactRow.id, place.label("place")).where(is_pending(now)).subquery()
    return FactRow.id.in_(select(placed.c.id).where(placed.c.place <= at_most_of_source))


def _is_waiting(session: Session, now: datetime) -> ColumnElement[bool]:
    return is_pending(now) | is_tried_again(head_batches(session), now)


def decide_memberships(
    session: Session,
    refresh_id: int,
    outcomes: Mapping[int, MembershipOutcome],
    *,
    default: MembershipOutcome,
    reasons: Mapping[int, str] = MappingProxyType({}),
    reason: str | None = None,
    tries: int,
    stay_open: Collection[int] = (),
    now: datetime,
) -> None:
    """Give every membership of the refresh's batch that is still in work its outcome.

    A fact that was left open `tries` times is not tried again: its last outcome is final, unless
    it is one of those that `stay_open`.
    """
    memberships = in_work(session, refresh_id)
    tried = _tries(session, [membership.fact_id for membership in memberships])
    for membership in memberships:
        outcome = outcomes.get(membership.fact_id, default)
        is_last = tried.get(membership.fact_id, 0) + 1 >= tries
        if is_last and membership.fact_id not in stay_open:
            outcome = LAST_TRY.get(outcome, outcome)
        membership.outcome = outcome
        membership.reason = reasons.get(membership.fact_id, reason)
        membership.decided_at = now


def _tries(session: Session, fact_ids: Sequence[int]) -> dict[int, int]:
    """How often each of the facts was left open before; a rebase is no try."""
    counted = (
        select(Membership.fact_id, func.count())
        .join(Batch, Batch.id == Membership.batch_id)
        .join(Refresh, Refresh.id == Batch.refresh_id)
        .where(
            Membership.fact_id.in_(fact_ids),
            Membership.outcome.in_(TRIED_AGAIN),
            Refresh.outcome.is_(None) | (Refresh.outcome != RefreshOutcome.REBASED),
        )
        .group_by(Membership.fact_id)
    )
    return dict(session.execute(counted).all())


def end_without_verdict(
    session: Session,
    refresh_id: int,
    *,
    outcome: RefreshOutcome,
    reason: str,
    attempts: int,
    now: datetime,
) -> None:
    """End a refresh that has no verdict: its facts wait again, or are set aside.

    A fact that fails alone, and saw `attempts` refreshes fail, is rejected with the reason, so that
    a poisonous one does not block the queue for ever; one among others is looked for (`suspected`).
    A refresh that has ended keeps its outcome: what goes wrong while it clears up after a verdict
    takes nothing back.
    """
    refresh = session.get_one(Refresh, refresh_id)
    if refresh.outcome is not None:
        return
    refresh.outcome, refresh.reason, refresh.ended_at = outcome, reason, now
    session.flush()
    memberships = in_work(session, refresh_id)
    for membership in memberships:
        membership.outcome, membership.decided_at = MembershipOutcome.FREED, now
    session.flush()
    if outcome in COUNTED and len(memberships) == 1:
        (alone,) = memberships
        failed = _failures().where(Membership.fact_id == alone.fact_id).subquery()
        failures = session.scalar(select(failed.c.failures)) or 0
        if failures >= attempts:
            alone.outcome = MembershipOutcome.REJECTED
            alone.reason = f"{failures} refreshes failed, the last with it alone: {reason}"


def reject_some(
    session: Session, refresh_id: int, refused: Mapping[int, str], *, now: datetime
) -> None:
    """Reject single facts of a refresh's batch, each for its reason."""
    for membership in in_work(session, refresh_id):
        if membership.fact_id in refused:
            membership.outcome = MembershipOutcome.REJECTED
            membership.reason = refused[membership.fact_id]
            membership.decided_at = now


def forget_losses(session: Session, refresh_id: int) -> None:
    """Drop the loss curve of a training that is begun anew."""
    session.execute(delete(TrainingLoss).where(TrainingLoss.refresh_id == refresh_id))


def forget_replays(session: Session, refresh_id: int, fact_ids: Iterable[int]) -> None:
    """Drop facts from the record of what is shown again beside the refresh's batch."""
    batch = select(Batch.id).where(Batch.refresh_id == refresh_id).scalar_subquery()
    session.execute(delete(Replay).where(Replay.batch_id == batch, Replay.fact_id.in_(fact_ids)))


def withdrawn(
    session: Session, memberships: Sequence[Membership], *, or_replaced: bool = False
) -> list[int]:
    """Those of the facts that were retracted since the batch was claimed; `or_replaced`, too."""
    ids = [membership.fact_id for membership in memberships]
    return list(
        session.scalars(
            select(FactRow.id)
            .where(
                FactRow.id.in_(ids),
                FactRow.retracted_at.is_not(None)
                | (FactRow.superseded_by.is_not(None) if or_replaced else false()),
            )
            .order_by(FactRow.id)
        )
    )


def decided_by_verdict(session: Session, refresh_id: int) -> list[Membership]:
    """The memberships that the refresh's verdict decided.

    What was rejected before it, each for a reason of its own, is not among them.
    """
    verdict_at = session.get_one(Refresh, refresh_id).ended_at
    return list(
        session.scalars(
            select(Membership)
            .join(Batch, Batch.id == Membership.batch_id)
            .where(Batch.refresh_id == refresh_id, Membership.decided_at == verdict_at)
        )
    )


def reopen(session: Session, memberships: Sequence[Membership]) -> None:
    """Put memberships in work again."""
    for membership in memberships:
        membership.outcome, membership.reason, membership.decided_at = None, None, None
    session.flush()


def tried_since(session: Session, batch_id: int) -> list[int]:
    """The later batches that a fact of this one was in, those without a verdict left out."""
    mine = select(Membership.fact_id).where(Membership.batch_id == batch_id)
    return list(
        session.scalars(
            select(Membership.batch_id)
            .where(
                Membership.fact_id.in_(mine),
                Membership.batch_id > batch_id,
                Membership.outcome.is_(None) | (Membership.outcome != MembershipOutcome.FREED),
            )
            .distinct()
            .order_by(Membership.batch_id)
        )
    )


def in_work(session: Session, refresh_id: int) -> list[Membership]:
    return list(
        session.scalars(
            select(Membership)
            .join(Batch, Batch.id == Membership.batch_id)
            .where(Batch.refresh_id == refresh_id, Membership.outcome.is_(None))
        )
    )


def _failures() -> Select[int, int, int]:
    """SQL for: how many refreshes failed on each fact since a verdict reached it, and the last."""
    other, its_batch, its_refresh = aliased(Membership), aliased(Batch), aliased(Refresh)
    verdict = (
        select(func.max(other.batch_id))
        .join(its_batch, its_batch.id == other.batch_id)
        .join(its_refresh, its_refresh.id == its_batch.refresh_id)
        .where(
            other.fact_id == Membership.fact_id,
            (other.outcome != MembershipOutcome.FREED) | its_refresh.outcome.in_(WITH_VERDICT),
        )
        .scalar_subquery()
    )
    return (
        select(
            Membership.fact_id,
            func.count().label("failures"),
            func.max(Refresh.id).label("last"),
        )
        .join(Batch, Batch.id == Membership.batch_id)
        .join(Refresh, Refresh.id == Batch.refresh_id)
        .where(
            Membership.outcome == MembershipOutcome.FREED,
            Refresh.outcome.in_(COUNTED),
            Membership.batch_id > func.coalesce(verdict, 0),
        )
        .group_by(Membership.fact_id)
    )


def recover_abandoned(session: Session, *, attempts: int, now: datetime) -> list[int]:
    """End the refreshes whose process is gone. The caller holds the lease, so none is running."""
    gone = session.scalars(select(Refresh.id).where(Refresh.outcome.is_(None))).all()
    for refresh_id in gone:
        end_without_verdict(
            session,
            refresh_id,
            outcome=RefreshOutcome.ABANDONED,
            reason="The process ended without a word (killed, out of memory, or the power failed).",
            attempts=attempts,
            now=now,
        )
    return list(gone)


def has_unfinished(session: Session) -> bool:
    """Whether a refresh is recorded as running. With no lease held, its process is gone."""
    return session.scalar(select(Refresh.id).where(Refresh.outcome.is_(None)).limit(1)) is not None
