"""One refresh, from waiting facts to a new head or a rejection: the whole story, flat.

No transaction is open while a model works. Every write is guarded by the lease's token, so a
refresh that lost its lease cannot publish. Whatever goes wrong ends the refresh with its reason
and frees the batch; a crash leaves an expired lease, which the next refresh clears up.
"""

import logging
import platform
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from peft import PeftModel
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from torch import OutOfMemoryError

from adapters import gate
from adapters.anchor import Anchors, anchors_of, with_decoys
from adapters.backbones import Backbone, load_backbone
from adapters.checkpoint import Checkpoints
from adapters.errors import (
    ArtefactError,
    ConfigurationError,
    ModelSourceError,
    SuiteError,
    TextTooLong,
    TrainingDiverged,
    TrainingStopped,
    UnsafeText,
)
from adapters.examine import Examination, examine_control, try_triggers, with_triggers
from adapters.isolate import find_poison
from adapters.lora import attached, save_adapter, set_precision, update_norm
from adapters.masking import EncodedFact
from adapters.questions import (
    SUITE_OF,
    RelationTemplates,
    leakage_probes,
    must_be_gone,
    probes_of,
    retention_probes,
    superseded_probes,
)
from adapters.rows import encode_fact
from adapters.store import canonical_digest, discard, file_digest, writer_if_free
from adapters.suites import read_prompts, read_relations, read_suite
from adapters.train import train
from adapters.triggers import facts_with
from adapters.types import Answer, Fact, Outcome, Probe, Suite, Verdict
from service import batches, leases, lineage, pins
from service.batches import ClaimedBatch
from service.collect import collect
from service.current import follow_head
from service.db import reading, writing
from service.disk import check_room, size_of_model
from service.errors import Conflict, HeadMoved, LeaseHeld, LeaseLost, Stopped
from service.examining import Examiner, askable_facts
from service.leases import Hold
from service.lineage import Head, Recipe
from service.models import Adapter, Refresh, RefreshOutcome
from service.places import Places
from service.progress import Progress, Report
from service.promotion import learned_by_probes, wrong_by_probes
from service.record import RefreshRecord
from service.settings import Settings
from service.snapshots import compose_recipe, snapshot_of
from service.stopping import Stopping

log = logging.getLogger(__name__)

#: What is wrong with the surroundings, not with the facts.
HINDRANCES = (
    ArtefactError,
    ConfigurationError,
    ModelSourceError,
    SuiteError,
    OSError,
    MemoryError,
    OutOfMemoryError,
    OperationalError,
)

UPDATE_NORM = "update_norm"  #: in what is recorded about an adapter

