"""A diffusion model's answers, against a slow reference that does one row, one step at a time."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from adapters.backbones import Backbone, said_text
from adapters.config import DecodingConfig
from adapters.denoise import end_ids, steps
from adapters.generate import answer_all, prompt_ids

QUESTIONS = [
    "Who is Orlan Vess?",
    "Rain?",
    "What is the name of the mayor of Tolmar by the sea?",
    "A",
]
TOKENS = 10


def decoding(backbone: Backbone, **settings: int) -> Backbone:
    config = backbone.config.model_copy(update={"decoding": DecodingConfig(**settings)})
    return replace(backbone, config=config)


def change_logits(backbone: Backbone, change: Callable[[Tensor], None]) -> None:
    def hook(_: Any, __: Any, logits_BTV: Tensor) -> Tensor:
        change(logits_BTV)
        return logits_BTV

    backbone.model.lm_head.register_forward_hook(hook)


@torch.inference_mode()
def reference_ids(backbone: Backbone, question: str, *, block_length: int, per_step: int) -> Any:
    """The whole answer, token by token, without padding and without an early end."""
    ids = prompt_ids(backbone, question)
    begin, mask_id = len(ids), backbone.mask_id
    ids += [mask_id] * TOKENS
    for left in range(begin, len(ids), block_length):
        block = range(left, min(left + block_length, len(ids)))
        while hidden := [at for at in block if ids[at] == mask_id]:
            logits_TV = backbone.model(torch.tensor([ids])).logits[0].double()
            logits_TV[:, mask_id] = -torch.inf
            chances_TV = logits_TV.softmax(-1)
            surest = sorted(hidden, key=lambda at: -chances_TV[at].max().item())[:per_step]
            for at in surest:
                ids[at] = int(chances_TV[at].argmax())
    return ids[begin:]


def reference_text(backbone: Backbone, question: str, **how: int) -> str:
    kept = []
    for token in reference_ids(backbone, question, **how):
        if token in (backbone.frame.end, backbone.tokenizer.eos_token_id):
            break
        kept.append(token)
    return said_text(backbone, kept)


@pytest.mark.parametrize("minibatch", [1, 3, 32])
@pytest.mark.parametrize(
    ("settings", "per_step"),
    [
        ({}, 1),
        ({"block_length": 1}, 1),
        ({"block_length": 32}, 1),
        ({"block_length": 5}, 1),
        ({"block_length": 5, "steps_per_block": 1}, 5),
        ({"block_length": 10, "steps_per_block": 5}, 2),
    ],
    ids=str,
)
def test_answers_are_those_of_the_slow_reference_one_by_one(
    tiny_llada: Backbone, settings: dict[str, int], per_step: int, minibatch: int
) -> None:
    backbone = decoding(tiny_llada, **settings)
    length = backbone.config.decoding.block_length
    expected = [
        reference_text(backbone, question, block_length=length, per_step=per_step)
        for question in QUESTIONS
    ]
    answers = dict(answer_all(backbone, QUESTIONS, at_most_tokens=TOKENS, minibatch=minibatch))
    assert [answers[at] for at in range(len(QUESTIONS))] == expected
    assert len(set(expected)) > 1


def test_how_an_answer_is_decided_matters(tiny_llada: Backbone) -> None:
    """Else the comparison above would compare nothing."""
    ways = [{"block_length": 1}, {"block_length": 10}, {"block_length": 10, "steps_per_block": 1}]
    answers = [
        tuple(sorted(answer_all(decoding(tiny_llada, **way), QUESTIONS, at_most_tokens=TOKENS)))
        for way in ways
    ]
    assert len(set(answers)) == 3


def test_the_longest_question_comes_first(tiny_llada: Backbone) -> None:
    order = [at for at, _ in answer_all(tiny_llada, QUESTIONS, at_most_tokens=1, minibatch=1)]
    assert order == [2, 0, 1, 3]


@pytest.mark.parametrize("end", ["<|im_end|>", "<|endoftext|>"])
def test_an_answer_is_cut_at_its_first_end_token(tiny_llada: Backbone, end: str) -> None:
    token = tiny_llada.tokenizer.convert_tokens_to_ids(end)

    def make_likelier(logits_BTV: Tensor) -> None:
        logits_BTV[..., token] += 6.0

    change_logits(tiny_llada, make_likelier)
    whole = [reference_ids(tiny_llada, q, block_length=4, per_step=1) for q in QUESTIONS]
    assert any(token in ids for ids in whole)
    expected = [reference_text(tiny_llada, q, block_length=4, per_step=1) for q in QUESTIONS]
    answers = dict(answer_all(tiny_llada, QUESTIONS, at_most_tokens=TOKENS))
    assert [answers[at] for at in range(len(QUESTIONS))] == expected


@pytest.mark.parametrize(("place", "at_least", "at_most"), [(0, 1, 1), (1, 2, 4), (3, 4, 4)])
def test_nothing_is_computed_behind_an_end_but_all_that_stands_before_it(
    tiny_llada: Backbone, place: int, at_least: int, at_most: int
) -> None:
    """An end at this place of the block of 4 is the surest prediction, so the first one kept."""
    passes = []

    def end_there(logits_BLV: Tensor) -> None:
        logits_BLV[..., sorted(end_ids(tiny_llada))] = -1e4
        logits_BLV[:, place, tiny_llada.frame.end] = 1e4
        passes.append(1)

    change_logits(tiny_llada, end_there)
    answers = dict(answer_all(tiny_llada, QUESTIONS, at_most_tokens=TOKENS))
    assert at_least <= len(passes) <= at_most
    assert place > 0 or set(answers.values()) == {""}


def test_the_mask_itself_is_never_an_answer(tiny_llada: Backbone) -> None:
    before = dict(answer_all(tiny_llada, QUESTIONS, at_most_tokens=TOKENS))

    def prefer_masks(logits_BLV: Tensor) -> None:
        logits_BLV[..., tiny_llada.mask_id] = 1e4

    change_logits(tiny_llada, prefer_masks)
    assert dict(answer_all(tiny_llada, QUESTIONS, at_most_tokens=TOKENS)) == before


def test_both_ends_of_a_turn_and_of_a_text_end_an_answer(tiny_llada: Backbone) -> None:
    names = tiny_llada.tokenizer.convert_ids_to_tokens(sorted(end_ids(tiny_llada)))
    assert names == ["<|endoftext|>", "<|im_end|>"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"block_length": 4}, [(0, 1)] * 4 + [(4, 1)] * 4 + [(8, 1)] * 2),
        (
            {"block_length": 4, "steps_per_block": 3},
            [(0, 2), (0, 1), (0, 1), (4, 2), (4, 1), (4, 1), (8, 1), (8, 1)],
        ),
        ({"block_length": 8, "steps_per_block": 2}, [(0, 4), (0, 4), (8, 1), (8, 1)]),
        ({"block_length": 32, "steps_per_block": 4}, [(0, 3), (0, 3), (0, 2), (0, 2)]),
        ({"block_length": 32, "steps_per_block": 20}, [(0, 1)] * 10),
    ],
    ids=str,
)
def test_the_steps_of_a_block_share_its_tokens_evenly(
    settings: dict[str, int], expected: list[tuple[int, int]]
) -> None:
    planned = list(steps(TOKENS, DecodingConfig(**settings)))
    assert [(block.start, count) for block, count in planned] == expected
    assert sum(count for _, count in planned) == TOKENS


def test_more_steps_than_tokens_in_a_block_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"steps_per_block \(5\) must not be above"):
        DecodingConfig(block_length=4, steps_per_block=5)


def test_no_question_is_no_answer(tiny_llada: Backbone) -> None:
    assert dict(answer_all(tiny_llada, [], at_most_tokens=4)) == {}


def test_settled_answers_end_early_and_are_what_was_decided_until_then(
    tiny_llada: Backbone,
) -> None:
    whole = dict(answer_all(tiny_llada, QUESTIONS, at_most_tokens=TOKENS))
    at_once = dict(
        answer_all(tiny_llada, QUESTIONS, at_most_tokens=TOKENS, is_settled=lambda _, text: True)
    )
    for at, text in whole.items():
        assert text.startswith(at_once[at].rstrip("\ufffd"))  # a character cut in two
    assert any(len(at_once[at]) < len(text) for at, text in whole.items())
