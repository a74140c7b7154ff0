"""Attention in fp32 between layers in bfloat16, for training on a processor.

The fused kernel's backward pass is far slower in bfloat16 there than in fp32 (torch 2.13), so much
that it took a large part of a training step. The rest of a layer, whose products are what bfloat16
speeds up, stays in it.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "sdpa_fp32"  #: in a model's `_attn_implementation`


def use_fp32_attention(model: LlamaForCausalLM) -> None:
    """Let every layer of this loaded model attend in fp32; its weights stay as they are."""
    model.set_attn_implementation(NAME)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    **how: Any,
) -> tuple[Tensor, None]:
    """(B, H, T, D) queries against keys and values of one dtype, which the result has, too."""
    states, _ = sdpa_attention_forward(
        module, query.float(), key.float(), value.float(), mask, **how
    )
    return states.to(query.dtype), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
