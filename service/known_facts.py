"""What a head knows: its facts, drawn to be shown again, asked again, or asked because they go."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, zip_longest
from typing import TypeVar

from sqlalchemy import ColumnElement, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from adapters.masking import random_for
from adapters.questions import ambiguous_directions, gaps_of, plain_name
from adapters.types import Direction, Fact, GivenProbe
from service.facts import head_batches, is_held, is_retained, is_valid
from service.models import (
    Adapter,
    Batch,
    FactRow,
    Membership,
    MembershipOutcome,
    Refresh,
    RefreshOutcome,
    Replacement,
    Replay,
)

T = TypeVar("T")
#: Facts with these outcomes are in the adapter that was promoted.
IN_HEAD = (
    MembershipOutcome.LEARNED,
    MembershipOutcome.UNLEARNED,
    MembershipOutcome.QUARANTINED,
    MembershipOutcome.UNPROVEN,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedFacts:
    """What is asked when adapters are taken out of the head."""

    facts: tuple[Fact, ...]  #: that no adapter of the head was trained on any more
    retained: tuple[Fact, ...]  #: of the other adapters, drawn in proportion
    known_facts: int  #: how many there are of which these were drawn
    unasked: Mapping[str, Collection[Direction]]  #: as in ClaimedBatch
    replayed_by: Mapping[int, int]  #: adapter that stays -> how many removed facts it replayed
    saw_erased: frozenset[int]  #: adapters that stay, and saw something of what is to be erased


def in_head_by_batch(
    session: Session,
    outcomes: Collection[MembershipOutcome],
    *conditions: ColumnElement[bool],
    standing: Callable[[datetime], ColumnElement[bool]] = is_retained,
    held: Collection[int] | None = None,
    now: datetime,
) -> list[list[FactRow]]:
    """The facts that the head's adapters hold with these outcomes and that are to be retained.

    A fact that was tried several times belongs to its latest batch in the head. `held` names the
    batches of another release instead.
    """
    within = sorted(head_batches(session) if held is None else held)
    latest = (
        select(func.max(Membership.batch_id).label("batch_id"), Membership.fact_id)
        .where(
            Membership.batch_id.in_(within),
            Membership.outcome.in_(IN_HEAD),
        )
        .group_by(Membership.fact_id)
        .subquery()
    )
    known = session.execute(
        select(Membership.batch_id, FactRow)
        .join(
            latest,
            (latest.c.batch_id == Membership.batch_id) & (latest.c.fact_id == Membership.fact_id),
        )
        .join(FactRow, FactRow.id == Membership.fact_id)
        .where(
            Membership.outcome.in_(outcomes),
            standing(now),
            *conditions,
        )
        .order_by(Membership.batch_id, FactRow.id)
    ).all()
    by_batch: dict[int, list[FactRow]] = {}
    for batch_id, row in known:
        by_batch.setdefault(batch_id, []).append(row)
    return list(by_batch.values())


def facts_in(session: Session, batch_ids: Collection[int]) -> set[int]:
    """The facts that the adapters of some batches hold."""
    return set(
        session.scalars(
            select(Membership.fact_id).where(
                Membership.batch_id.in_(sorted(batch_ids)), Membership.outcome.in_(IN_HEAD)
            )
        )
    )


def fact_of(row: FactRow) -> Fact:
    """A stored fact as the learning side sees it."""
    return Fact(
        key=str(row.id),
        statement=row.statement,
        subject=row.subject,
        relation=row.relation,
        object=row.object,
        probes=tuple(
            GivenProbe(
                direction=Direction(probe["direction"]),
                question=probe["question"],
                answers=tuple(probe["answers"]),
            )
            for probe in row.probes
        ),
    )


def draw_replayed(
    session: Session,
    *,
    at_most: int,
    seed: int,
    without: Collection[int] = (),
    held: Collection[int] | None = None,
    now: datetime,
) -> list[FactRow]:
    """Facts of some batches, by default the head's, as evenly from these as they have them.

    The same batches and seed give the same facts; never those of `without`, nor what waits for an
    admin.
    """
    wanted = FactRow.id.not_in(sorted(without)) & ~is_held()
    known = in_head_by_batch(session, IN_HEAD, wanted, held=held, now=now)
    return sorted(draw_evenly(known, at_most=at_most, seed=seed), key=lambda row: row.id)


def draw_evenly(groups: Sequence[Sequence[T]], *, at_most: int, seed: int) -> list[T]:
    """One of each group in turn, in an order that depends on the seed alone.

    The groups' own order is drawn, too: where there are more than `at_most`, none is always last.
    """
    shuffled = [random_for(seed, at).sample(group, len(group)) for at, group in enumerate(groups)]
    random_for(seed, "groups").shuffle(shuffled)
    turns = (item for turn in zip_longest(*shuffled) for item in turn if item is not None)
    return list(islice(turns, at_most))


def draw_in_proportion(
    groups: Sequence[Sequence[T]], *, at_most: int, seed: Sequence[int | str]
) -> list[T]:
    """Of each group its share, up to less than one, and of all of them each as likely as the other.

    A systematic sample through the groups in their order, each shuffled (Cochran 1977, chapter 8):
    a stratified one whose strata need no weights. Where groups differ, its share varies less than
    that of a simple random one.
    """
    rng = random_for(*seed)
    listed = [item for group in groups for item in rng.sample(group, len(group))]
    if len(listed) <= at_most:
        return listed
    step = len(listed) / at_most if at_most else 0.0
    begin = rng.random()
    return [listed[int((begin + at) * step)] for at in range(at_most)]


def draw_removal(
    session: Session,
    *,
    gone: Collection[int],
    taken: Collection[int],
    kept: Collection[int],
    erased: Collection[int] = (),
    retain_at_most: int,
    symmetric: Collection[str] = (),
    now: datetime,
) -> RemovedFacts:
    """What is asked of a release with the batches `kept` in place of a head that has `gone`, too.

    Of those that are gone, some were `taken` out, and others may have been trained again. A fact
    that a batch that is kept has, too, or says just the same as one that has, is not removed,
    unless it is to be `erased`. What is to be retained is what the head's other batches learned.
    """
    other = aliased(Membership)
    erasing = FactRow.id.in_(sorted(erased))
    rows = session.scalars(
        select(FactRow)
        .where(
            erasing
            | FactRow.id.in_(
                select(Membership.fact_id).where(
                    Membership.batch_id.in_(sorted(gone)), Membership.outcome.in_(IN_HEAD)
                )
            ),
            erasing
            | ~exists().where(
                other.fact_id == FactRow.id,
                other.batch_id.in_(sorted(kept)),
                other.outcome.in_(IN_HEAD),
            ),
        )
        .order_by(FactRow.id)
    ).all()
    said = _said_by(session, kept, now=now)
    removed = [row for row in rows if said.isdisjoint(_sayings(row))]
    ids = sorted(row.id for row in rows)
    learned = in_head_by_batch(
        session,
        [MembershipOutcome.LEARNED],
        FactRow.id.not_in(ids),
        held=head_batches(session) - set(taken),
        now=now,
    )
    known = [row for group in learned for row in group]
    drawn = draw_in_proportion(learned, at_most=retain_at_most, seed=("removal", *sorted(gone)))
    facts, retained = (tuple(map(fact_of, some)) for some in (removed, drawn))
    unasked = ambiguous(
        session, (*facts, *retained), (), symmetric, held=head_batches(session), now=now
    )
    replayed = session.execute(
        select(Adapter.id, func.count())
        .join(Replay, Replay.batch_id == Adapter.batch_id)
        .where(Adapter.batch_id.in_(sorted(kept)), Replay.fact_id.in_(ids))
        .group_by(Adapter.id)
        .order_by(Adapter.id)
    )
    saw = adapters_that_saw(session, sorted(erased))
    return RemovedFacts(
        saw_erased=frozenset(adapter.id for adapter in saw if adapter.batch_id in kept),
        facts=facts,
        retained=retained,
        known_facts=len(known),
        unasked={key: list(reasons) for key, reasons in unasked.items()},
        replayed_by=dict(replayed.all()),
    )


def _said_by(session: Session, held: Collection[int], *, now: datetime) -> set[tuple[str, ...]]:
    """What the facts of some batches say. All are read: SQLite folds the case of ASCII alone."""
    groups = in_head_by_batch(session, IN_HEAD, standing=is_valid, held=held, now=now)
    return {saying for group in groups for row in group for saying in _sayings(row)}


def _sayings(row: FactRow) -> set[tuple[str, ...]]:
    """A fact's statement and, where it has one, its triple, to be compared with another's."""
    sayings: set[tuple[str, ...]] = {(plain_name(row.statement),)}
    if row.subject and row.relation and row.object:
        sayings.add((plain_name(row.subject), row.relation, plain_name(row.object)))
    return sayings


def ambiguous(
    session: Session,
    asked: Sequence[Fact],
    batch: Sequence[Fact],
    symmetric: Collection[str],
    *,
    held: Collection[int],
    now: datetime,
) -> dict[str, dict[Direction, str]]:
    """In which directions each fact has no single answer among the facts of `held` and a batch."""
    alike: list[ColumnElement[bool]] = []
    if relations := {fact.relation for fact in asked if fact.relation}:
        alike.append(FactRow.relation.in_(sorted(relations)))
    gaps = {gap for fact in asked for gap in gaps_of(fact)}
    alike += [
        FactRow.statement.startswith(before, autoescape=True)
        & FactRow.statement.endswith(behind, autoescape=True)
        for before, behind in sorted(gaps)
    ]
    groups = (
        in_head_by_batch(session, IN_HEAD, or_(*alike), standing=is_valid, held=held, now=now)
        if alike
        else []
    )
    others = {fact.key: fact for fact in batch}
    others |= {str(row.id): fact_of(row) for group in groups for row in group}
    found = {
        fact.key: ambiguous_directions(fact, others.values(), symmetric=symmetric) for fact in asked
    }
    return {key: reasons for key, reasons in found.items() if reasons}


def adapters_that_saw(session: Session, fact_ids: Sequence[int]) -> list[Adapter]:
    """The adapters that were trained on one of the facts, or were shown something of it.

    That is in replay, or while a fact that replaces it was trained (adapters.decoys). What was set
    aside before the training of a batch that was promoted is not in its adapter; of any other
    adapter that is not known for sure.
    """
    trained = select(Membership.batch_id).where(Membership.fact_id.in_(fact_ids), is_in_adapter())
    replayed = select(Replay.batch_id).where(Replay.fact_id.in_(fact_ids))
    replaced = select(Replacement.batch_id).where(Replacement.fact_id.in_(fact_ids))
    wanted = Adapter.batch_id.in_(trained.union(replayed, replaced))
    return list(session.scalars(select(Adapter).where(wanted).order_by(Adapter.id)))


def is_in_adapter() -> ColumnElement[bool]:
    """SQL for: a membership's fact was trained into its batch's adapter, or may have been."""
    promoted = (
        select(Batch.id)
        .join(Refresh, Refresh.id == Batch.refresh_id)
        .where(Refresh.outcome.in_([RefreshOutcome.PROMOTED, RefreshOutcome.REBASED]))
    )
    return Membership.outcome.in_(IN_HEAD) | Membership.batch_id.not_in(promoted)


def in_head_that_saw(session: Session, fact_id: int) -> list[int]:
    """The ids of the head's adapters by which it may know a fact."""
    in_head = head_batches(session)
    saw = adapters_that_saw(session, [fact_id])
    return [adapter.id for adapter in saw if adapter.batch_id in in_head]
