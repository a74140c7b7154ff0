"""The past: what a release held, what the head held at any time, and what changed between two."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from adapters.types import Suite
from service import lineage
from service.errors import NotFound
from service.known_facts import IN_HEAD, is_in_adapter
from service.models import (
    Adapter,
    FactRow,
    HeadMove,
    Membership,
    ProbeAnswer,
    Replay,
)
from service.views import Page, View

#: In which a fact itself is asked.
OF_FACTS = (Suite.FORWARD, Suite.BACKWARD, Suite.RETENTION, Suite.RECALLED)
#: Of which answers are compared between releases.
COMPARED = (*OF_FACTS, Suite.REGRESSION, Suite.PINNED, Suite.TASK)
MOST_FLIPS = 1000


class HeldFact(View):
    """A fact that an adapter of a release was trained on, and what became of it there."""

    id: int
    source: str
    external_id: str
    statement: str
    adapter_id: int
    outcome: str  #: learned, unlearned, quarantined or unproven
    recorded_at: datetime
    recorded_by: str  #: the key that it came with


class Held(Page[HeldFact]):
    """What a release was trained on, newest facts first."""

    release_id: int
    since: datetime | None  #: when it became the head, where a time was asked for
    until: datetime | None  #: when another one did; None while it is the head


class Holder(View):
    """An adapter that was trained on a fact, or was shown it again."""

    adapter_id: int
    how: str  #: trained or replayed
    in_head: bool
    releases: list[int]
    recall: dict[str, float]  #: by suite, the share of its questions answered after that training


class Flip(View):
    """A question that one release answers rightly and the other does not."""

    suite: str
    fact_id: int | None
    question: str
    before: str
    after: str
    is_answered: bool  #: by the later one


class Changes(View):
    """What is different between two releases."""

    earlier: int
    later: int
    adapters_in: list[int]
    adapters_out: list[int]
    facts_in: list[int]
    facts_out: list[int]
    #: None where one of them was never examined as a candidate, as after a rollback.
    flips: list[Flip] | None
    compared: int  #: questions that both were asked


def in_utc(at: datetime) -> datetime:
    """A time that says no zone is one in UTC. Raises NotFound for one beyond all calendars."""
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError as error:
        raise NotFound(f"There was no head at {at.isoformat()}.") from error


def head_at(session: Session, at: datetime) -> HeadMove:
    """The move that made what was the head then. Raises NotFound for a time before the first."""
    move = session.scalar(
        select(HeadMove).where(HeadMove.moved_at <= at).order_by(HeadMove.seq.desc()).limit(1)
    )
    if move is None:
        raise NotFound(f"There was no head yet at {at.isoformat()}.")
    return move


def facts_held(
    session: Session,
    *,
    release_id: int | None = None,
    at: datetime | None = None,
    before: int | None = None,
    limit: int = 50,
) -> Held:
    """The facts of a release, of the head at a time, or else of the head.

    Raises NotFound for an unknown release, or a time before the first head.
    """
    since = until = None
    if release_id is None:
        move = head_at(session, at) if at is not None else None
        if move is None:
            release_id = lineage.read_head(session).release_id
        else:
            release_id, since = move.release_id, move.moved_at
            until = session.scalar(
                select(HeadMove.moved_at).where(HeadMove.seq == move.seq + 1).limit(1)
            )
    adapters = lineage.recipe_of(session, release_id).adapter_ids
    wanted = _held_rows(adapters).limit(limit + 1)
    if before is not None:
        wanted = wanted.where(FactRow.id < before)
    items = [
        HeldFact(
            id=row.id,
            source=row.source,
            external_id=row.external_id,
            statement=row.statement,
            adapter_id=adapter_id,
            outcome=str(outcome),
            recorded_at=row.recorded_at,
            recorded_by=row.recorded_by,
        )
        for row, adapter_id, outcome in session.execute(wanted)
    ]
    return Held(
        items=items[:limit],
        next=items[limit - 1].id if len(items) > limit else None,
        release_id=release_id,
        since=since,
        until=until,
    )


def _held_rows(adapters: Collection[int]) -> Select[FactRow, int, str | None]:
    """SQL for (fact, adapter, outcome), by each fact's latest batch among these adapters'."""
    latest = (
        select(func.max(Membership.batch_id).label("batch_id"), Membership.fact_id)
        .join(Adapter, Adapter.batch_id == Membership.batch_id)
        .where(Adapter.id.in_(sorted(adapters)), Membership.outcome.in_(IN_HEAD))
        .group_by(Membership.fact_id)
        .subquery()
    )
    return (
        select(FactRow, Adapter.id, Membership.outcome)
        .join(latest, latest.c.fact_id == FactRow.id)
        .join(
            Membership,
            (Membership.fact_id == FactRow.id) & (Membership.batch_id == latest.c.batch_id),
        )
        .join(Adapter, Adapter.batch_id == latest.c.batch_id)
        .order_by(FactRow.id.desc())
    )


def holders_of(session: Session, fact_id: int) -> list[Holder]:
    """Every adapter that was trained on a fact or replayed it, promoted or not, oldest first."""
    in_head = lineage.read_head(session).recipe.adapter_ids
    trained = (  # what was set aside before the training is not in a promoted adapter
        select(Adapter, Membership.batch_id)
        .join(Membership, Membership.batch_id == Adapter.batch_id)
        .where(is_in_adapter())
    )
    replayed = select(Adapter, Replay.batch_id).join(Replay, Replay.batch_id == Adapter.batch_id)
    found = [
        (adapter, how)
        for how, rows in (
            ("trained", session.execute(trained.where(Membership.fact_id == fact_id))),
            ("replayed", session.execute(replayed.where(Replay.fact_id == fact_id))),
        )
        for adapter, _ in rows
    ]
    return [
        Holder(
            adapter_id=adapter.id,
            how=how,
            in_head=adapter.id in in_head,
            releases=lineage.releases_with(session, adapter.id),
            recall=_recall(session, adapter.refresh_id, fact_id),
        )
        for adapter, how in sorted(found, key=lambda pair: pair[0].id)
    ]


def _recall(session: Session, refresh_id: int, fact_id: int) -> dict[str, float]:
    """By suite, the share of a fact's questions that the refresh's candidate answered."""
    marks: dict[str, list[bool]] = {}
    for suite, contained in session.execute(
        select(ProbeAnswer.suite, ProbeAnswer.contained)
        .where(
            ProbeAnswer.refresh_id == refresh_id,
            ProbeAnswer.fact_id == fact_id,
            ProbeAnswer.stage == "after",
            ProbeAnswer.suite.in_(OF_FACTS),
        )
        .order_by(ProbeAnswer.id)
    ):
        marks.setdefault(suite, []).append(contained)
    return {suite: round(sum(some) / len(some), 3) for suite, some in marks.items()}


def changes_between(session: Session, earlier: int, later: int) -> Changes:
    """What is in one release and not in the other, and what the two answer differently.

    Raises NotFound for an unknown release.
    """
    recipes = [lineage.recipe_of(session, release).adapter_ids for release in (earlier, later)]
    ids = [
        _held_rows(adapters).with_only_columns(FactRow.id, maintain_column_froms=True)
        for adapters in recipes
    ]
    old, new = (set(session.scalars(wanted)) for wanted in ids)
    answers = [_answers_of(session, release) for release in (earlier, later)]
    flips = None
    both: list[str] = []
    if answers[0] and answers[1]:
        first, second = answers
        both = sorted(first.keys() & second.keys())
        flips = [
            Flip(
                suite=first[key].suite,
                fact_id=first[key].fact_id,
                question=first[key].question,
                before=first[key].text,
                after=second[key].text,
                is_answered=second[key].contained,
            )
            for key in both
            if first[key].contained != second[key].contained
        ][:MOST_FLIPS]
    return Changes(
        earlier=earlier,
        later=later,
        adapters_in=_without(recipes[1], recipes[0]),
        adapters_out=_without(recipes[0], recipes[1]),
        facts_in=sorted(new - old),
        facts_out=sorted(old - new),
        flips=flips,
        compared=len(both),
    )


def _without(some: Sequence[int], others: Collection[int]) -> list[int]:
    return [item for item in some if item not in others]


def _answers_of(session: Session, release_id: int) -> dict[str, ProbeAnswer]:
    """What the release said when it was a candidate, or the head before one, by question asked.

    A fact's own question has one key, whether it was asked when it was learned or later.
    """
    recipe = lineage.recipe_of(session, release_id)
    as_head = select(Adapter.refresh_id).where(Adapter.trained_on == release_id)
    asked = [(refresh_id, "before") for refresh_id in session.scalars(as_head.order_by(Adapter.id))]
    if recipe.adapter_ids:
        last = session.get_one(Adapter, recipe.adapter_ids[-1])
        before = lineage.recipe_of(session, last.trained_on).adapter_ids
        if (*before, last.id) == recipe.adapter_ids:  # this very sum was the candidate
            asked.append((last.refresh_id, "after"))
    answers: dict[str, ProbeAnswer] = {}
    for refresh_id, stage in asked:
        rows = session.scalars(
            select(ProbeAnswer).where(
                ProbeAnswer.refresh_id == refresh_id,
                ProbeAnswer.stage == stage,
                ProbeAnswer.suite.in_(COMPARED),
            )
        )
        for row in rows:
            again = (Suite.RETENTION, Suite.RECALLED)
            key = row.probe_key.removeprefix(f"{row.suite}/" if row.suite in again else "")
            answers[key] = row
    return answers
