"""The ledger of pinned questions: what an admin saw go wrong once is asked at every refresh.

A pinned question is held without a margin: a candidate that loses its answer fails. One that the
head does not answer yet is asked, too, and holds from the first release that does.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from adapters.grading import contains, normalised
from adapters.types import Probe, ProbeOrigin, Suite
from service import audit
from service.audit import Act
from service.errors import Conflict, NotFound
from service.models import Pin, ProbeAnswer
from service.schemas import clean_words


def pin(
    session: Session,
    question: str,
    answers: Sequence[str],
    *,
    reason: str,
    by: str,
    now: datetime,
) -> Pin:
    """Pin a question with its accepted answers.

    Raises Conflict for a question that is pinned already, or one that could not be graded: without
    an answer, with an answer that has no word in it, or with one that it contains itself.
    """
    try:
        question, answers = clean_words(question), [clean_words(answer) for answer in answers]
    except ValueError as error:
        raise Conflict(f"A question and its answers {error}.") from error
    if not answers or not all(map(normalised, answers)):
        raise Conflict("A pinned question needs an accepted answer with a word in it.")
    if contains(question, answers):
        raise Conflict("The question contains its own answer, so echoing it would be right.")
    for held in pinned(session):
        if held.question == question:
            raise Conflict(f"That question is pinned already, as pin {held.id}.")
    row = Pin(question=question, answers=answers, reason=reason, pinned_by=by, pinned_at=now)
    session.add(row)
    session.flush()
    audit.record(session, Act.PIN_ADDED, by=by, about={"pin": row.id}, now=now)
    return row


def pin_probe(
    session: Session, refresh_id: int, probe_key: str, *, reason: str, by: str, now: datetime
) -> Pin:
    """Pin a question of a refresh by its key. Raises NotFound, and what `pin` raises."""
    asked = session.scalar(
        select(ProbeAnswer)
        .where(ProbeAnswer.refresh_id == refresh_id, ProbeAnswer.probe_key == probe_key)
        .limit(1)
    )
    if asked is None:
        raise NotFound(f"Refresh {refresh_id} asked no probe {probe_key}.")
    if asked.suite == Suite.TASK:
        raise Conflict("It is lm-eval's to ask, in its own way, so it cannot be pinned.")
    if asked.suite in (Suite.LEAKAGE, Suite.SUPERSEDED, Suite.PLANTED):
        raise Conflict(f"The answers of {asked.suite} must not come, so it cannot be pinned.")
    return pin(session, asked.question, asked.answers, reason=reason, by=by, now=now)


def unpin(session: Session, pin_id: int, *, by: str, now: datetime) -> Pin:
    """Ask it no more. Raises NotFound, or Conflict when it was removed before."""
    row = session.get(Pin, pin_id)
    if row is None:
        raise NotFound(f"There is no pin {pin_id}.")
    if row.removed_at is not None:
        raise Conflict(f"Pin {pin_id} was already removed at {row.removed_at.isoformat()}.")
    row.removed_at = now
    audit.record(session, Act.PIN_REMOVED, by=by, about={"pin": pin_id}, now=now)
    return row


def pinned(session: Session) -> Sequence[Pin]:
    """What is pinned now, oldest first."""
    return session.scalars(select(Pin).where(Pin.removed_at.is_(None)).order_by(Pin.id)).all()


def pinned_probes(session: Session) -> tuple[Probe, ...]:
    """The same as probes."""
    return tuple(
        Probe(
            key=f"{Suite.PINNED}/{row.id}",
            suite=Suite.PINNED,
            cluster=str(row.id),
            question=row.question,
            answers=tuple(row.answers),
            origin=ProbeOrigin.GIVEN,
        )
        for row in pinned(session)
    )
