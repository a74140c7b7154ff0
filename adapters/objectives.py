"""What the training minimises, as rows of token ids with targets and weights.

Masked AR (arXiv 2510.09885): the prompt shows the statement with hidden tokens, the target is the
whole statement and the end of turn, L = -(1/|target|) sum log p(s_k | prompt, s_<k).
Plain AR, the control: the same target after a fixed request, or after nothing, so nothing of the
fact is shown.
Masked diffusion (LLaDA, arXiv 2502.09992): each target token is masked with probability t, and
L = (1/t) sum over the masked of -log p(s_k | prompt, masked target), over the target's length. With
t ~ U(0, 1) its mean is the NELBO, a bound of the negative log-likelihood.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

#: Rows share a bin of so many tokens: wide enough to leave next to no padding, and narrow enough
#: that attention, whose cost grows with the square, stays a small part.
BIN_TOKENS = 128

Normalise = Literal["minibatch", "row"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training sequence: everything in `prompt` is read, the target is predicted."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]
    #: Diffusion: what is read in the target's place, each token predicted where it stands.
    #: Without it a target token is predicted from those before it.
    shown: tuple[int, ...] | None = None
    #: How much each target token counts; without it each counts once. With 0 it is not predicted.
    weights: tuple[float, ...] | None = None

    @property
    def length(self) -> float:
        """What its loss is divided by: all tokens of a masked target, else those that count."""
        if self.shown is not None or self.weights is None:
            return float(len(self.target))
        return sum(self.weights)

    @property
    def counted(self) -> list[tuple[int, float]]:
        """(index in the target, weight) of each token that is predicted."""
        weights = self.weights or (1.0,) * len(self.target)
        return [(at, weight) for at, weight in enumerate(weights) if weight]


def diffusion_row(
    prompt: Sequence[int], target: Sequence[int], hidden: Sequence[bool], *, ratio: float, mask: int
) -> Row:
    """A target with masked tokens, each of which counts 1 / ratio: E[hidden / ratio] = 1."""
    return Row(
        prompt=tuple(prompt),
        target=tuple(target),
        shown=tuple(mask if off else token for token, off in zip(target, hidden, strict=True)),
        weights=tuple(1 / ratio if off else 0.0 for off in hidden),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """The N positions that predict a counted token, in the order of the rows."""

    states_ND: Tensor  #: last hidden states; the vocabulary layer, the widest, is the caller's
    target_N: Tensor
    weight_N: Tensor  #: fp32
    row_N: Tensor  #: index of its row

    def first(self, count: int) -> "Predictions":
        """The first `count` positions."""
        return Predictions(
            states_ND=self.states_ND[:count],
            target_N=self.target_N[:count],
            weight_N=self.weight_N[:count],
            row_N=self.row_N[:count],
        )


def predict(model: Any, rows: Sequence[Row]) -> Predictions:
    """Read the rows, several to a bin and none seeing another; keep what predicts a target.

    What all prompts begin with is read once and shared, gradients included. A bidirectional model
    (rows with `shown`) reads it differently in every row, so there nothing is shared.
    """
    is_causal = rows[0].shown is None
    prefix = shared_prefix([row.prompt for row in rows]) if is_causal else []
    layout = _lay_out(rows, begin=len(prefix))
    device = model.device
    cache, parts_ND = None, []
    if prefix:  # its last token predicts a target that follows at once
        cache = DynamicCache()
        ids_BT = torch.tensor([prefix], device=device)
        read = model.model(input_ids=ids_BT, past_key_values=cache, use_cache=True)
        parts_ND.append(read.last_hidden_state[0, -1:])
        cache.batch_repeat_interleave(len(layout.ids_BT))
    hidden_BTD = model.model(
        input_ids=layout.ids_BT.to(device),
        attention_mask=_sees(layout.row_BT, begin=len(prefix), is_causal=is_causal).to(device),
        position_ids=layout.position_BT.to(device),
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    parts_ND.append(hidden_BTD.flatten(0, 1))
    at_N, target_N, weight_N, row_N = _targets(rows, layout, begin=len(prefix), device=device)
    return Predictions(
        states_ND=torch.cat(parts_ND)[at_N], target_N=target_N, weight_N=weight_N, row_N=row_N
    )


def shared_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all prompts begin with."""
    columns = zip(*prompts, strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Rows laid into B bins of T tokens, what they share left out."""

    ids_BT: Tensor
    position_BT: Tensor  #: of each token in its own row
    row_BT: Tensor  #: which row a token is of; -1 for padding
    start: list[int]  #: by row: where it begins in the flattened bins


def _lay_out(rows: Sequence[Row], *, begin: int) -> _Layout:
    """A causal row's last token predicts nothing, so it is not read.

    What is left over of a bin is filled with the beginning of its longest row once more: whoever
    counts what the layers see (adapters.moments) then counts natural text only.
    """
    rests = [
        [*row.prompt[begin:], *(row.target[:-1] if row.shown is None else row.shown)]
        for row in rows
    ]
    bins = fill_bins([len(rest) for rest in rests])
    width = max(1, *(sum(len(rests[at]) for at in some) for some in bins))
    ids_BT = torch.zeros(len(bins), width, dtype=torch.long)
    position_BT, row_BT = torch.zeros_like(ids_BT), torch.full_like(ids_BT, -1)
    start = [0] * len(rows)
    for bin_at, some in enumerate(bins):
        at_T = 0
        for at in some:
            here = slice(at_T, at_T + len(rests[at]))
            ids_BT[bin_at, here] = torch.tensor(rests[at], dtype=torch.long)
            position_BT[bin_at, here] = torch.arange(begin, begin + len(rests[at]))
            row_BT[bin_at, here] = at
            start[at] = bin_at * width + at_T
            at_T += len(rests[at])
        left = width - at_T
        if some and left:
            again = torch.tensor(rests[some[0]][:left] or [0], dtype=torch.long)
            ids_BT[bin_at, at_T:] = again.repeat(left)[:left]
            position_BT[bin_at, at_T:] = torch.arange(begin, begin + left)
    return _Layout(ids_BT=ids_BT, position_BT=position_BT, row_BT=row_BT, start=start)


def fill_bins(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of the rows in each bin: the longest first, each into the emptiest bin."""
    count = max(1, math.ceil(sum(lengths) / max(BIN_TOKENS, *lengths)))
    bins: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for at in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        emptiest = filled.index(min(filled))
        bins[emptiest].append(at)
        filled[emptiest] += lengths[at]
    return bins


def _sees(row_BT: Tensor, *, begin: int, is_causal: bool) -> Tensor:
    """Which token sees which, (B, 1, T, begin + T): the prefix, and its own row as far as it may.

    What fills a bin is a row of its own, as a token that sees nothing would be no number.
    """
    bins, width = row_BT.shape
    own_BTT = row_BT[:, :, None] == row_BT[:, None, :]
    if is_causal:
        own_BTT = own_BTT.tril()
    prefix_BTP = torch.ones(bins, width, begin, dtype=torch.bool)
    return torch.cat([prefix_BTP, own_BTT], dim=-1)[:, None]


def _targets(
    rows: Sequence[Row], layout: _Layout, *, begin: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each counted token: where it is predicted, the token, its weight and its row.

    With a prefix, its last state stands at 0 and the bins follow.
    """
    at_N, target_N, weight_N, row_N = [], [], [], []
    for row_at, row in enumerate(rows):
        lag = 1 if row.shown is None else 0
        for token, weight in row.counted:
            after = len(row.prompt) + token - lag - begin
            at_N.append(0 if after < 0 else bool(begin) + layout.start[row_at] + after)
            target_N.append(row.target[token])
            weight_N.append(weight)
            row_N.append(row_at)
    whole: dict[str, Any] = {"dtype": torch.long, "device": device}
    return (
        torch.tensor(at_N, **whole),
        torch.tensor(target_N, **whole),
        torch.tensor(weight_N, dtype=torch.float32, device=device),
        torch.tensor(row_N, **whole),
    )


def divisors(rows: Sequence[Row], normalise: Normalise) -> list[float]:
    """By row: what its weighted loss is divided by, so that the minibatch's loss is the sum.

    `minibatch`: every token counts alike, L = sum / (all rows' lengths). `row`: every row counts
    alike, L = (1 / rows) sum over rows of (its sum / its length). LLaDA uses the one in
    pre-training and the other in fine-tuning.
    """
    if normalise == "row":
        return [len(rows) * (row.length or 1.0) for row in rows]
    return [sum(row.length for row in rows) or 1.0] * len(rows)


def reconstruction_loss(
    logits_NV: Tensor, predictions: Predictions, divisors: Sequence[float]
) -> Tensor:
    """Sum over N of weight * (-log p(target)) / its row's divisor, in nats and fp32."""
    nll_N = F.cross_entropy(logits_NV.float(), predictions.target_N, reduction="none")
    divisor_R = torch.tensor(divisors, device=nll_N.device)
    return (predictions.weight_N * nll_N / divisor_R[predictions.row_N]).sum()
