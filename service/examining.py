"""What is asked of a model before the head may move: by a refresh, and by a removal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from adapters.backbones import Backbone, load_backbone, verify_base
from adapters.examine import Examination, examine, examine_general
from adapters.suites import RegressionSuite
from adapters.tasks import answer_tasks
from adapters.types import Probe, Suite
from service.places import Places
from service.settings import Settings

Report = Callable[[int, int], None]  #: (questions done, questions in all)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examiner:
    """Asks models by the settings; what the base and the head say to general questions is kept."""

    settings: Settings
    base_digest: str

    def load_base(self) -> Backbone:
        """Raises ModelSourceError when the base is damaged."""
        base = Places(self.settings.state_dir).base
        verify_base(base, self.base_digest)
        return load_backbone(base, self.settings.base)

    def examine(
        self,
        backbone: Backbone,
        probes: Sequence[Probe],
        suite: RegressionSuite,
        *,
        weights_digest: str,
        report: Report,
    ) -> Examination:
        """The probes, the general questions, the passages and the tasks of one model."""
        # first, since what hinders it does so at once
        tasks = answer_tasks(backbone, self.settings.suites)
        examined = examine(
            backbone,
            probes,
            suite,
            weights_digest=weights_digest,
            answer_tokens=self.settings.gate.answer_tokens,
            cache=Places(self.settings.state_dir).answers,
            report=report,
        )
        return replace(examined, tasks=tasks)

    def examine_base(self, suite: RegressionSuite, *, report: Report) -> Examination:
        """The same of the base, without any probes. It is loaded only where it must be."""
        examined = self.ask_base(suite, report=report)
        if not self.settings.suites.tasks:  # nothing is kept of these
            return examined
        return replace(examined, tasks=answer_tasks(self.load_base(), self.settings.suites))

    def ask_base(self, suite: RegressionSuite, *, report: Report) -> Examination:
        """The base's general answers and passages, without the tasks."""
        return examine_general(
            self.load_base,
            self.settings.base,
            suite,
            weights_digest=self.base_digest,
            answer_tokens=self.settings.gate.answer_tokens,
            cache=Places(self.settings.state_dir).answers,
            report=report,
        )


def askable_facts(probes: Sequence[Probe], *, drawn: int, known: int) -> int:
    """How many of the known facts can be asked at all, by what could be of those drawn.

    All of them where not one could be: that is no evidence, and must not look like no facts.
    """
    asked = len({probe.fact for probe in probes if probe.suite is Suite.RETENTION})
    if not asked:
        return known
    return asked if drawn == known else max(asked, round(known * asked / drawn))
