"""What every benchmark says of itself, medians with their spread, and what a long one keeps."""

import json
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What was measured before the run was cut off; nothing where nothing was."""
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


def add_line(path: Path, line: dict[str, Any]) -> None:
    """Keep one measurement, so that a run which is cut off goes on behind it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{json.dumps(line)}\n")
