"""What API and CLI show of the database: the same frozen views for both."""

from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict
from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from adapters.grading import best_recall
from adapters.types import Suite
from service import lineage
from service.errors import NotFound
from service.facts import FactState, is_held, states_of
from service.models import (
    Adapter,
    AuditEntry,
    Batch,
    Delivery,
    Erasure,
    FactRow,
    HeadMove,
    LeftOut,
    Membership,
    MembershipOutcome,
    Operation,
    PassageBits,
    Pin,
    PinnedRelease,
    ProbeAnswer,
    Refresh,
    Release,
    ReleaseAdapter,
    Replay,
    TrainingLoss,
)
from service.operations import OperationState
from service.operations import state_of as operation_state

Row = TypeVar("Row")
Item = TypeVar("Item", bound=BaseModel)
MAX_PAGE = 500
GIVEN_UP = (MembershipOutcome.QUARANTINED, MembershipOutcome.REJECTED)


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class Page(View, Generic[Item]):
    """Part of a list, newest first; `next` goes into `before` to read on."""

    items: list[Item]
    next: int | None


class KeyView(View):
    """A key without its secret, which nobody has but its owner."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    source: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class MembershipView(View):
    batch_id: int
    refresh_id: int
    adapter_id: int | None
    outcome: str | None
    reason: str | None
    decided_at: datetime | None


class FactView(View):
    id: int
    source: str
    external_id: str
    state: FactState
    statement: str
    subject: str | None
    relation: str | None
    object: str | None
    recorded_at: datetime
    recorded_by: str
    superseded_by: int | None
    retracted_at: datetime | None
    erased_at: datetime | None


class FactDetail(FactView):
    qualifiers: dict[str, Any]
    functional: bool
    valid_from: datetime | None
    valid_to: datetime | None
    provenance: dict[str, Any]
    confidence: float | None
    trust: str | None
    tags: list[Any]
    retention_until: datetime | None
    held_reason: str | None
    approved_at: datetime | None
    approved_by: str | None
    probes: list[Any]
    body_digest: str
    memberships: list[MembershipView]
    known_since: datetime | None  #: when a head first appeared that answered for it


class ReviewView(View):
    """A fact that waits for an admin's decision, and why."""

    id: int
    state: FactState
    source: str
    statement: str
    why: str


class Review(View):
    """What waits for an admin."""

    items: list[ReviewView]
    more: bool  #: there are others, which are shown once these are decided


class RefreshView(View):
    id: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    reason: str | None
    phase: str
    step: int
    steps: int
    trained_on: int
    facts: int
    adapter_id: int | None


class LossView(View):
    step: int
    loss: float
    drift: float
    tokens: int


class AnswerView(View):
    """One probe with the head's answer (before) and the candidate's (after)."""

    suite: str
    probe_key: str
    fact_id: int | None
    origin: str
    question: str
    answers: list[str]
    before: str
    after: str
    contained_before: bool
    contained_after: bool
    recall_before: float
    recall_after: float


class PassageView(View):
    passage: str
    before: float
    after: float


class LeftOutView(View):
    """A direction in which a fact was not asked, since its answer would not be the only one."""

    fact_id: int
    direction: str
    reason: str


class ControlView(View):
    """How one way of answering did on the batch's own questions, by each measure.

    Shares whose accepted answer stands in the reply, or is all of it, and mean ROUGE-1 recall.
    """

    model: str  #: echo of the question, base, base with the facts in the prompt, head, candidate
    forward: float | None = None
    backward: float | None = None
    exact_forward: float | None = None
    exact_backward: float | None = None
    recall_forward: float | None = None
    recall_backward: float | None = None


class RefreshDetail(RefreshView):
    timings: dict[str, float]
    verdict: dict[str, Any] | None
    losses: list[LossView]
    probes: list[AnswerView]
    control: list[ControlView]
    seconds_per_learned_fact: float | None
    passages: list[PassageView]
    fact_ids: list[int]
    left_out: list[LeftOutView]


class AdapterView(View):
    id: int
    refresh_id: int
    outcome: str | None  #: of its refresh
    in_head: bool
    facts: int
    trained_on: int
    digest: str
    created_at: datetime
    erased_at: datetime | None  #: since then its weights are gone


class AdapterDetail(AdapterView):
    base_digest: str
    about: dict[str, Any]
    releases: list[int]
    fact_ids: list[int]
    replayed_ids: list[int]  #: facts of earlier batches that were shown again in its training


