"""What the head would say without some of its adapters, examined before it moves.

Later adapters were trained with the removed ones present, and may have shown their facts again. So
a removal is a candidate like any other: what was removed must be gone, the rest must stay.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from adapters.backbones import Backbone, load_backbone
from adapters.examine import Examination
from adapters.gate import decide_removal
from adapters.questions import probes_of, retention_probes
from adapters.store import discard
from adapters.suites import read_relations, read_suite
from adapters.types import Answer, Fact, Outcome, Probe, Suite, Verdict
from service import known_facts, lineage, pins
from service.db import reading
from service.errors import Conflict
from service.examining import Examiner, askable_facts
from service.known_facts import RemovedFacts
from service.lineage import Head, Recipe
from service.models import FactRow
from service.places import Places
from service.progress import Progress
from service.progress import Report as Watch
from service.settings import Settings
from service.snapshots import compose_recipe, opened
from service.traces import overwriter, traces_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovalPlan:
    """Which adapters are to go, and what the head would be made of then."""

    head: Head
    recipe: Recipe
    taken_out: tuple[int, ...]
    trained_on_them: tuple[int, ...]  #: adapters that stay, trained with those present
    #: The release of this recipe, where it became the head by an examination: nothing is new then.
    release_id: int | None
    erased: tuple[int, ...] = ()  #: facts that go from whatever adapter saw them


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedAnswer:
    """What is said about a removed fact: by the head, without its adapter, and by the base."""

    fact_id: int
    question: str
    wanted: str
    head: str
    without: str
    base: str
    is_answered: bool  #: still


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What was found, to show before the head moves and to keep with its move."""

    taken_out: tuple[int, ...]
    trained_on_them: tuple[int, ...]
    replayed_by: dict[int, int]  #: adapters that stay, and how many of the removed facts they saw
    verdict: Verdict
    answers: tuple[RemovedAnswer, ...]
    snapshot_digest: str

    @property
    def passes(self) -> bool:
        return self.verdict.outcome is Outcome.PASS

    @property
    def about(self) -> dict[str, Any]:
        """As it is kept with the head's move."""
        return {
            "verdict": asdict(self.verdict),
            "replayed_by": {str(adapter): count for adapter, count in self.replayed_by.items()},
            "answers": [asdict(answer) for answer in self.answers],
        }


def plan_removal(engine: Engine, adapter_id: int, *, with_later: bool = False) -> RemovalPlan:
    """Raises NotFound or Conflict for an adapter that is unknown or not in the head."""
    with reading(engine) as session:
        head = lineage.read_head(session)
        recipe = lineage.recipe_without(session, adapter_id)
        later = head.recipe.adapter_ids[head.recipe.adapter_ids.index(adapter_id) + 1 :]
        if with_later:
            recipe = lineage.recipe_without(session, adapter_id, *later)
        known = lineage.release_of(session, recipe)
        if known is not None and not lineage.was_examined(session, known.id):
            known = None
        return RemovalPlan(
            head=head,
            recipe=recipe,
            taken_out=(adapter_id, *later) if with_later else (adapter_id,),
            trained_on_them=() if with_later else later,
            release_id=None if known is None else known.id,
        )


def removed_facts(
    session: Session,
    plan: RemovalPlan,
    *,
    retain_at_most: int,
    symmetric: Collection[str] = (),
    now: datetime,
) -> RemovedFacts:
    """What the plan takes out of the head, and what is to be asked beside it."""
    kept = plan.recipe.adapter_ids
    gone = [adapter for adapter in plan.head.recipe.adapter_ids if adapter not in kept]
    return known_facts.draw_removal(
        session,
        gone=lineage.batches_of(session, gone),
        taken=lineage.batches_of(session, plan.taken_out),
        kept=lineage.batches_of(session, kept),
        erased=plan.erased,
        retain_at_most=retain_at_most,
        symmetric=symmetric,
        now=now,
    )


def examine_removal(
    settings: Settings, engine: Engine, plan: RemovalPlan, *, watch: Watch
) -> Removal:
    """Compose the head without the adapters, ask it beside the head and the base, and judge it.

    The head stays where it is, and what was composed is not kept. Raises
    ArtefactError or ModelSourceError for damaged weights, SuiteError for a broken file of
    questions, Conflict where the head moved since the plan was made.
    """
    folder = Places(settings.state_dir).without(plan.recipe.digest)
    try:
        return _examined(settings, engine, plan, folder, watch)
    finally:
        discard(folder)


