"""What a promotion makes of each fact, and how an admin lets in what the gate could not decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from adapters.judges import learned_facts
from adapters.questions import SUITE_OF
from adapters.types import Answer, Probe, ProbeOrigin, Suite
from service import lineage
from service.current import follow_head
from service.db import reading, writing
from service.models import Adapter, Membership, MembershipOutcome, ProbeAnswer
from service.settings import Settings
from service.snapshots import compose_recipe, held


@dataclass(frozen=True, slots=True, kw_only=True)
class LetIn:
    """A candidate that became part of the head on an admin's word."""

    adapter_id: int
    from_release: int
    to_release: int
    facts: dict[int, str]  #: what became of each fact of its batch


def let_in(settings: Settings, engine: Engine, adapter_id: int, *, by: str, reason: str) -> LetIn:
    """Promote a candidate whose verdict was insufficient evidence.

    What it answered when it was examined says which of its facts are learned. The model is composed
    and verified first, so that the move itself is one short transaction.

    Raises NotFound or Conflict for an adapter that is unknown or not an admin's to let in,
    ArtefactError when a part of it is damaged or what comes out are not the bits that were
    examined, LeaseHeld while a refresh runs, HeadMoved when somebody else was faster.
    """
    with reading(engine) as session:
        head, recipe = lineage.undecided_candidate(session, adapter_id)
        adapter = session.get_one(Adapter, adapter_id)
        refresh_id, examined_as = adapter.refresh_id, adapter.about.get(lineage.EXAMINED_AS)
        answers = _own_answers(session, refresh_id)
    with held(settings, recipe):
        digest = compose_recipe(settings, recipe, wanted=examined_as)
        with writing(engine) as session:
            candidate = lineage.Candidate(
                refresh_id=refresh_id,
                adapter_id=adapter_id,
                head=head,
                snapshot_digest=digest,
                outcomes=learned_by_probes(answers),
                reasons=wrong_by_probes(answers),
                tries=settings.schedule.tries,
            )
            release_id = lineage.let_in(
                session, candidate, by=by, reason=reason, now=datetime.now(UTC)
            )
            batch_id = session.get_one(Adapter, adapter_id).batch_id
            decided = session.scalars(
                select(Membership)
                .where(Membership.batch_id == batch_id)
                .order_by(Membership.fact_id)
            )
            facts = {row.fact_id: str(row.outcome) for row in decided}
        follow_head(settings, engine)
    return LetIn(
        adapter_id=adapter_id, from_release=head.release_id, to_release=release_id, facts=facts
    )


def _own_answers(session: Session, refresh_id: int) -> list[Answer]:
    """What the refresh's candidate said to the probes of its own facts."""
    rows = session.scalars(
        select(ProbeAnswer)
        .where(
            ProbeAnswer.refresh_id == refresh_id,
            ProbeAnswer.stage == "after",
            ProbeAnswer.suite.in_(list(SUITE_OF.values())),
        )
        .order_by(ProbeAnswer.id)
    )
    return [
        Answer(
            probe=Probe(
                key=row.probe_key,
                suite=Suite(row.suite),
                cluster=str(row.fact_id),
                question=row.question,
                answers=tuple(row.answers),
                origin=ProbeOrigin(row.origin),
                fact=str(row.fact_id),
            ),
            text=row.text,
            exact=row.exact,
            contained=row.contained,
            recall=row.recall,
        )
        for row in rows
    ]


def learned_by_probes(answers: Sequence[Answer]) -> dict[int, MembershipOutcome]:
    """What becomes of each fact that could be asked, once its adapter is promoted."""
    return {
        int(fact): MembershipOutcome.LEARNED if is_learned else MembershipOutcome.UNLEARNED
        for fact, is_learned in learned_facts(answers).items()
    }


def wrong_by_probes(answers: Sequence[Answer]) -> dict[int, str]:
    """For each fact that is not learned, what was asked and what the model said instead."""
    outcomes = learned_by_probes(answers)
    wrong: dict[int, list[str]] = {}
    for answer in answers:
        if answer.probe.suite in SUITE_OF.values() and not answer.contained:
            fact_id = int(answer.probe.cluster)
            if outcomes[fact_id] is MembershipOutcome.UNLEARNED:
                said = f"{answer.probe.question} It says: {answer.text.strip() or 'nothing'}"
                wrong.setdefault(fact_id, []).append(said)
    return {fact_id: "; ".join(said) for fact_id, said in wrong.items()}
