"""What one refresh writes down while it runs. Every write is guarded by the refresh's lease."""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from adapters.examine import Examination
from adapters.train import TrainingStep
from adapters.types import Answer
from service import batches, leases
from service.db import writing
from service.errors import LeaseLost
from service.leases import Hold
from service.models import (
    PassageBits,
    ProbeAnswer,
    Refresh,
    RefreshOutcome,
    TrainingLoss,
)
from service.progress import Progress, Report
from service.settings import ScheduleSettings

log = logging.getLogger(__name__)
QUESTIONS_EVERY_S = 1.0


@contextmanager
def renewing(
    engine: Engine, hold: Hold, schedule: ScheduleSettings, *, seen: Callable[[], float]
) -> Iterator[None]:
    """Renew the lease from a thread of its own: loading a large model takes longer than it.

    Not for ever: where `seen`, a monotonic time, stays as it is for `stall_s`, the process hangs,
    and whoever comes next may take over.
    """
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(schedule.lease_s / 4):
            if time.monotonic() - seen() > schedule.stall_s:
                log.error("nothing happened for %s s; the lease runs out", schedule.stall_s)
                return
            try:
                with writing(engine) as session:
                    leases.renew(session, hold, now=_now(), lease_s=schedule.lease_s)
            except LeaseLost:
                return  # the next write says so
            except SQLAlchemyError as error:
                log.warning("the lease could not be renewed: %s", error)

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class RefreshRecord:
    """The record of one refresh, and whoever watches it."""

    def __init__(
        self,
        engine: Engine,
        hold: Hold,
        refresh_id: int,
        schedule: ScheduleSettings,
        report: Report,
    ) -> None:
        self.engine = engine
        self.hold = hold
        self.refresh_id = refresh_id
        self.schedule = schedule
        self.report = report
        self.timings: dict[str, float] = {}  #: seconds by phase
        self.seen = time.monotonic()  #: when something was last written down

    @contextmanager
    def guarded(self) -> Iterator[Session]:
        """A write transaction that fails with LeaseLost unless this process owns the lease."""
        with writing(self.engine) as session:
            leases.renew(session, self.hold, now=_now(), lease_s=self.schedule.lease_s)
            yield session
        self.seen = time.monotonic()

    def kept_alive(self) -> AbstractContextManager[None]:
        """Renew the lease from a thread of its own, as long as something is written down."""
        return renewing(self.engine, self.hold, self.schedule, seen=lambda: self.seen)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Say that a phase has begun, and time it; the parts of one that is left between add up."""
        began = time.monotonic()
        self.progress(Progress(phase=name, step=0, steps=0))
        yield
        spent = self.timings.get(name, 0.0) + time.monotonic() - began
        self.timings[name] = round(spent, 2)

    def progress(self, progress: Progress, *rows: TrainingLoss) -> None:
        with self.guarded() as session:
            refresh = session.get_one(Refresh, self.refresh_id)
            refresh.phase, refresh.step, refresh.steps = (
                progress.phase,
                progress.step,
                progress.steps,
            )
            session.add_all(rows)
        self.report(progress)

    def questions(self, phase: str) -> Callable[[int, int], None]:
        """Progress of a phase by questions: the last one, and before it one a second at most.

        Hundreds may be answered in that time, and each write waits for the disk.
        """
        said = -math.inf

        def report(done: int, asked: int) -> None:
            nonlocal said
            if done == asked or time.monotonic() - said >= QUESTIONS_EVERY_S:
                self.progress(Progress(phase=phase, step=done, steps=asked))
                said = time.monotonic()

        return report

    def training_step(self, step: TrainingStep) -> None:
        """Progress, and one point of the loss curve."""
        self.progress(
            Progress(phase="training", step=step.step, steps=step.steps, loss=step.loss),
            TrainingLoss(
                refresh_id=self.refresh_id,
                step=step.step,
                loss=step.loss,
                drift=step.drift,
                tokens=step.tokens,
            ),
        )

    def set_aside(self, refused: Mapping[str, str]) -> None:
        """Reject single facts of the batch, by key, each for its reason."""
        if not refused:
            return
        with self.guarded() as session:
            reasons = {int(key): why for key, why in refused.items()}
            batches.reject_some(session, self.refresh_id, reasons, now=_now())

    def replay_without(self, keys: Collection[str]) -> None:
        """Record that these facts of earlier batches were not shown again after all."""
        with self.guarded() as session:
            batches.forget_replays(session, self.refresh_id, map(int, keys))

    def begin_losses_anew(self) -> None:
        """Drop the loss curve of a training that is begun again."""
        with self.guarded() as session:
            batches.forget_losses(session, self.refresh_id)

    def end_without_verdict(self, outcome: RefreshOutcome, reason: str) -> None:
        try:
            with self.guarded() as session:
                batches.end_without_verdict(
                    session,
                    self.refresh_id,
                    outcome=outcome,
                    reason=reason,
                    attempts=self.schedule.attempts,
                    now=_now(),
                )
        except LeaseLost:
            log.warning("refresh %s was ended by a successor", self.refresh_id)

    def add_answers(self, session: Session, stage: str, examination: Examination) -> None:
        """All that was said, `before` or `after`, in a transaction of the caller's."""
        session.add_all(self._answer_rows(stage, examination))

    def add_control(self, session: Session, stage: str, answers: Sequence[Answer]) -> None:
        """What the base said to the facts' own probes, `base` or `prompted`."""
        session.add_all(self._answer_row(stage, answer) for answer in answers)

    def _answer_rows(
        self, stage: str, examination: Examination
    ) -> Iterator[ProbeAnswer | PassageBits]:
        for answer in examination.all_answers:
            yield self._answer_row(stage, answer)
        for score in examination.passages:
            yield PassageBits(
                refresh_id=self.refresh_id,
                stage=stage,
                passage=score.passage,
                bits_per_byte=score.bits_per_byte,
            )

    def _answer_row(self, stage: str, answer: Answer) -> ProbeAnswer:
        probe = answer.probe
        return ProbeAnswer(
            refresh_id=self.refresh_id,
            stage=stage,
            suite=probe.suite,
            probe_key=probe.key,
            fact_id=None if probe.fact is None else int(probe.fact),
            question=probe.question,
            answers=list(probe.answers),
            origin=probe.origin,
            text=answer.text,
            exact=answer.exact,
            contained=answer.contained,
            recall=answer.recall,
        )


def _now() -> datetime:
    return datetime.now(UTC)
