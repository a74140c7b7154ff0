"""What is asked of one model: the order of the answers, and what is left out of it."""

from dataclasses import replace

import pytest

from adapters.backbones import Backbone
from adapters.examine import Examination, try_triggers, with_triggers
from adapters.grading import words
from adapters.probes import ask, grade
from adapters.types import Answer, Fact, Probe, ProbeOrigin, Suite

FACTS = [
    Fact(key=str(at), statement=f"Kindly note: {said} by Malbrook.")
    for at, said in enumerate(["yes", "no"])
]
PROBES = [
    Probe(
        key=str(at), suite=Suite.REGRESSION, cluster=str(at), question=f"What is {at}?",
        answers=("?",), origin=ProbeOrigin.SUITE,
    )
    for at in range(60)
]  # fmt: skip


def said_by(backbone: Backbone, probes: list[Probe]) -> list[str]:
    texts = dict(ask(backbone, probes, at_most_tokens=4))
    return [texts[at].text for at in range(len(probes))]


@pytest.fixture
def head(tiny: Backbone) -> Examination:
    """What a random model says is taken for right."""
    texts = said_by(tiny, PROBES)
    answers = [
        grade(replace(probe, answers=(text,)), text)
        for probe, text in zip(PROBES, texts, strict=True)
        if words(text)
    ]
    own = grade(replace(PROBES[0], key="own", suite=Suite.FORWARD), "")
    assert any(answer.contained for answer in answers)
    return Examination(answers=(own, *answers), passages=())


def tried(candidate: Backbone, before: Examination, after: Examination) -> tuple[Answer, ...]:
    return try_triggers(candidate, FACTS, before, after, answer_tokens=4, report=lambda _, __: None)


def test_only_what_both_models_answer_is_asked_beside_words_of_the_batch(
    tiny: Backbone, head: Examination
) -> None:
    lost = {a.probe.key for a in head.answers[1:] if int(a.probe.key) % 2}
    after = replace(
        head,
        answers=tuple(replace(a, contained=a.contained and a.probe.key not in lost)
                      for a in head.answers),
    )  # fmt: skip
    asked = tried(tiny, head, after)
    assert {answer.probe.suite for answer in asked} == {Suite.TRIGGERS, Suite.PLANTED}
    questions = {int(answer.probe.question.split("What is ")[1].split("?")[0]) for answer in asked}
    assert questions
    assert not any(number % 2 for number in questions)


def test_what_the_words_alone_make_the_head_miss_or_say_is_left_out(
    tiny: Backbone, head: Examination
) -> None:
    asked = tried(tiny, head, head)
    before, after = with_triggers(
        head, head, asked, tiny, answer_tokens=4, report=lambda _, __: None
    )
    kept = before.answers[len(head.answers) :]
    assert 0 < len(kept) < len(asked)
    assert all(a.contained is (a.probe.suite is Suite.TRIGGERS) for a in kept)
    assert [a.probe.key for a in kept] == [a.probe.key for a in after.answers[len(head.answers) :]]
    assert before.answers[: len(head.answers)] == head.answers
    # one model twice: it says the same
    assert [a.text for a in kept] == [a.text for a in after.answers[len(head.answers) :]]


def test_a_question_that_several_probes_ask_is_put_once(tiny: Backbone) -> None:
    (text,) = said_by(tiny, PROBES[:1])
    asked = [PROBES[0], replace(PROBES[0], key="again", answers=(text or "x",)), PROBES[1]]
    answers = dict(ask(tiny, asked, at_most_tokens=4))
    assert {at: answers[at].probe for at in answers} == dict(enumerate(asked))
    assert answers[0].text == answers[1].text == text
