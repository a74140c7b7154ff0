"""What holds a diffusion model in place: one masked copy of each general row, and no drift yet."""

import pytest
import torch

from adapters.anchor import Anchors, divergence, make_anchors
from adapters.backbones import Backbone, encode_text
from adapters.config import TrainingConfig
from adapters.generate import answer_all, prompt_ids
from adapters.lora import attach
from adapters.moments import shifted_layers
from adapters.objectives import predict
from adapters.suites import GeneralPrompts

CONFIG = TrainingConfig()
PROMPTS = GeneralPrompts(
    prompts=("Hello!", "What is rain?", "Who wrote it?"),
    texts=("It rains in the hills.", "The mill stands at the end of the lane."),
)


@pytest.fixture
def anchors(tiny_llada: Backbone) -> Anchors:
    return make_anchors(tiny_llada, PROMPTS, target_modules=CONFIG.measured_modules)


def test_the_rows_are_the_heads_own_answers_and_the_texts(
    tiny_llada: Backbone, anchors: Anchors
) -> None:
    answers = dict(answer_all(tiny_llada, PROMPTS.prompts, at_most_tokens=16))
    said = [tuple(encode_text(tiny_llada, answers[at]))[:16] for at in range(3)]
    read = [tuple(encode_text(tiny_llada, text)) for text in PROMPTS.texts]
    rows = [anchor.row for anchor in anchors.rows]
    assert len(rows) == 5
    for row, prompt, target in zip(rows, PROMPTS.prompts, said, strict=False):
        assert row.prompt == tuple(prompt_ids(tiny_llada, prompt))
        assert row.target[: len(target)] == target
    assert [row.target for row in rows[3:]] == read
    assert all(row.prompt == tiny_llada.frame.before for row in rows[3:])


def test_each_row_has_masked_tokens_that_all_count_once(
    tiny_llada: Backbone, anchors: Anchors
) -> None:
    for anchor in anchors.rows:
        row = anchor.row
        assert row.shown is not None
        assert row.weights is not None
        hidden = [token == tiny_llada.mask_id for token in row.shown]
        assert any(hidden)
        assert row.weights == tuple(map(float, hidden))
        kept = zip(row.shown, row.target, hidden, strict=True)
        assert all(shown == token for shown, token, off in kept if not off)
        assert tiny_llada.mask_id not in row.prompt


def test_the_heads_states_are_those_of_the_masked_tokens(
    tiny_llada: Backbone, anchors: Anchors
) -> None:
    for anchor in anchors.rows:
        alone = predict(tiny_llada.model, [anchor.row]).states_ND
        torch.testing.assert_close(anchor.states_ND, alone, atol=1e-5, rtol=1e-4)


def test_asking_again_gives_the_same_masks(tiny_llada: Backbone, anchors: Anchors) -> None:
    again = make_anchors(tiny_llada, PROMPTS, target_modules=CONFIG.measured_modules)
    assert [anchor.row for anchor in again.rows] == [anchor.row for anchor in anchors.rows]


def test_the_rows_are_masked_each_in_its_own_way(anchors: Anchors) -> None:
    shares = [len(anchor.row.counted) / len(anchor.row.target) for anchor in anchors.rows]
    assert len(set(shares)) > 2


def test_an_untrained_adapter_has_not_drifted(tiny_llada: Backbone, anchors: Anchors) -> None:
    attach(tiny_llada, CONFIG)
    states_ND = predict(tiny_llada.model, [anchor.row for anchor in anchors.rows]).states_ND
    head_states_ND = torch.cat([anchor.states_ND for anchor in anchors.rows])
    lm_head = tiny_llada.model.lm_head
    assert divergence(lm_head, states_ND, head_states_ND).abs().max().item() < 1e-6
    assert divergence(lm_head, states_ND + 0.5, head_states_ND).mean().item() > 1e-4


def test_the_shift_of_every_trained_layer_is_held(tiny_llada: Backbone, anchors: Anchors) -> None:
    layers = shifted_layers(attach(tiny_llada, CONFIG), anchors.moments)
    assert len(layers) == len(tiny_llada.model.model.layers) * len(CONFIG.target_modules)


def test_moments_that_have_no_weight_are_not_measured(tiny_llada: Backbone) -> None:
    assert make_anchors(tiny_llada, PROMPTS, target_modules=()).moments == {}