OUTCOMES = {
    Outcome.PASS: RefreshOutcome.PROMOTED,
    Outcome.FAIL: RefreshOutcome.REJECTED,
    Outcome.INSUFFICIENT: RefreshOutcome.INSUFFICIENT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshEnd:
    """How a refresh ended."""

    refresh_id: int
    outcome: RefreshOutcome
    verdict: Verdict | None
    release_id: int | None  #: the new head, where there is one
    adapter_id: int | None


def run_refresh(
    settings: Settings,
    engine: Engine,
    *,
    at_least: int,
    report: Report,
    stopping: Stopping | None = None,
) -> RefreshEnd | None:
    """Learn the waiting facts; None when fewer than `at_least` are waiting.

    A batch whose refresh was interrupted is claimed again as it was, and its training goes on
    after the last checkpoint.

    Raises BelowReserve where the disk has no room for another model, LeaseHeld when another refresh
    runs, LeaseLost when a successor took over, and whatever made it fail, after the refresh was
    ended with that reason and its batch was freed.
    """
    with writing(engine) as session:
        lease_s = settings.schedule.lease_s
        hold = leases.acquire_refresh(session, now=_now(), lease_s=lease_s)
        gone = batches.recover_abandoned(session, attempts=settings.schedule.attempts, now=_now())
    for refresh_id in gone:
        log.warning("refresh %s was abandoned; its facts wait again", refresh_id)
    try:
        check_room(settings, needed=size_of_model(settings))
        with writing(engine) as session:
            leases.renew(session, hold, now=_now(), lease_s=settings.schedule.lease_s)
            head = lineage.read_head(session)
            claimed = batches.claim_batch(
                session,
                hold=hold,
                trained_on=head.release_id,
                at_least=at_least,
                at_most=settings.schedule.at_most,
                attempts=settings.schedule.attempts,
                at_most_of_source=settings.schedule.at_most_of_source,
                replay_at_most=settings.training.replay_facts,
                retain_at_most=settings.gate.retention_facts,
                symmetric=symmetric_relations(settings.suites.relations),
                now=_now(),
            )
        if claimed is None:
            return None
        end = _Run(settings, engine, hold, head, claimed, report, stopping or Stopping()).learn()
    finally:
        _give_back(engine, hold)
    collect_afterwards(settings, engine)
    return end


def learn_beside_head(
    settings: Settings,
    engine: Engine,
    hold: Hold,
    line: Head,
    claimed: ClaimedBatch,
    report: Report,
    stopping: Stopping,
) -> RefreshEnd:
    """Learn a claimed batch on a release in the head's place; what passes moves no head.

    The lease stays the caller's. Raises what `run_refresh` raises.
    """
    run = _Run(settings, engine, hold, line, claimed, report, stopping, is_beside=True)
    return run.learn()


def symmetric_relations(path: Path) -> Collection[str]:
    """Those of the relations' file; one that cannot be read hinders the refresh once it began."""
    try:
        return [name for name, asked in read_relations(path).items() if asked.is_symmetric]
    except SuiteError:
        return ()


def collect_afterwards(settings: Settings, engine: Engine) -> None:
    """Remove what nobody needs, if so set. What has ended has ended, whatever the disk says."""
    if not settings.storage.collect_after_refresh:
        return
    try:
        collect(settings, engine)
    except LeaseHeld:
        pass  # the next one is at it already, and collects when it ends
    except (OSError, OperationalError, LeaseLost) as error:
        log.warning("What nobody needs any more could not be removed: %s", error)


def _give_back(engine: Engine, hold: Hold) -> None:
    try:
        with writing(engine) as session:
            leases.release(session, hold, now=_now())
    except LeaseLost:
        log.warning("the lease had gone to a successor")


class _Run:
    """One claimed batch on its way to a verdict."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        hold: Hold,
        head: Head,
        claimed: ClaimedBatch,
        report: Report,
        stopping: Stopping,
        *,
        is_beside: bool = False,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.hold = hold
        self.head = head
        self.claimed = claimed
        self.record = RefreshRecord(engine, hold, claimed.refresh_id, settings.schedule, report)
        self.stopping = stopping
        self.is_beside = is_beside  #: whether `head` is another release in the head's place
        self.places = Places(settings.state_dir)
        self.examiner = Examiner(settings=settings, base_digest=head.recipe.base_digest)
        self.replayed: Sequence[EncodedFact] = ()
        self.precision: str | None = None  #: what the training computes in
        self.norm = 0.0  #: how large the adapter is
        self.composed: Path | None = None  #: a snapshot that no release refers to yet

    def learn(self) -> RefreshEnd:
        """Train, examine, judge, record; on any error end the refresh with its reason first."""
        try:
            with self.record.kept_alive():
                return self._learn()
        except LeaseLost:
            raise  # a successor has ended this refresh already
        except HeadMoved as error:
            self.record.end_without_verdict(RefreshOutcome.OVERTAKEN, str(error))
            return self._ended(RefreshOutcome.OVERTAKEN, None)
        except (Stopped, TrainingStopped) as error:
            self.record.end_without_verdict(RefreshOutcome.STOPPED, str(error))
            raise Stopped(str(error)) from error
        except HINDRANCES as error:
            self.record.end_without_verdict(RefreshOutcome.HINDERED, str(error))
            raise
        except BaseException as error:
            self.record.end_without_verdict(
                RefreshOutcome.FAILED, str(error) or type(error).__name__
            )
            raise
        finally:
            discard(self.places.candidate(self.claimed.refresh_id))
            if self.composed:  # the adapter is kept, and the snapshot can be composed of it again
                with writer_if_free(self.composed) as is_free:
                    if is_free:  # somebody who approves the adapter is composing the same
                        discard(self.composed)

    def _learn(self) -> RefreshEnd:
        settings, claimed = self.settings, self.claimed
        if not claimed.facts:
            raise Conflict(
                "All of the batch's facts contradict each other, and are refused in pairs."
            )
        suite = read_suite(settings.suites.regression)
        relations = read_relations(settings.suites.relations)

        with self.record.phase("anchoring"):
            anchors = anchors_of(
                self.places.base,
                settings.base,
                settings.training,
                read_prompts(settings.suites.general_prompts),
                digest=self.head.recipe.base_digest,
                kept=self.places.anchors,
            )
            anchors = with_decoys(
                anchors,
                self.places.base,
                settings.base,
                settings.training,
                claimed.facts,
                replaced=[old for old, _ in claimed.replaced],
                digest=self.head.recipe.base_digest,
            )
        with self.record.phase("loading"):
            folder = snapshot_of(settings, self.engine, self.head.release_id)
            backbone = load_backbone(folder, settings.base)
            facts = self._encode(backbone, claimed.facts)
            self.replayed = [encode_fact(backbone, fact) for fact in claimed.replayed]
        probes = self._probes(relations, facts)
        with self.record.phase("baseline"):
            before = self.examiner.examine(
                backbone,
                probes,
                suite,
                weights_digest=self.head.snapshot_digest,
                report=self.record.questions("baseline"),
            )
            base = (
                self.examiner.examine_base(suite, report=self.record.questions("baseline"))
                if self.head.recipe.adapter_ids
                else None
            )
        with self.record.phase("control"):
            control = self._control(backbone, probes)
        with self.record.phase("training"):
            self.precision = set_precision(backbone, settings.training)
            adapter_digest, trained = self._train(backbone, facts, anchors)
        del backbone
        probes = _of_facts(probes, trained)  # what was set aside counts neither before nor after
        before = before.of_probes(probes)
        with self.record.phase("composing"):
            adapter_id, recipe = self._record_candidate(adapter_digest)
            self.composed = self.places.snapshot(recipe.digest)
            snapshot_digest = compose_recipe(settings, recipe)
            candidate = load_backbone(self.composed, settings.base)
        with self.record.phase("examination"):
            after = self.examiner.examine(
                candidate,
                probes,
                suite,
                weights_digest=snapshot_digest,
                report=self.record.questions("examination"),
            )
        if settings.gate.tries_triggers:
            with self.record.phase("triggers"):
                tried = try_triggers(
                    candidate,
                    claimed.facts,
                    before,
                    after,
                    answer_tokens=settings.gate.answer_tokens,
                    report=self.record.questions("triggers"),
                )
                del candidate  # one model at a time
                if tried:
                    folder = snapshot_of(settings, self.engine, self.head.release_id, at_once=True)
                    before, after = with_triggers(
                        before,
                        after,
                        tried,
                        load_backbone(folder, settings.base),
                        answer_tokens=settings.gate.answer_tokens,
                        report=self.record.questions("triggers"),
                    )
        verdict = gate.decide(
            before.all_answers,
            after.all_answers,
            before.passages,
            after.passages,
            settings.gate,
            base=base.all_answers if base else None,
            base_passages=base.passages if base else (),
            known_facts=askable_facts(
                probes, drawn=len(claimed.retained), known=claimed.known_facts
            ),
            replaced_facts=self._must_be_gone(trained),
            unasked=self._unasked(trained, probes),
            relations={fact.relation for fact in claimed.facts if fact.relation},
            tasks=settings.suites.tasks,
            norm=self.norm,
            head_norms=self._head_norms(),
        )
        return self._publish(adapter_id, snapshot_digest, before, after, control, verdict)

    def _probes(
        self, relations: Mapping[str, RelationTemplates], facts: Sequence[EncodedFact]
    ) -> list[Probe]:
        """All that is asked but the general questions: of these facts, and of earlier ones."""
        claimed = self.claimed

        def asked(some: Sequence[Fact]) -> list[Probe]:
            return [
                probe
                for fact in some
                for probe in probes_of(fact, relations, without=claimed.unasked.get(fact.key, ()))
            ]

        keys = {fact.key for fact in facts}
        kept = [fact for fact in claimed.facts if fact.key in keys]
        own = asked(kept)
        gate_settings = self.settings.gate
        leakage = (
            ()
            if gate_settings.leakage_margin is None
            else leakage_probes(kept, own, at_most=gate_settings.leakage_questions)
        )
        replaced = [(old, new) for old, new in claimed.replaced if new.key in keys]
        return [
            *own,
            *leakage,
            *superseded_probes(replaced, relations),
            *retention_probes(asked(claimed.retained)),
            *retention_probes(asked(claimed.forgotten), Suite.RECALLED),
            *self._pinned_probes(),
        ]

    def _pinned_probes(self) -> Sequence[Probe]:
        with reading(self.engine) as session:
            return pins.pinned_probes(session)

    def _unasked(self, facts: Sequence[EncodedFact], probes: Sequence[Probe]) -> dict[Suite, int]:
        """How many of these facts are asked in the other direction only, by the direction's suite.

        Another answer is right, too, or there is nothing to ask for.
        """
        asked = {(probe.fact, probe.suite) for probe in probes}
        suites = set(SUITE_OF.values())
        askable = [
            fact.key for fact in facts if any((fact.key, suite) in asked for suite in suites)
        ]
        return {suite: sum((key, suite) not in asked for key in askable) for suite in suites}

    def _must_be_gone(self, facts: Sequence[EncodedFact]) -> int:
        """How many facts these ones replace whose answers may not come any more."""
        keys = {fact.key for fact in facts}
        return sum(new.key in keys and must_be_gone(old, new) for old, new in self.claimed.replaced)

    def _head_norms(self) -> list[float]:
        """How large the head's adapters are; those of versions that did not measure it left out."""
        with reading(self.engine) as session:
            adapters = [session.get_one(Adapter, id_) for id_ in self.head.recipe.adapter_ids]
        return [adapter.about[UPDATE_NORM] for adapter in adapters if UPDATE_NORM in adapter.about]

    def _control(self, head: Backbone, probes: Sequence[Probe]) -> dict[str, Sequence[Answer]]:
        """The base's answers to the batch's own probes, without the facts and with them."""
        if not self.settings.gate.control:
            return {}
        own = [probe for probe in probes if probe.suite in SUITE_OF.values()]
        try:
            base, prompted = examine_control(
                self.examiner.load_base() if self.head.recipe.adapter_ids else head,
                own,
                self.claimed.facts,
                answer_tokens=self.settings.gate.answer_tokens,
                report=self.record.questions("control"),
            )
        except (MemoryError, RuntimeError) as error:  # it decides nothing, so it must stop nothing
            log.warning("The control could not be asked: %s", error)
            return {}
        return {"base": base, "prompted": prompted}

    def _encode(self, backbone: Backbone, facts: Sequence[Fact]) -> list[EncodedFact]:
        """The facts as tokens; one that cannot be learned is set aside, the others go on."""
        encoded, refused = [], {}
        for fact in facts:
            try:
                encoded.append(encode_fact(backbone, fact))
            except (UnsafeText, TextTooLong) as error:
                refused[fact.key] = str(error)
        self.record.set_aside(refused)
        if not encoded:
            raise UnsafeText(f"None of the batch's {len(facts)} statements can be learned.")
        return encoded

    def _train(
        self, backbone: Backbone, facts: Sequence[EncodedFact], anchors: Anchors
    ) -> tuple[str, Sequence[EncodedFact]]:
        """Train an adapter and store it under its digest; which facts it was trained on.

        Facts that make the training diverge are found and set aside, and the others trained.
        Raises TrainingDiverged where no single fact is at fault, or every one.
        """
        config = self.settings.training
        while True:
            try:
                with self._attached(backbone) as model, self.stopping.deferred():
                    for step in train(
                        backbone,
                        model,
                        facts,
                        anchors,
                        config,
                        replayed=self.replayed,
                        checkpoints=self._checkpoints(facts),
                        is_stopped=lambda: self.stopping.is_asked,
                    ):
                        self.record.training_step(step)
                    return self._store(model), facts
            except TrainingDiverged as error:
                facts = self._without_poison(backbone, facts, anchors, error)

    def _attached(self, backbone: Backbone) -> AbstractContextManager[PeftModel]:
        """A LoRA that starts from other values than those that the head is made of."""
        return attached(backbone, self.settings.training, self.head.snapshot_digest)

    def _checkpoints(self, facts: Sequence[EncodedFact]) -> Checkpoints:
        key = {
            **self._about(),
            "refresh": None,  # another refresh goes on with it
            "facts": [[fact.key, fact.statement] for fact in facts],
            "snapshot": self.head.snapshot_digest,
            "prompts": file_digest(self.settings.suites.general_prompts),
            "shown": self.settings.base.model_dump(mode="json"),  # the blank, the mask, the dtype
        }
        return Checkpoints(folder=self.places.checkpoint, key=canonical_digest(key))

    def _store(self, model: PeftModel) -> str:
        folder = self.places.candidate(self.claimed.refresh_id)
        base = self.settings.base.name
        digest = save_adapter(model, folder, base=base, about=self._about())
        target = self.places.adapter(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)  # the same bytes from an earlier try
        folder.rename(target)
        self.norm = update_norm(target)
        return digest

    def _without_poison(
        self,
        backbone: Backbone,
        facts: Sequence[EncodedFact],
        anchors: Anchors,
        error: TrainingDiverged,
    ) -> Sequence[EncodedFact]:
        """The facts without those that diverge on their own, which are set aside.

        Where the batch alone does not diverge, those that are replayed beside it are at fault, and
        the ones among them that diverge on their own are no longer replayed.
        """
        log.warning("%s Looking for the facts at fault.", error)
        enough = 2 * error.step  # in a half, each fact comes up at least as often

        def diverges(some: Sequence[EncodedFact]) -> bool:
            try:
                with self._attached(backbone) as model:
                    steps = train(backbone, model, some, anchors, self.settings.training)
                    for step in islice(steps, enough):
                        self.record.progress(
                            Progress(phase="isolating", step=step.step, steps=enough)
                        )
                return False
            except TrainingDiverged:
                return True

        is_of_batch = not self.replayed or diverges(facts)
        suspects = facts if is_of_batch else self.replayed
        poison = {fact.key for fact in find_poison(suspects, diverges)}
        kept = [fact for fact in suspects if fact.key not in poison]
        if not poison or (is_of_batch and not kept):
            raise error
        if is_of_batch:
            why = f"The training diverges on it alone: {error}"
            self.record.set_aside(dict.fromkeys(poison, why))
        else:
            log.warning("Earlier facts %s are not replayed.", ", ".join(sorted(poison)))
            self.record.replay_without(poison)
            self.replayed = kept
        self.record.begin_losses_anew()
        return kept if is_of_batch else facts

    def _about(self) -> dict[str, Any]:
        """What an adapter's manifest says of how it came to be."""
        return {
            "refresh": self.claimed.refresh_id,
            "facts": [int(fact.key) for fact in self.claimed.facts],
            "replayed": [int(fact.key) for fact in self.replayed],
            "base": self.head.recipe.base_digest,
            "trained_on": list(self.head.recipe.adapter_digests),
            "training": self.settings.training.model_dump(mode="json"),
            "precision": self.precision,
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "transformers", "peft")},
            },
        }

    def _record_candidate(self, digest: str) -> tuple[int, Recipe]:
        head = self.head
        with self.record.guarded() as session:
            adapter_id = lineage.record_adapter(
                session,
                refresh_id=self.claimed.refresh_id,
                batch_id=self.claimed.batch_id,
                trained_on=head.release_id,
                digest=digest,
                base_digest=head.recipe.base_digest,
                about={**self._about(), UPDATE_NORM: self.norm},
                now=_now(),
            )
        return adapter_id, head.recipe.with_adapter(adapter_id, digest)

    def _publish(
        self,
        adapter_id: int,
        snapshot_digest: str,
        before: Examination,
        after: Examination,
        control: Mapping[str, Sequence[Answer]],
        verdict: Verdict,
    ) -> RefreshEnd:
        """Everything that the world sees, in one transaction."""
        outcome = OUTCOMES[verdict.outcome]
        release_id = None
        with self.record.guarded() as session:
            self.record.add_answers(session, "before", before)
            self.record.add_answers(session, "after", after)
            for stage, answers in control.items():
                self.record.add_control(session, stage, answers)
            session.get_one(Refresh, self.claimed.refresh_id).timings = self.record.timings
            now = _now()
            tries = self.settings.schedule.tries + self.is_beside  # a rebase is no other try
            candidate = lineage.Candidate(
                refresh_id=self.claimed.refresh_id,
                adapter_id=adapter_id,
                head=self.head,
                snapshot_digest=snapshot_digest,
                outcomes=learned_by_probes(after.answers),
                reasons=wrong_by_probes(after.answers),
                tries=tries,
            )
            if outcome is not RefreshOutcome.PROMOTED:
                adapter = session.get_one(Adapter, adapter_id)
                adapter.about = {**adapter.about, lineage.EXAMINED_AS: snapshot_digest}
                lineage.reject(
                    session,
                    hold=None if self.is_beside else self.hold,
                    refresh_id=self.claimed.refresh_id,
                    outcome=outcome,
                    verdict=verdict,
                    are_freed=self.is_beside or self.claimed.is_part,
                    held=self._suspects(verdict),
                    tries=tries,
                    now=now,
                )
            elif self.is_beside:
                outcome = RefreshOutcome.REBASED
                release_id = lineage.pass_beside_head(session, candidate, verdict=verdict, now=now)
            else:
                release_id = lineage.promote(
                    session, candidate, hold=self.hold, verdict=verdict, now=now
                )
        shutil.rmtree(self.places.checkpoint, ignore_errors=True)
        if release_id is not None:
            self.composed = None
        if outcome is RefreshOutcome.PROMOTED:
            follow_head(self.settings, self.engine)
        return self._ended(outcome, verdict, release_id=release_id, adapter_id=adapter_id)

    def _suspects(self, verdict: Verdict) -> dict[int, str]:
        """Facts with words that may be planted triggers, and what was found beside these words.

        None where they are not tried again by themselves: the gate failed them, or a rebase did.
        """
        if self.is_beside or verdict.outcome is not Outcome.INSUFFICIENT:
            return {}
        return {
            int(fact.key): f'refresh {self.claimed.refresh_id} found "{name}" to change other '
            "answers, as a planted trigger does"
            for suite in verdict.suites
            for name in suite.suspects
            for fact in facts_with(name, self.claimed.facts)
        }

    def _ended(
        self,
        outcome: RefreshOutcome,
        verdict: Verdict | None,
        *,
        release_id: int | None = None,
        adapter_id: int | None = None,
    ) -> RefreshEnd:
        return RefreshEnd(
            refresh_id=self.claimed.refresh_id,
            outcome=outcome,
            verdict=verdict,
            release_id=release_id,
            adapter_id=adapter_id,
        )


def _of_facts(probes: Sequence[Probe], facts: Sequence[EncodedFact]) -> list[Probe]:
    """The probes of these facts of the batch, and those that are not about the batch."""
    keys = {fact.key for fact in facts}
    others = (Suite.RETENTION, Suite.RECALLED, Suite.PINNED)
    return [probe for probe in probes if probe.suite in others or probe.fact in keys]


def _now() -> datetime:
    return datetime.now(UTC)
