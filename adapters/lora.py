"""Attach LoRA to a loaded model, and write what it learned as an adapter folder."""

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch import Tensor

from adapters.attention import use_fp32_attention
from adapters.backbones import DTYPES, Backbone
from adapters.config import TrainingConfig
from adapters.masking import random_for
from adapters.store import appearing, write_manifest

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def set_precision(backbone: Backbone, config: TrainingConfig) -> str:
    """Let the frozen weights be of what the training computes in, and return its name.

    bfloat16 halves memory and, where the processor has instructions for it, is faster; elsewhere
    it is many times slower, so `auto` looks. The LoRA's own weights are always fp32.
    """
    precision = chosen_precision(config)
    exact = _ExactHead(backbone.model.lm_head)
    rotary = backbone.model.model.rotary_emb
    frequencies = {name: kept.clone() for name, kept in rotary.named_buffers()}
    backbone.model.to(DTYPES[precision])
    backbone.model.lm_head = exact
    for name, kept in frequencies.items():  # rounded, they would turn positions otherwise
        setattr(rotary, name, kept)
    if precision == "bfloat16" and backbone.model.device.type == "cpu":
        use_fp32_attention(backbone.model)
    return precision


def chosen_precision(config: TrainingConfig) -> str:
    """`training.precision`, on this machine."""
    if config.precision != "auto":
        return config.precision
    return "bfloat16" if _has_bfloat16() else "float32"


class _ExactHead(torch.nn.Module):
    """The vocabulary layer in fp32, whatever the states are.

    Logits of 16 and more lie an eighth apart in bfloat16, which is more than a candidate drifts.
    """

    def __init__(self, head: torch.nn.Linear) -> None:
        super().__init__()
        self.bias = None  # as a Linear without one has it
        self.weight = torch.nn.Parameter(head.weight.detach().float(), requires_grad=False)

    def forward(self, states: Tensor) -> Tensor:
        return torch.nn.functional.linear(states.float(), self.weight)


def _has_bfloat16() -> bool:
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def attach(backbone: Backbone, config: TrainingConfig, *stream: str) -> PeftModel:
    """Put a fresh LoRA on the model; B = 0, so it starts as the model itself.

    A's initial values depend on its shape, the training seed and the stream. Adapters that will be
    added up need streams of their own: with one A all would write into the same few directions.
    """
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=list(config.target_modules),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # transformers asks for its own renamed attribute whenever PEFT wraps a model
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        torch.manual_seed(random_for(config.seed, "lora", *stream).getrandbits(63))
        return get_peft_model(backbone.model, lora)


@contextmanager
def attached(backbone: Backbone, config: TrainingConfig, *stream: str) -> Iterator[PeftModel]:
    """A fresh LoRA on the model for the block; afterwards the model is as it was."""
    model = attach(backbone, config, *stream)
    try:
        yield model
    finally:
        model.unload()


def save_adapter(model: PeftModel, folder: Path, *, base: str, about: dict[str, Any]) -> str:
    """Write the adapter whole, in PEFT's own format, and return its digest.

    `base` is the base model's name. The same weights give the same digest in any process.
    """
    with appearing(folder) as partial:
        model.save_pretrained(str(partial), safe_serialization=True)
        (partial / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        _settle(partial / CONFIG, base=base)
        return write_manifest(partial, kind="adapter", about=about)


def update_norm(folder: Path) -> float:
    """How large an adapter is: the Frobenius norm of all that it adds, sqrt(sum |s B A|^2).

    `folder` is in PEFT's format, with s = alpha / r. B A itself, of in x out, is never formed.
    """
    described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    scale = described["lora_alpha"] / described["r"]
    squared = 0.0
    with safe_open(folder / WEIGHTS, framework="pt") as tensors:
        for name in tensors.keys():
            if "lora_A" in name:
                down_RI = tensors.get_tensor(name).double()
                up_OR = tensors.get_tensor(name.replace("lora_A", "lora_B")).double()
                squared += float(((up_OR.T @ up_OR) * (down_RI @ down_RI.T)).sum())
    return float(scale * math.sqrt(squared))


def _settle(path: Path, *, base: str) -> None:
    """PEFT writes a folder of this machine for the base, and the modules in a set's order."""
    described = json.loads(path.read_text(encoding="utf-8"))
    described["base_model_name_or_path"] = base
    described["target_modules"] = sorted(described["target_modules"])
    path.write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")
