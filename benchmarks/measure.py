"""What every benchmark says of itself: commit, machine, and medians with their spread."""

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from statistics import median
from typing import Any

import torch


def described_machine() -> dict[str, Any]:
    """The commit and the machine that a number belongs to."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    on_gpu = torch.cuda.is_available()
    return {
        "commit": commit or None,
        "machine": {
            "processor": torch.cuda.get_device_name() if on_gpu else processor(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "peft")},
        },
    }


def processor() -> str:
    capabilities = torch.cpu.get_capabilities()
    known = [name for name in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if
             capabilities.get(name)]  # fmt: skip
    return f"{platform.machine()} ({', '.join(known) or 'no vector extensions known'})"


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, the smallest and the largest."""
    return {"median": median(values), "least": min(values), "most": max(values)}