class ReleaseView(View):
    id: int
    is_head: bool
    adapters: list[int]
    snapshot_digest: str
    pinned: str | None  #: why its composed model stays on the disk, where somebody said so
    created_at: datetime


class PinView(View):
    id: int
    question: str
    answers: list[str]
    reason: str
    pinned_by: str
    pinned_at: datetime
    removed_at: datetime | None


class MoveView(View):
    seq: int
    release_id: int
    action: str
    by: str
    reason: str
    moved_at: datetime
    report: dict[str, Any] | None  #: what was found before an adapter was taken out


class DeliveryView(View):
    """A head move, and what became of telling the webhook's receiver."""

    id: int  #: of the head move
    action: str
    release_id: int
    moved_at: datetime
    attempts: int
    delivered_at: datetime | None
    error: str | None  #: of the last attempt


class ErasureView(View):
    """Facts that were to be erased, and the receipt: numbers and digests of what went."""

    id: int
    fact_ids: list[int]
    reason: str
    requested_by: str
    requested_at: datetime
    completed_at: datetime | None
    receipt: dict[str, Any] | None


class AuditView(View):
    """What somebody did, and the digests that bind it to what was done before."""

    id: int
    at: datetime
    act: str
    by: str
    about: dict[str, Any]
    previous: str
    digest: str


class OperationView(View):
    """What an admin asked for over HTTP, and what came of it."""

    id: int
    kind: str
    state: OperationState
    arguments: list[str]
    reason: str
    requested_by: str
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    exit_code: int | None
    error: str | None


class OperationDetail(OperationView):
    result: dict[str, Any] | None  #: what the command printed


class ReleaseDetail(ReleaseView):
    base_digest: str
    recipe_digest: str
    moves: list[MoveView]


class HeadView(View):
    seq: int
    release: ReleaseView


def list_facts(
    session: Session, *, before: int | None = None, limit: int = 50, source: str | None = None
) -> Page[FactView]:
    wanted = select(FactRow).order_by(FactRow.id.desc()).limit(limit + 1)
    if before is not None:
        wanted = wanted.where(FactRow.id < before)
    if source is not None:
        wanted = wanted.where(FactRow.source == source)
    rows = session.scalars(wanted).all()
    states = states_of(session, rows, now=datetime.now(UTC))
    return _page([FactView(**_columns(row), state=states[row.id]) for row in rows], limit)


def show_fact(session: Session, fact_id: int) -> FactDetail:
    """Raises NotFound."""
    row = _get(session, FactRow, fact_id, "fact")
    joined = session.execute(
        select(Membership, Batch.refresh_id, Adapter.id)
        .join(Batch, Batch.id == Membership.batch_id)
        .outerjoin(Adapter, Adapter.batch_id == Batch.id)
        .where(Membership.fact_id == fact_id)
        .order_by(Batch.id)
    ).all()
    memberships = [
        MembershipView(**_columns(membership), refresh_id=refresh_id, adapter_id=adapter_id)
        for membership, refresh_id, adapter_id in joined
    ]
    learned_by = [
        membership.adapter_id
        for membership in memberships
        if membership.outcome == MembershipOutcome.LEARNED
    ]
    holding = select(ReleaseAdapter.release_id).where(ReleaseAdapter.adapter_id.in_(learned_by))
    return FactDetail(
        **_columns(row),
        state=states_of(session, [row], now=datetime.now(UTC))[row.id],
        memberships=memberships,
        known_since=session.scalar(
            select(func.min(HeadMove.moved_at)).where(HeadMove.release_id.in_(holding))
        ),
    )


def facts_to_review(session: Session, *, now: datetime, limit: int = MAX_PAGE) -> Review:
    """What an admin should look at, which no refresh will take up by itself again.

    First what waits for an approval, each kind the oldest first. At most `limit` of them.
    """
    wanted = (
        select(FactRow)
        .where(
            FactRow.superseded_by.is_(None),
            FactRow.retracted_at.is_(None),
            is_held()
            | (FactRow.valid_to <= now)
            | FactRow.id.in_(select(Membership.fact_id).where(Membership.outcome.in_(GIVEN_UP))),
        )
        .order_by(case((is_held(), 0), else_=1), FactRow.id)
        .execution_options(yield_per=MAX_PAGE)
    )
    items: list[ReviewView] = []
    # What was given up once may have been learned since: only its state says so, which SQL cannot.
    for rows in session.scalars(wanted).partitions():
        items += _to_review(session, rows, now=now)
        if len(items) > limit:
            break
    return Review(items=items[:limit], more=len(items) > limit)


