"""A training that was interrupted goes on where it was, to the bit.

What a later step depends on is the adapter, the optimizer's moments and the number of steps done;
masks and general rows are functions of the seed and the step, so there is no generator to keep.
A checkpoint appears whole or not at all. One that is damaged, or of another training, is as good
as none: it is told in the log, and the training begins anew.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters.errors import ArtefactError
from adapters.store import appearing, read_manifest, verify, write_manifest

log = logging.getLogger(__name__)

STATE = "training.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Where a training keeps its latest checkpoint."""

    folder: Path
    key: str  #: digest of all that decides the training: another one is not gone on with


def save_checkpoint(
    checkpoints: Checkpoints, model: PeftModel, optimizer: torch.optim.Optimizer, *, done: int
) -> None:
    """Write the state after `done` steps in place of an earlier one. Raises StorageFull."""
    tensors = {f"parameter.{name}": parameter for name, parameter in _learned(model)}
    for name, parameter in _learned(model):
        for part, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{part}.{name}"] = value
    with appearing(checkpoints.folder) as partial:
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(whole, partial / STATE)
        about = {"key": checkpoints.key, "steps_done": done}
        write_manifest(partial, kind="checkpoint", about=about)


def restore_checkpoint(
    checkpoints: Checkpoints, model: PeftModel, optimizer: torch.optim.Optimizer
) -> int:
    """Put the latest state into model and optimizer; the number of steps done, 0 without one."""
    folder = checkpoints.folder
    if not folder.exists():
        return 0
    try:
        manifest = read_manifest(folder)
        verify(folder, digest=str(manifest.get("digest")))
        about = dict(manifest["about"])
        if about["key"] != checkpoints.key:
            log.info("the checkpoint in %s is of another training; this one begins anew", folder)
            return 0
        _put(load_file(folder / STATE), model, optimizer)
        return int(about["steps_done"])
    except (ArtefactError, KeyError, TypeError, ValueError, OSError) as error:
        log.warning("the checkpoint in %s cannot be used, the training begins anew: %s", folder,
                    error)  # fmt: skip
        return 0


def _put(tensors: dict[str, Tensor], model: PeftModel, optimizer: torch.optim.Optimizer) -> None:
    """Raises KeyError before anything is changed, where a parameter is not in the checkpoint."""
    learned = _learned(model)
    parameters = [tensors[f"parameter.{name}"] for name, _ in learned]
    states: list[dict[str, Any]] = [{} for _ in learned]
    for at, (name, parameter) in enumerate(learned):
        for key, value in tensors.items():
            if key.startswith("optimizer.") and key.endswith(f".{name}"):
                part = key.removeprefix("optimizer.").removesuffix(f".{name}")
                states[at][part] = value if part == "step" else value.to(parameter.device)
    with torch.no_grad():
        for (_, parameter), kept in zip(learned, parameters, strict=True):
            parameter.copy_(kept)
    for (_, parameter), state in zip(learned, states, strict=True):
        optimizer.state[parameter] = state


def _learned(model: PeftModel) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]
