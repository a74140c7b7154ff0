"""Answers: the shared opening and the padding change nothing."""

import pytest
import torch

from adapters.backbones import Backbone
from adapters.generate import answer_all, prompt_ids

QUESTIONS = [
    "Who is Orlan Vess?",
    "Rain?",
    "What is the name of the mayor of Tolmar by the sea?",
    "A",
]


@pytest.mark.parametrize("minibatch", [1, 3, 32])
def test_answers_are_those_of_a_plain_greedy_generation_one_by_one(
    tiny: Backbone, minibatch: int
) -> None:
    expected = []
    for question in QUESTIONS:
        ids = torch.tensor([prompt_ids(tiny, question)])
        with torch.inference_mode():
            made = tiny.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=tiny.frame.end,
                pad_token_id=tiny.frame.end,
            )
        text = tiny.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        expected.append(str(text).strip())
    answers = dict(answer_all(tiny, QUESTIONS, at_most_tokens=12, minibatch=minibatch))
    assert [answers[at] for at in range(len(QUESTIONS))] == expected
    assert len(set(expected)) > 1


def test_no_question_is_no_answer(tiny: Backbone) -> None:
    assert dict(answer_all(tiny, [], at_most_tokens=4)) == {}