def _to_review(session: Session, rows: Sequence[FactRow], *, now: datetime) -> list[ReviewView]:
    """Those of the facts that an admin should look at, with the reasons."""
    states = states_of(session, rows, now=now)
    said = {
        membership.fact_id: membership.reason
        for membership in session.scalars(
            select(Membership)
            .where(
                Membership.outcome.in_(GIVEN_UP), Membership.fact_id.in_([row.id for row in rows])
            )
            .order_by(Membership.batch_id)
        )
    }
    why = {
        FactState.HELD: lambda row: f"{row.held_reason}; approve or retract it",
        FactState.EXPIRED: lambda row: f"valid until {row.valid_to.isoformat()}; retract it",
        FactState.QUARANTINED: lambda row: (
            f"{said.get(row.id) or 'a later try failed'}; reword it, or retract it"
        ),
        FactState.REJECTED: lambda row: f"{said[row.id]}; send it anew, or retract it",
    }
    return [
        ReviewView(**_columns(row), state=states[row.id], why=why[states[row.id]](row))
        for row in rows
        if states[row.id] in why
    ]


def list_refreshes(
    session: Session, *, before: int | None = None, limit: int = 50
) -> Page[RefreshView]:
    wanted = select(Refresh).order_by(Refresh.id.desc()).limit(limit + 1)
    if before is not None:
        wanted = wanted.where(Refresh.id < before)
    rows = session.scalars(wanted).all()
    return _page([RefreshView(**_refresh_fields(session, row)) for row in rows], limit)


def show_refresh(session: Session, refresh_id: int) -> RefreshDetail:
    """Raises NotFound."""
    row = _get(session, Refresh, refresh_id, "refresh")
    losses = session.scalars(
        select(TrainingLoss)
        .where(TrainingLoss.refresh_id == refresh_id)
        .order_by(TrainingLoss.step)
    )
    return RefreshDetail(
        **_refresh_fields(session, row),
        losses=[LossView(**_columns(loss)) for loss in losses],
        probes=_answers(session, refresh_id),
        control=_control(session, refresh_id),
        seconds_per_learned_fact=_cost(session, row),
        passages=_passages(session, refresh_id),
        fact_ids=_facts_of(session, refresh_id),
        left_out=[
            LeftOutView(**_columns(row))
            for row in session.scalars(
                select(LeftOut)
                .join(Batch, Batch.id == LeftOut.batch_id)
                .where(Batch.refresh_id == refresh_id)
                .order_by(LeftOut.fact_id, LeftOut.direction)
            )
        ],
    )


def _refresh_fields(session: Session, row: Refresh) -> dict[str, Any]:
    return {
        **_columns(row),
        "facts": len(_facts_of(session, row.id)),
        "adapter_id": session.scalar(select(Adapter.id).where(Adapter.refresh_id == row.id)),
    }


def _facts_of(session: Session, refresh_id: int) -> list[int]:
    return list(
        session.scalars(
            select(Membership.fact_id)
            .join(Batch, Batch.id == Membership.batch_id)
            .where(Batch.refresh_id == refresh_id)
            .order_by(Membership.fact_id)
        )
    )


def _answers(session: Session, refresh_id: int) -> list[AnswerView]:
    rows = session.scalars(
        select(ProbeAnswer).where(ProbeAnswer.refresh_id == refresh_id).order_by(ProbeAnswer.id)
    ).all()
    after = {row.probe_key: row for row in rows if row.stage == "after"}
    return [
        AnswerView(
            suite=row.suite,
            probe_key=row.probe_key,
            fact_id=row.fact_id,
            origin=row.origin,
            question=row.question,
            answers=row.answers,
            before=row.text,
            after=after[row.probe_key].text,
            contained_before=row.contained,
            contained_after=after[row.probe_key].contained,
            recall_before=row.recall,
            recall_after=after[row.probe_key].recall,
        )
        for row in rows
        if row.stage == "before" and row.probe_key in after
    ]


def _cost(session: Session, refresh: Refresh) -> float | None:
    """Seconds of the whole refresh for each fact that it taught; None where it taught none."""
    learned = session.scalar(
        select(func.count())
        .select_from(Membership)
        .join(Batch, Batch.id == Membership.batch_id)
        .where(Batch.refresh_id == refresh.id, Membership.outcome == MembershipOutcome.LEARNED)
    )
    return round(sum(refresh.timings.values()) / learned, 1) if learned else None


