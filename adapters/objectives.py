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
from transformers import DynamicCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training sequence: everything in `prompt` is read, the target is predicted."""

    prompt: tuple[int, ...]
    target: tuple[int, ...]


def target_states(
    model: Any, rows: Sequence[Row], *, prefix: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Last hidden states (N, D) where a target token is predicted, and those tokens (N,).

    Every row's prompt must begin with `prefix` (at least one token). The prefix is computed once
    and shared, gradients included; the vocabulary layer, the widest there is, is left to the
    caller, who needs it at these N positions only.
    """
    device = model.device
    begin = len(prefix)
    rests = [[*row.prompt[begin:], *row.target] for row in rows]
    width = max(map(len, rests))
    # Position `begin - 1` is the prefix's last token: it predicts a target that follows directly.
    ids_BT = torch.tensor([rest + [0] * (width - len(rest)) for rest in rests], device=device)
    mask_BT = torch.tensor(
        [[1] * (begin + len(rest)) + [0] * (width - len(rest)) for rest in rests], device=device
    )
    positions_BT = torch.arange(begin, begin + width, device=device).expand(len(rows), -1)

    cache = DynamicCache()
    first = torch.tensor([list(prefix)], device=device)
    shared_1D = model.model(
        input_ids=first, past_key_values=cache, use_cache=True
    ).last_hidden_state[:, -1]
    cache.batch_repeat_interleave(len(rows))
    hidden_BTD = model.model(
        input_ids=ids_BT,
        attention_mask=mask_BT,
        position_ids=positions_BT,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    hidden_BTD = torch.cat([shared_1D.expand(len(rows), 1, -1), hidden_BTD], dim=1)
    at_N = [
        row_at * (width + 1) + len(row.prompt) - begin + step
        for row_at, row in enumerate(rows)
        for step in range(len(row.target))
    ]
    target_N = torch.tensor([token for row in rows for token in row.target], device=device)
    return hidden_BTD.flatten(0, 1)[torch.tensor(at_N, device=device)], target_N


def reconstruction_loss(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """Mean cross-entropy in nats over all target tokens, in fp32."""
    return F.cross_entropy(logits_NV.float(), target_N)
