"""How far an update shifts the layers' outputs on general text, without running any.

For a layer y = W x with the update dW = (alpha / r) B A, the relative shift on general tokens is

    E |dW x|^2 / E |W x|^2 = tr(dW C dW^T) / tr(W C W^T),    C = E[x x^T / |x|^2]

where C, the second moment of the layer's inputs, is measured once on the base (ROME and MEMIT
preserve what a layer does by the same matrix: arXiv 2202.05262, 2210.07229). Every token counts
alike: the first one's activations, a thousand times larger, would drown all others.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

#: Layers that read the same input: its moment is kept once, under the first one's name.
READS_WITH = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}

Moments = dict[str, Tensor]  #: layer -> C (in, in), fp32


@contextmanager
def measured_moments(model: Any, target_modules: Sequence[str]) -> Iterator[Moments]:
    """Every forward pass in the block counts, each of its tokens; rows must not be padded.

    The yielded dict is filled when the block ends. It takes 4 in^2 bytes for each layer: 0.3 GB
    for the feed-forward layers of a 135M model.
    """
    sums: Moments = {}
    counts: dict[str, int] = {}

    def count(name: str, inputs: Tensor) -> None:
        x_ND = inputs.detach().float().flatten(0, -2)
        x_ND = x_ND / x_ND.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        if name not in sums:
            sums[name] = torch.zeros(x_ND.shape[1], x_ND.shape[1], device=x_ND.device)
        sums[name].addmm_(x_ND.T, x_ND)
        counts[name] = counts.get(name, 0) + len(x_ND)

    def watch(name: str, layer: torch.nn.Module) -> Any:
        return layer.register_forward_pre_hook(lambda _, inputs: count(name, inputs[0]))

    wanted = {READS_WITH.get(module, module) for module in target_modules}
    watched = [
        watch(name, layer)
        for name, layer in model.named_modules()
        if name.rpartition(".")[2] in wanted and isinstance(layer, torch.nn.Linear)
    ]
    moments: Moments = {}
    try:
        yield moments
    finally:
        for handle in watched:
            handle.remove()
    moments.update({name: total.div_(counts[name]) for name, total in sums.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftedLayer:
    """One layer with its LoRA, and what its shift is measured against."""

    down_RI: Tensor  #: A, trained
    up_OR: Tensor  #: B, trained
    scale: float  #: alpha / rank
    moment_II: Tensor
    own: float  #: tr(W C W^T) of the layer as it is


def shifted_layers(model: PeftModel, moments: Moments) -> list[ShiftedLayer]:
    """The layers that the attached LoRA changes. Raises KeyError for one that was not measured."""
    layers = []
    attached: Any = model.base_model.model
    for name, layer in attached.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        parent, _, last = name.rpartition(".")
        moment_II = moments[f"{parent}.{READS_WITH.get(last, last)}"]
        weight_OI = layer.base_layer.weight.detach().float()
        (adapter,) = layer.lora_A
        layers.append(
            ShiftedLayer(
                down_RI=layer.lora_A[adapter].weight,
                up_OR=layer.lora_B[adapter].weight,
                scale=layer.scaling[adapter],
                moment_II=moment_II,
                own=((weight_OI @ moment_II) * weight_OI).sum().item(),
            )
        )
    return layers


def relative_shift(layers: Sequence[ShiftedLayer]) -> Tensor:
    """The mean over the layers of E |dW x|^2 / E |W x|^2; differentiable in A and B."""
    shifts = []
    for layer in layers:
        # tr(B A C A^T B^T), by way of two (rank, rank) products. C is symmetric, so the gradient
        # of A C A^T needs no product with C, the widest by far, but the one that the value needs.
        seen_RI = layer.down_RI.detach() @ layer.moment_II
        half_RR = seen_RI @ layer.down_RI.T
        inner_RR = 2 * half_RR - half_RR.detach()
        outer_RR = layer.up_OR.T @ layer.up_OR
        shifts.append(layer.scale**2 * (inner_RR * outer_RR).sum() / layer.own)
    return torch.stack(shifts).mean()