ECHO = "echo of the question"
DIRECTION_OF: dict[str, str] = {Suite.FORWARD: "forward", Suite.BACKWARD: "backward"}
CONTROLS = {
    "base": "base",
    "prompted": "base, facts in the prompt",
    "before": "head before",
    "after": "candidate",
}


def _control(session: Session, refresh_id: int) -> list[ControlView]:
    """Every way of answering that was asked; none while the refresh has no answers yet.

    The first repeats the question: what is no better than that answered nothing.
    """
    rows = session.scalars(
        select(ProbeAnswer).where(
            ProbeAnswer.refresh_id == refresh_id,
            ProbeAnswer.suite.in_([Suite.FORWARD, Suite.BACKWARD]),
        )
    ).all()
    measured: dict[str, dict[str, list[float]]] = {}

    def measure(
        model: str, row: ProbeAnswer, *, has_come: float, exact: float, recall: float
    ) -> None:
        direction = DIRECTION_OF[row.suite]
        of_model = measured.setdefault(model, {})
        of_model.setdefault(direction, []).append(has_come)
        of_model.setdefault(f"exact_{direction}", []).append(exact)
        of_model.setdefault(f"recall_{direction}", []).append(recall)

    for row in rows:
        if row.stage == "after":  # a question that contains its answer is never asked
            recall = best_recall(row.question, row.answers)
            measure(ECHO, row, has_come=0.0, exact=0.0, recall=recall)
    for stage, model in CONTROLS.items():
        for row in rows:
            if row.stage == stage:
                measure(model, row, has_come=row.contained, exact=row.exact, recall=row.recall)
    return [
        ControlView(model=model, **{name: fmean(values) for name, values in some.items()})
        for model, some in measured.items()
    ]


def _passages(session: Session, refresh_id: int) -> list[PassageView]:
    rows = session.scalars(
        select(PassageBits)
        .where(PassageBits.refresh_id == refresh_id)
        .order_by(PassageBits.passage)
    ).all()
    after = {row.passage: row.bits_per_byte for row in rows if row.stage == "after"}
    return [
        PassageView(passage=row.passage, before=row.bits_per_byte, after=after[row.passage])
        for row in rows
        if row.stage == "before"
    ]


def list_adapters(
    session: Session, *, before: int | None = None, limit: int = 50
) -> Page[AdapterView]:
    wanted = select(Adapter).order_by(Adapter.id.desc()).limit(limit + 1)
    if before is not None:
        wanted = wanted.where(Adapter.id < before)
    rows = session.scalars(wanted).all()
    in_head = lineage.read_head(session).recipe.adapter_ids
    return _page([AdapterView(**_adapter_fields(session, row, in_head)) for row in rows], limit)


def show_adapter(session: Session, adapter_id: int) -> AdapterDetail:
    """Raises NotFound."""
    row = _get(session, Adapter, adapter_id, "adapter")
    in_head = lineage.read_head(session).recipe.adapter_ids
    return AdapterDetail(
        **_adapter_fields(session, row, in_head),
        releases=lineage.releases_with(session, adapter_id),
        fact_ids=_facts_of(session, row.refresh_id),
        replayed_ids=list(
            session.scalars(
                select(Replay.fact_id)
                .where(Replay.batch_id == row.batch_id)
                .order_by(Replay.fact_id)
            )
        ),
    )


def _adapter_fields(session: Session, row: Adapter, in_head: tuple[int, ...]) -> dict[str, Any]:
    return {
        **_columns(row),
        "outcome": session.get_one(Refresh, row.refresh_id).outcome,
        "in_head": row.id in in_head,
        "facts": len(_facts_of(session, row.refresh_id)),
    }


def list_pins(session: Session, *, before: int | None = None, limit: int = 50) -> Page[PinView]:
    """Those that were removed, too."""
    wanted = select(Pin).order_by(Pin.id.desc()).limit(limit + 1)
    if before is not None:
        wanted = wanted.where(Pin.id < before)
    return _page([PinView(**_columns(row)) for row in session.scalars(wanted)], limit)


def show_pin(session: Session, pin_id: int) -> PinView:
    """Raises NotFound."""
    return PinView(**_columns(_get(session, Pin, pin_id, "pin")))


def list_erasures(
    session: Session, *, before: int | None = None, limit: int = 50
) -> Page[ErasureView]:
    wanted = select(Erasure).order_by(Erasure.id.desc()).limit(limit + 1)
    if before is not None:
        wanted = wanted.where(Erasure.id < before)
    return _page([ErasureView(**_columns(row)) for row in session.scalars(wanted)], limit)


