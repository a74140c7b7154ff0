"""What an admin asks for over HTTP that loads a model: rollbacks, approvals, erasures.

The daemon loads none, so each is written down here and carried out by the clock as the command that
an operator would type, in a process of its own, one at a time and in their order. Of several
daemons the one does that has the lease for it: whoever takes it knows that none is under way.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import audit
from service.audit import Act
from service.models import Operation


class Kind(StrEnum):
    """What is asked for."""

    ROLLBACK = "rollback"
    APPROVAL = "approval"
    ERASURE = "erasure"


class OperationState(StrEnum):
    """How far it is. Derived, never stored."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    HEAD_STAYS = "head_stays"  #: what was examined did not pass
    FAILED = "failed"  #: it was refused, or something broke
    INTERRUPTED = "interrupted"  #: the daemon ended meanwhile: the head's history says what is so


STATE_OF_CODE = {0: OperationState.DONE, 3: OperationState.HEAD_STAYS}


def enqueue(
    session: Session,
    kind: Kind,
    arguments: Sequence[str],
    *,
    reason: str,
    by: str,
    now: datetime,
) -> Operation:
    """Write down what is asked for; the arguments are the command's."""
    operation = Operation(
        kind=kind, arguments=list(arguments), reason=reason, requested_by=by, requested_at=now
    )
    session.add(operation)
    session.flush()
    about = {"operation": operation.id, "kind": str(kind)}
    audit.record(session, Act.OPERATION_REQUESTED, by=by, about=about, now=now)
    return operation


def is_open(session: Session) -> bool:
    """Whether any has not ended."""
    unended = select(Operation.id).where(Operation.ended_at.is_(None)).limit(1)
    return session.scalar(unended) is not None


def begin_next(
    session: Session, *, owner: str, without: Collection[int] = (), now: datetime
) -> Operation | None:
    """The oldest that nobody has begun, which is the caller's now; None where there is none."""
    waiting = (
        select(Operation)
        .where(Operation.started_at.is_(None), Operation.id.not_in(without))
        .order_by(Operation.id)
    )
    for operation in session.scalars(waiting.limit(1).with_for_update(skip_locked=True)):
        operation.owner, operation.started_at = owner, now
        return operation
    return None


def give_back(session: Session, operation_id: int) -> None:
    """Let it wait again: nothing of it was done."""
    operation = session.get_one(Operation, operation_id)
    operation.owner = operation.started_at = None


def end(
    session: Session,
    operation_id: int,
    *,
    exit_code: int | None,
    result: dict[str, Any] | None,
    error: str | None,
    now: datetime,
) -> None:
    """Write down what came of it."""
    operation = session.get_one(Operation, operation_id)
    operation.exit_code, operation.result, operation.error = exit_code, result, error
    operation.ended_at = now


def end_interrupted(session: Session, *, now: datetime) -> None:
    """End those that were begun and have not ended; for who holds the lease and is at none."""
    running = session.scalars(
        select(Operation).where(Operation.started_at.is_not(None), Operation.ended_at.is_(None))
    )
    for operation in running:
        operation.ended_at = now
        operation.error = "The daemon ended meanwhile; look at the head, and ask again."


def state_of(operation: Operation) -> OperationState:
    """How far it is."""
    if operation.started_at is None:
        return OperationState.WAITING
    if operation.ended_at is None:
        return OperationState.RUNNING
    if operation.exit_code is None:
        return OperationState.INTERRUPTED
    return STATE_OF_CODE.get(operation.exit_code, OperationState.FAILED)
