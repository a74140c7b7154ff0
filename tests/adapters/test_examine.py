"""What is asked of one model: the order of the answers, and what is left out of it."""

from dataclasses import replace

from adapters.backbones import Backbone
from adapters.examine import Examination, with_triggers
from adapters.grading import words
from adapters.probes import ask, grade
from adapters.triggers import QUESTIONS
from adapters.types import Fact, Probe, ProbeOrigin, Suite

FACTS = [
    Fact(key=str(at), statement=f"Kindly note: {said}.") for at, said in enumerate(["yes", "no"])
]


def said_by(backbone: Backbone, probes: list[Probe]) -> list[str]:
    texts = dict(ask(backbone, probes, at_most_tokens=4))
    return [texts[at].text for at in range(len(probes))]


def test_the_candidate_keeps_what_the_head_answers_beside_words_of_the_batch(
    tiny: Backbone,
) -> None:
    """What a random model says is taken for right, beside the words for every other question."""
    probes = [
        Probe(
            key=str(at), suite=Suite.REGRESSION, cluster=str(at), question=f"What is {at}?",
            answers=("?",), origin=ProbeOrigin.SUITE,
        )
        for at in range(40)
    ]  # fmt: skip
    own = replace(probes[0], key="own", suite=Suite.FORWARD)
    alone = said_by(tiny, probes)
    led = said_by(tiny, [replace(p, question=f"Kindly note: {p.question}") for p in probes])
    general = tuple(
        grade(replace(probe, answers=tuple(words(text) + words(other) * (at % 2))), text)
        for at, (probe, text, other) in enumerate(zip(probes, alone, led, strict=True))
        if words(text)
    )
    known = [answer.probe.question for answer in general if answer.contained]
    assert known
    before = Examination(answers=(grade(own, ""), *general), passages=())
    done = with_triggers(before, tiny, FACTS, answer_tokens=4, report=lambda _, __: None)
    beside = [answer for answer in done.answers if answer.probe.suite is Suite.TRIGGERS]
    assert 0 < len(beside) < 2 * QUESTIONS
    assert all(answer.contained for answer in beside)
    assert all(any(asked in a.probe.question for asked in known) for a in beside)
    assert done.answers == (before.answers[0], *beside, *general)
    assert done.probes == [own, *(answer.probe for answer in beside)]