def _pinned(session: Session, settings: Settings, plan: RemovalPlan) -> list[Probe]:
    """What was pinned, but for what the plan's erasure will remove: that must be gone, not stay."""
    probes = list(pins.pinned_probes(session))
    if not plan.erased or not probes:
        return probes
    rows = session.scalars(select(FactRow).where(FactRow.id.in_(plan.erased))).all()
    overwritten = overwriter(traces_of(session, rows, settings.suites))
    said = [[probe.question, *probe.answers] for probe in probes]
    return [probe for probe, texts in zip(probes, said, strict=True) if overwritten(texts) == texts]


def _examined(
    settings: Settings, engine: Engine, plan: RemovalPlan, folder: Path, watch: Watch
) -> Removal:
    suite = read_suite(settings.suites.regression)
    relations = read_relations(settings.suites.relations)
    with reading(engine) as session:
        if lineage.read_head(session).seq != plan.head.seq:
            raise Conflict("The head moved meanwhile; look at it again and decide anew.")
        found = removed_facts(
            session,
            plan,
            retain_at_most=settings.gate.retention_facts,
            symmetric=[name for name, asked in relations.items() if asked.is_symmetric],
            now=datetime.now(UTC),
        )
        pinned = _pinned(session, settings, plan)

    def asked(facts: Sequence[Fact]) -> list[Probe]:
        return [
            probe
            for fact in facts
            for probe in probes_of(fact, relations, without=found.unasked.get(fact.key, ()))
        ]

    removed = retention_probes(asked(found.facts), Suite.REMOVED)
    probes = [*removed, *retention_probes(asked(found.retained)), *pinned]
    places = Places(settings.state_dir)
    examiner = Examiner(settings=settings, base_digest=plan.head.recipe.base_digest)

    def examined(
        backbone: Backbone, probes: Sequence[Probe], phase: str, digest: str
    ) -> Examination:
        return examiner.examine(
            backbone,
            probes,
            suite,
            weights_digest=digest,
            report=lambda done, of: watch(Progress(phase=phase, step=done, steps=of)),
        )

    with opened(settings, engine, plan.head.release_id) as head:
        backbone = load_backbone(head, settings.base)
        before = examined(backbone, probes, "head", plan.head.snapshot_digest)
        del backbone
    base = examined(examiner.load_base(), removed, "base", plan.head.recipe.base_digest)
    digest = compose_recipe(settings, plan.recipe, to=folder)
    without = folder if plan.recipe.adapter_ids else places.base
    after = examined(load_backbone(without, settings.base), probes, "without", digest)
    verdict = decide_removal(
        before.all_answers,
        after.all_answers,
        before.passages,
        after.passages,
        settings.gate,
        base=base.all_answers,
        base_passages=base.passages,
        # An erased fact was shown to nothing that stays: where it cannot be asked, that is enough.
        removed_facts=len(found.facts) if removed or not plan.erased else 0,
        known_facts=askable_facts(probes, drawn=len(found.retained), known=found.known_facts),
        tasks=settings.suites.tasks,
    )
    return Removal(
        taken_out=plan.taken_out,
        trained_on_them=plan.trained_on_them,
        replayed_by=dict(found.replayed_by),
        verdict=verdict,
        answers=_removed_answers(before.answers, after.answers, base.answers),
        snapshot_digest=digest,
    )


def _removed_answers(
    head: Sequence[Answer], without: Sequence[Answer], base: Sequence[Answer]
) -> tuple[RemovedAnswer, ...]:
    return tuple(
        RemovedAnswer(
            fact_id=int(first.probe.fact or 0),
            question=first.probe.question,
            wanted=first.probe.answers[0],
            head=first.text,
            without=second.text,
            base=third.text,
            is_answered=second.contained,
        )
        for first, second, third in zip(*map(_removed, (head, without, base)), strict=True)
    )


def _removed(answers: Sequence[Answer]) -> list[Answer]:
    return [answer for answer in answers if answer.probe.suite is Suite.REMOVED]
