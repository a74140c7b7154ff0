"""Attach LoRA to a loaded model, and write what it learned as an adapter folder."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from adapters.backbones import Backbone
from adapters.config import TrainingConfig
from adapters.store import appearing, write_manifest

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def attach(backbone: Backbone, config: TrainingConfig) -> PeftModel:
    """Put a fresh LoRA on the model; B = 0, so it starts as the model itself.

    A's initial values depend on the training seed alone.
    """
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        target_modules=list(config.target_modules),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return get_peft_model(backbone.model, lora)


def save_adapter(model: PeftModel, folder: Path, *, about: dict[str, Any]) -> str:
    """Write the adapter whole, in PEFT's own format, and return its digest."""
    with appearing(folder) as partial:
        model.save_pretrained(str(partial), safe_serialization=True)
        (partial / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        return write_manifest(partial, kind="adapter", about=about)
