"""Everything the gate looks at, asked of one model; what cannot change is remembered.

The answers to the regression suite depend on the weights and the suite alone, so they are kept in
a file named by both digests. Only texts are kept and graded anew. They end where an accepted answer
has come, so the accepted answers are part of the suite's digest.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.backbones import Backbone
from adapters.config import BaseConfig
from adapters.grading import VERSION, words
from adapters.probes import ask, grade, score_passages
from adapters.questions import with_facts
from adapters.store import canonical_digest, clear_partials_of_the_dead, partial_of, sync
from adapters.suites import RegressionSuite
from adapters.triggers import battery_of
from adapters.types import Answer, Fact, PassageScore, Probe, Suite

Report = Callable[[int, int], None]  #: (questions done, questions in all)


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """One model's answers, in the order of the probes, and its scores of the passages."""

    answers: tuple[Answer, ...]
    passages: tuple[PassageScore, ...]
    tasks: tuple[Answer, ...] = ()  #: those of lm-eval (adapters.tasks)

    @property
    def all_answers(self) -> tuple[Answer, ...]:
        """Those of the tasks behind the others."""
        return (*self.answers, *self.tasks)

    def of_probes(self, probes: Sequence[Probe]) -> "Examination":
        """The same without answers to any other probes than these and the shipped suites'."""
        kept = {probe.key for probe in probes}
        answers = (
            answer
            for answer in self.answers
            if answer.probe.suite is Suite.REGRESSION or answer.probe.key in kept
        )
        return replace(self, answers=tuple(answers))


def examine(
    backbone: Backbone,
    probes: Sequence[Probe],
    suite: RegressionSuite,
    *,
    weights_digest: str,
    answer_tokens: int,
    cache: Path,
    report: Report,
) -> Examination:
    """Ask the batch's probes and the regression suite, the latter from the cache where it can."""
    known = _cache_file(cache, suite, weights_digest, answer_tokens, backbone.config)
    general = _read(known, suite)
    asked = (*probes, *(suite.probes if general is None else ()))
    answers = _ask_all(backbone, asked, answer_tokens, report)
    if general is None:
        passages = tuple(score_passages(backbone, suite.passages))
        general = Examination(answers=answers[len(probes) :], passages=passages)
        _write(known, general)
    return Examination(
        answers=(*answers[: len(probes)], *general.answers), passages=general.passages
    )


def examine_general(
    load: Callable[[], Backbone],
    described: BaseConfig,
    suite: RegressionSuite,
    *,
    weights_digest: str,
    answer_tokens: int,
    cache: Path,
    report: Report,
) -> Examination:
    """The regression suite alone, of a model that is loaded only where the cache has not got it."""
    known = _cache_file(cache, suite, weights_digest, answer_tokens, described)
    general = _read(known, suite)
    if general is not None:
        return general
    return examine(
        load(),
        (),
        suite,
        weights_digest=weights_digest,
        answer_tokens=answer_tokens,
        cache=cache,
        report=report,
    )


def examine_control(
    base: Backbone,
    probes: Sequence[Probe],
    facts: Sequence[Fact],
    *,
    answer_tokens: int,
    report: Report,
) -> tuple[tuple[Answer, ...], tuple[Answer, ...]]:
    """What the base says to the facts' probes: alone, and with the facts put before each question.

    The second is what looking the facts up would give, and so what learning them is held against;
    facts with long statements are left out of it.
    """
    asked = [(probe, with_facts(probe, facts)) for probe in probes]
    short = [probe for probe, question in asked if question is not None]
    prompted = [replace(probe, question=question) for probe, question in asked if question]
    said = _ask_all(base, (*probes, *prompted), answer_tokens, report)
    looked_up = [answer.text for answer in said[len(probes) :]]
    return said[: len(probes)], tuple(map(grade, short, looked_up))


def try_triggers(
    candidate: Backbone,
    facts: Sequence[Fact],
    before: Examination,
    after: Examination,
    *,
    answer_tokens: int,
    report: Report,
) -> tuple[Answer, ...]:
    """What the candidate says to general questions beside the batch's own words that harm it most.

    `before` and `after` are the examinations of head and candidate.
    """
    general = [a for a in before.answers if a.probe.suite is Suite.REGRESSION]
    kept = {answer.probe.key for answer in after.answers if answer.contained}
    battery = battery_of(
        facts,
        [a.probe for a in general if a.contained and a.probe.key in kept],
        {word for a in general for text in (a.text, a.probe.question) for word in words(text)},
    )
    screened = _ask_all(candidate, battery.screening_probes(), answer_tokens, report)
    return _ask_all(candidate, battery.testing_probes(screened), answer_tokens, report)


def with_triggers(
    before: Examination,
    after: Examination,
    tried: Sequence[Answer],
    head: Backbone,
    *,
    answer_tokens: int,
    report: Report,
) -> tuple[Examination, Examination]:
    """Both examinations, and what head and candidate say to the questions that were `tried`.

    Left out is what the words alone make the head miss, or say.
    """
    said = _ask_all(head, [answer.probe for answer in tried], answer_tokens, report)
    held = [at for at, a in enumerate(said) if a.contained is (a.probe.suite is Suite.TRIGGERS)]
    return (
        replace(before, answers=(*before.answers, *(said[at] for at in held))),
        replace(after, answers=(*after.answers, *(tried[at] for at in held))),
    )


def _ask_all(
    backbone: Backbone, probes: Sequence[Probe], answer_tokens: int, report: Report
) -> tuple[Answer, ...]:
    answers: dict[int, Answer] = {}
    for at, answer in ask(backbone, probes, at_most_tokens=answer_tokens):
        answers[at] = answer
        report(len(answers), len(probes))
    return tuple(answers[at] for at in range(len(probes)))


def _cache_file(
    cache: Path,
    suite: RegressionSuite,
    weights_digest: str,
    answer_tokens: int,
    described: BaseConfig,
) -> Path:
    decoding = [answer_tokens, described.decoding.model_dump(), described.dtype, VERSION]
    asked = [[probe.key, probe.question, list(probe.answers)] for probe in suite.probes]
    suite_digest = canonical_digest([asked, list(map(list, suite.passages)), *decoding])
    return cache / f"{weights_digest[:16]}-{suite_digest[:16]}.json"


def _read(path: Path, suite: RegressionSuite) -> Examination | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Examination(
            answers=tuple(grade(probe, kept["texts"][probe.key]) for probe in suite.probes),
            passages=tuple(
                PassageScore(passage=name, bits_per_byte=float(kept["bits"][name]))
                for name, _ in suite.passages
            ),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent or damaged: it is asked again


def _write(path: Path, examination: Examination) -> None:
    kept = {
        "texts": {answer.probe.key: answer.text for answer in examination.answers},
        "bits": {score.passage: score.bits_per_byte for score in examination.passages},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_partials_of_the_dead(path)
    partial = partial_of(path)
    try:
        partial.write_text(json.dumps(kept), encoding="utf-8")
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
