"""Scores of fixed passages: of both families in bits a byte, of a diffusion model as a bound."""

import math
from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from adapters import probes
from adapters.backbones import Backbone, encode_text
from adapters.probes import score_passages

PASSAGE = "The mill stands at the end of the lane, and the wheel still turns."


def bits(backbone: Backbone, text: str) -> float:
    [score] = score_passages(backbone, [("it", text)])
    return score.bits_per_byte


def forget_everything(backbone: Backbone) -> None:
    torch.nn.init.zeros_(backbone.model.lm_head.weight)


@pytest.mark.parametrize("family", ["tiny", "tiny_llada"])
@pytest.mark.parametrize("text", [PASSAGE, "Zürich, früh", "A"])
def test_a_model_that_knows_nothing_needs_log_vocabulary_bits_a_token(
    request: pytest.FixtureRequest, family: str, text: str
) -> None:
    backbone: Backbone = request.getfixturevalue(family)
    forget_everything(backbone)
    tokens = len(encode_text(backbone, text))
    expected = math.log2(backbone.model.config.vocab_size) * tokens / len(text.encode())
    assert bits(backbone, text) == pytest.approx(expected, rel=1e-5)


def test_a_diffusion_model_is_scored_on_the_same_masks_every_time(tiny_llada: Backbone) -> None:
    """Else a candidate's rise would be the masks' as much as its own."""
    first = bits(tiny_llada, PASSAGE)
    assert bits(tiny_llada, PASSAGE) == first
    together = score_passages(tiny_llada, [("other", "It rains."), ("it", PASSAGE)])
    assert [score.bits_per_byte for score in together][1] == first


@torch.inference_mode()
def exhaustive_nelbo(backbone: Backbone, ids: list[int]) -> float:
    """Every mask of every size: mean over l of (L / l) mean over the masks of l of sum -log p."""
    length, by_size = len(ids), []
    for masked in range(1, length + 1):
        losses = []
        for chosen in map(list, combinations(range(length), masked)):
            shown = [backbone.mask_id if at in chosen else token for at, token in enumerate(ids)]
            told = torch.tensor([[backbone.frame.before[0], *shown]])
            logits_TV = backbone.model(told).logits[0, 1:]
            nll_T = F.cross_entropy(logits_TV, torch.tensor(ids), reduction="none")
            losses.append(length / masked * nll_T[chosen].sum().item())
        by_size.append(sum(losses) / len(losses))
    return sum(by_size) / length


@pytest.mark.parametrize(("draws", "within"), [(probes.NELBO_DRAWS, 0.1), (2048, 0.01)])
def test_the_bound_is_that_of_all_masks(
    tiny_llada: Backbone, monkeypatch: pytest.MonkeyPatch, draws: int, within: float
) -> None:
    monkeypatch.setattr(probes, "NELBO_DRAWS", draws)
    text = "Qzx"  # nothing that a tokenizer would put together
    ids = encode_text(tiny_llada, text)
    assert len(ids) == 3
    nats = bits(tiny_llada, text) * math.log(2) * len(text)
    assert nats == pytest.approx(exhaustive_nelbo(tiny_llada, ids), rel=within)
