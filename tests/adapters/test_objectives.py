"""The losses, each against a plain computation of its own."""

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from adapters.backbones import Backbone
from adapters.masking import random_for
from adapters.objectives import (
    BIN_TOKENS,
    Normalise,
    Predictions,
    Row,
    diffusion_row,
    divisors,
    fill_bins,
    predict,
    reconstruction_loss,
    shared_prefix,
)


def causal_rows(backbone: Backbone) -> list[Row]:
    """Ragged ones, some with weights, one whose target follows what all rows begin with."""
    before = backbone.frame.before
    rows = [
        Row(prompt=(*before, 40, 41, 42), target=(50, 51, 52, 2)),
        Row(prompt=(*before, 43), target=(60, 61), weights=(1.0, 0.0)),
        Row(prompt=before, target=(70, 71, 72, 73, 74, 75)),
        Row(prompt=(*before, 44, 45), target=(80,)),
    ]
    long = random_for("long")
    drawn = [tuple(long.randrange(3, 300) for _ in range(40)) for _ in range(9)]
    return rows + [Row(prompt=(*before, *ids[:25]), target=ids[25:]) for ids in drawn]


def diffusion_rows(backbone: Backbone) -> list[Row]:
    """Ragged ones, one of them without a single masked token."""
    rows = []
    for at, ratio in enumerate((0.2, 0.9, 0.5, 0.3, 0.7)):
        rng = random_for("diffusion", at)
        target = [rng.randrange(3, 300) for _ in range(5 + 9 * at)]
        hidden = [rng.random() < ratio for _ in target] if at else [False] * len(target)
        assert backbone.mask_id is not None
        rows.append(diffusion_row((1, 7, 8), target, hidden, ratio=ratio, mask=backbone.mask_id))
    return rows


def losses_of_a_row(backbone: Backbone, row: Row) -> tuple[Tensor, Tensor]:
    """Weighted losses and weights of one row, read alone and whole: slow and plain."""
    weights = torch.tensor(row.weights or (1.0,) * len(row.target))
    begin = len(row.prompt)
    if row.shown is None:
        ids = torch.tensor([[*row.prompt, *row.target]])
        logits = backbone.model(input_ids=ids).logits[0, begin - 1 : -1]
    else:
        ids = torch.tensor([[*row.prompt, *row.shown]])
        logits = backbone.model(input_ids=ids).logits[0, begin:]
    nll = F.cross_entropy(logits, torch.tensor(row.target), reduction="none")
    return nll * weights, weights


def reference_loss(backbone: Backbone, rows: list[Row], normalise: Normalise) -> Tensor:
    """One row at a time, and the sums divided as the formulas say."""
    sums, lengths = [], []
    for row in rows:
        losses, weights = losses_of_a_row(backbone, row)
        sums.append(losses.sum())
        lengths.append(float(len(row.target)) if row.shown else float(weights.sum()))
    if normalise == "minibatch":
        return torch.stack(sums).sum() / sum(lengths)
    return sum(total / length for total, length in zip(sums, lengths, strict=True)) / len(rows)


def loss_of(backbone: Backbone, rows: list[Row], normalise: Normalise) -> Tensor:
    seen = predict(backbone.model, rows)
    logits = backbone.model.lm_head(seen.states_ND)
    return reconstruction_loss(logits, seen, divisors(rows, normalise))


@pytest.mark.parametrize("normalise", ["minibatch", "row"])
@pytest.mark.parametrize("family", ["autoregressive", "diffusion"])
def test_loss_and_gradients_are_those_of_a_plain_computation(
    request: pytest.FixtureRequest, family: str, normalise: Normalise
) -> None:
    """Bins, shared prefix and left-out positions change nothing."""
    is_causal = family == "autoregressive"
    backbone: Backbone = request.getfixturevalue("tiny" if is_causal else "tiny_llada")
    make: Callable[[Backbone], list[Row]] = causal_rows if is_causal else diffusion_rows
    rows = make(backbone)
    loss = loss_of(backbone, rows, normalise)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in backbone.model.named_parameters()}
    backbone.model.zero_grad()
    expected = reference_loss(backbone, rows, normalise)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)  # fp32 has 7 digits
    for name, parameter in backbone.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["autoregressive", "diffusion"])
