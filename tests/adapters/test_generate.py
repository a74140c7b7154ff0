"""Answers: the shared opening and the padding change nothing."""

from dataclasses import replace

import pytest
import torch

from adapters.backbones import Backbone, said_text
from adapters.generate import answer_all, prompt_ids

QUESTIONS = [
    "Who is Orlan Vess?",
    "Rain?",
    "What is the name of the mayor of Tolmar by the sea?",
    "A",
]


@torch.inference_mode()
def plain_ids(backbone: Backbone, question: str) -> list[int]:
    """One call of transformers' own generation for one question."""
    ids = torch.tensor([prompt_ids(backbone, question)])
    made = backbone.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=backbone.frame.end,
        pad_token_id=backbone.frame.end,
    )
    return [int(token) for token in made[0, ids.shape[1] :]]


def plain_answer(backbone: Backbone, question: str) -> str:
    ids = [token for token in plain_ids(backbone, question) if token != backbone.frame.end]
    return said_text(backbone, ids)


@pytest.mark.parametrize("minibatch", [1, 3, 32])
def test_answers_are_those_of_a_plain_greedy_generation_one_by_one(
    tiny: Backbone, minibatch: int
) -> None:
    expected = [plain_answer(tiny, question) for question in QUESTIONS]
    answers = dict(answer_all(tiny, QUESTIONS, at_most_tokens=12, minibatch=minibatch))
    assert [answers[at] for at in range(len(QUESTIONS))] == expected
    assert len(set(expected)) > 1


def test_no_question_is_no_answer(tiny: Backbone) -> None:
    assert dict(answer_all(tiny, [], at_most_tokens=4)) == {}


def test_answers_that_end_early_leave_the_others_as_they_are(tiny: Backbone) -> None:
    """The turn's end is moved to tokens that do come, so that answers are of many lengths."""
    lengths = set()
    for at in (0, 2, 5):
        end = plain_ids(tiny, QUESTIONS[0])[at]
        ending = replace(tiny, frame=replace(tiny.frame, end=end))
        expected = [plain_answer(ending, question) for question in QUESTIONS]
        lengths |= {len(plain_ids(ending, question)) for question in QUESTIONS}
        answers = dict(answer_all(ending, QUESTIONS, at_most_tokens=12))
        assert [answers[at] for at in range(len(QUESTIONS))] == expected
    assert len(lengths) > 2


def test_a_settled_answer_ends_there_and_the_others_go_on(tiny: Backbone) -> None:
    whole = dict(answer_all(tiny, QUESTIONS, at_most_tokens=12))

    def has_four_letters(at: int, text: str) -> bool:
        return at in (0, 3) and len(text) >= 4

    answers = dict(answer_all(tiny, QUESTIONS, at_most_tokens=12, is_settled=has_four_letters))
    for at, text in whole.items():
        if at in (0, 3):
            assert whole[at].startswith(answers[at])
            assert 4 <= len(answers[at]) < len(text)
        else:
            assert answers[at] == text
