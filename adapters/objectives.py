"""What the training minimises, as rows of token ids with targets.

Masked AR (arXiv 2510.09885): the prompt shows the statement with hidden tokens, the target is the
whole statement and the end of turn, L = -(1/|target|) sum log p(s_k | prompt, s_<k).
Plain AR, the control: the same target after a fixed request, so nothing of the fact is shown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training sequence: everything before `target` is read, the target is predicted."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Minibatch:
    """Right-padded rows; `at` points to the positions whose next token is a target."""

    ids_BT: Tensor
    mask_BT: Tensor
    at_N: Tensor  #: flat positions into (B, T) that predict
    target_N: Tensor  #: the token that each of them must predict


def minibatch(rows: Sequence[Row], *, pad: int, device: torch.device) -> Minibatch:
    sequences = [[*row.prompt, *row.target] for row in rows]
    width = max(map(len, sequences))
    ids = [ids + [pad] * (width - len(ids)) for ids in sequences]
    mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences]
    at = [
        row_at * width + len(row.prompt) - 1 + step
        for row_at, row in enumerate(rows)
        for step in range(len(row.target))
    ]
    target = [token for row in rows for token in row.target]
    return Minibatch(
        ids_BT=torch.tensor(ids, device=device),
        mask_BT=torch.tensor(mask, device=device),
        at_N=torch.tensor(at, device=device),
        target_N=torch.tensor(target, device=device),
    )


def target_logits(model: Any, batch: Minibatch) -> Tensor:
    """Logits (N, V) at the target positions only: the vocabulary is the widest layer there is."""
    hidden_BTD = model.model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT).last_hidden_state
    hidden_ND = hidden_BTD.flatten(0, 1)[batch.at_N]
    logits: Tensor = model.lm_head(hidden_ND)
    return logits


def reconstruction_loss(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """Mean cross-entropy in nats over all target tokens, in fp32."""
    return F.cross_entropy(logits_NV.float(), target_N)