def test_a_row_is_predicted_the_same_whatever_stands_beside_it(
    request: pytest.FixtureRequest, family: str
) -> None:
    is_causal = family == "autoregressive"
    backbone: Backbone = request.getfixturevalue("tiny" if is_causal else "tiny_llada")
    rows = (causal_rows if is_causal else diffusion_rows)(backbone)
    together = predict(backbone.model, rows)
    for at, row in enumerate(rows):
        alone = predict(backbone.model, [row])
        here = together.row_N == at
        torch.testing.assert_close(together.states_ND[here], alone.states_ND, atol=1e-5, rtol=1e-4)
        assert together.target_N[here].tolist() == alone.target_N.tolist()
        assert together.weight_N[here].tolist() == alone.weight_N.tolist()


def uniform(rows: list[Row], vocabulary: int) -> tuple[Tensor, Predictions]:
    """What a model that knows nothing predicts for the rows."""
    counted = [(at, row, *one) for at, row in enumerate(rows) for one in row.counted]
    seen = Predictions(
        states_ND=torch.zeros(len(counted), 1),
        target_N=torch.tensor([row.target[at] for _, row, at, _ in counted], dtype=torch.long),
        weight_N=torch.tensor([weight for *_, weight in counted]),
        row_N=torch.tensor([at for at, *_ in counted], dtype=torch.long),
    )
    return torch.zeros(len(counted), vocabulary), seen


def test_a_model_that_knows_nothing_loses_log_vocabulary_a_token() -> None:
    rows = [Row(prompt=(1,), target=(1, 2, 3)), Row(prompt=(1,), target=(4, 5))]
    for normalise in ("minibatch", "row"):
        loss = reconstruction_loss(*uniform(rows, 400), divisors(rows, normalise))
        assert loss.item() == pytest.approx(math.log(400))


@pytest.mark.parametrize("normalise", ["minibatch", "row"])
def test_the_nelbo_of_a_model_that_knows_nothing_is_log_vocabulary_on_average(
    normalise: Normalise,
) -> None:
    """t ~ U(0, 1), each token masked with probability t and counted 1 / t: unbiased."""
    total, draws = 0.0, 4000
    for at in range(draws):
        rng = random_for("nelbo", at)
        ratio = rng.uniform(1e-3, 1.0)
        target = [3] * 16
        row = diffusion_row(
            (1,), target, [rng.random() < ratio for _ in target], ratio=ratio, mask=9
        )
        total += reconstruction_loss(*uniform([row], 400), divisors([row], normalise)).item()
    assert total / draws == pytest.approx(math.log(400), rel=0.04)


@pytest.mark.parametrize("normalise", ["minibatch", "row"])
def test_a_diffusion_row_without_a_masked_token_adds_nothing(
    tiny_llada: Backbone, normalise: Normalise
) -> None:
    assert tiny_llada.mask_id is not None
    row = diffusion_row((1, 7), (8, 9), (False, False), ratio=0.1, mask=tiny_llada.mask_id)
    loss = loss_of(tiny_llada, [row], normalise)
    assert loss.item() == 0.0
    others = diffusion_rows(tiny_llada)
    with_it = loss_of(tiny_llada, [*others, row], "minibatch").item()
    tokens = sum(len(other.target) for other in others)
    without = loss_of(tiny_llada, others, "minibatch").item()
    assert with_it == pytest.approx(without * tokens / (tokens + 2), rel=1e-5)


def test_tokens_count_alike_in_a_minibatch_and_rows_count_alike_by_row() -> None:
    rows = [Row(prompt=(1,), target=(2,) * 9), Row(prompt=(1,), target=(2,))]
    assert divisors(rows, "minibatch") == [10, 10]
    assert divisors(rows, "row") == [18, 2]


def test_weights_of_zero_are_not_predicted(tiny: Backbone) -> None:
    row = Row(prompt=(1, 40), target=(50, 51, 52), weights=(0.0, 1.0, 0.0))
    assert predict(tiny.model, [row]).target_N.tolist() == [51]
    assert row.length == 1


def test_what_all_prompts_begin_with_is_found() -> None:
    assert shared_prefix([(1, 2, 3), (1, 2), (1, 2, 4)]) == [1, 2]
    assert shared_prefix([(1,), (2,)]) == []


def test_bins_hold_every_row_once_and_are_about_equally_full() -> None:
    for seed, rows in product(range(20), (1, 2, 7, 40)):
        rng = random_for("bins", seed)
        lengths = [rng.randrange(1, 90) for _ in range(rows)]
        bins = fill_bins(lengths)
        assert sorted(at for some in bins for at in some) == list(range(rows))
        filled = [sum(lengths[at] for at in some) for some in bins]
        assert max(filled) - min(filled) <= max(lengths)
        assert max(filled) <= max(BIN_TOKENS, *lengths) + max(lengths)