def show_erasure(session: Session, erasure_id: int) -> ErasureView:
    """Raises NotFound."""
    return ErasureView(**_columns(_get(session, Erasure, erasure_id, "erasure")))


def list_audit(session: Session, *, before: int | None = None, limit: int = 50) -> Page[AuditView]:
    wanted = select(AuditEntry).order_by(AuditEntry.seq.desc()).limit(limit + 1)
    if before is not None:
        wanted = wanted.where(AuditEntry.seq < before)
    return _page([_audit_view(row) for row in session.scalars(wanted)], limit)


def show_audit(session: Session, seq: int) -> AuditView:
    """Raises NotFound."""
    return _audit_view(_get(session, AuditEntry, seq, "entry of the audit log"))


def _audit_view(row: AuditEntry) -> AuditView:
    return AuditView(**_columns(row), id=row.seq)


def list_operations(
    session: Session, *, before: int | None = None, limit: int = 50
) -> Page[OperationView]:
    wanted = select(Operation).order_by(Operation.id.desc()).limit(limit + 1)
    if before is not None:
        wanted = wanted.where(Operation.id < before)
    rows = session.scalars(wanted)
    return _page(
        [OperationView(**_columns(row), state=operation_state(row)) for row in rows], limit
    )


def show_operation(session: Session, operation_id: int) -> OperationDetail:
    """Raises NotFound."""
    row = _get(session, Operation, operation_id, "operation")
    return OperationDetail(**_columns(row), state=operation_state(row))


def list_deliveries(
    session: Session, *, before: int | None = None, limit: int = 50
) -> Page[DeliveryView]:
    wanted = select(HeadMove).order_by(HeadMove.seq.desc()).limit(limit + 1)
    if before is not None:
        wanted = wanted.where(HeadMove.seq < before)
    moves = session.scalars(wanted).all()
    return _page([_delivery(session, move) for move in moves], limit)


def show_delivery(session: Session, seq: int) -> DeliveryView:
    """Raises NotFound."""
    return _delivery(session, _get(session, HeadMove, seq, "head move"))


def _delivery(session: Session, move: HeadMove) -> DeliveryView:
    row = session.get(Delivery, move.seq)
    return DeliveryView(
        id=move.seq,
        action=move.action,
        release_id=move.release_id,
        moved_at=move.moved_at,
        attempts=0 if row is None else row.attempts,
        delivered_at=None if row is None else row.delivered_at,
        error=None if row is None else row.error,
    )


def list_releases(
    session: Session, *, before: int | None = None, limit: int = 50
) -> Page[ReleaseView]:
    wanted = select(Release).order_by(Release.id.desc()).limit(limit + 1)
    if before is not None:
        wanted = wanted.where(Release.id < before)
    rows = session.scalars(wanted).all()
    head = lineage.read_head(session).release_id
    return _page([ReleaseView(**_release_fields(session, row, head)) for row in rows], limit)


def show_release(session: Session, release_id: int) -> ReleaseDetail:
    """Raises NotFound."""
    row = _get(session, Release, release_id, "release")
    moves = session.scalars(
        select(HeadMove).where(HeadMove.release_id == release_id).order_by(HeadMove.seq)
    )
    return ReleaseDetail(
        **_release_fields(session, row, lineage.read_head(session).release_id),
        moves=[MoveView(**_columns(move)) for move in moves],
    )


def show_head(session: Session) -> HeadView:
    head = lineage.read_head(session)
    row = session.get_one(Release, head.release_id)
    fields = _release_fields(session, row, head.release_id)
    return HeadView(seq=head.seq, release=ReleaseView(**fields))


def _release_fields(session: Session, row: Release, head: int) -> dict[str, Any]:
    pinned = session.get(PinnedRelease, row.id)
    return {
        **_columns(row),
        "is_head": row.id == head,
        "pinned": None if pinned is None else pinned.reason,
        "adapters": list(lineage.recipe_of(session, row.id).adapter_ids),
    }


def _page(items: list[Item], limit: int) -> Page[Item]:
    """Cut the one item that was read beyond the page; its presence says that there are more."""
    has_more = len(items) > limit
    kept = items[:limit]
    last: Any = kept[-1] if kept else None
    return Page(items=kept, next=last.id if has_more else None)


def _columns(row: Any) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__table__.columns}


def _get(session: Session, kind: type[Row], key: int, name: str) -> Row:
    row = session.get(kind, key)
    if row is None:
        raise NotFound(f"There is no {name} {key}.")
    return row
