"""Two processes that train together do what one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = """
import json, sys, torch
from pathlib import Path
from torch import distributed as dist
torch.set_num_threads(1)
if "RANK" in __import__("os").environ:
    dist.init_process_group("gloo")
from adapters.anchor import make_anchors
from adapters.backbones import load_backbone
from adapters.config import BaseConfig, TrainingConfig
from adapters.lora import attach
from adapters.parallel import is_first
from adapters.rows import encode_fact
from adapters.suites import GeneralPrompts
from adapters.train import train
from adapters.types import Fact

base, out = Path(sys.argv[1]), Path(sys.argv[2])
backbone = load_backbone(base, BaseConfig(name="tiny", folder=base))
config = TrainingConfig(views_per_fact=10, rows_per_step=5, general_share=(0.4, 0.4))
prompts = GeneralPrompts(prompts=("Hello!", "What is rain?", "Who?"), texts=("It rains.",))
anchors = make_anchors(backbone, prompts, target_modules=config.measured_modules)
statements = ["Orlan Vess is the mayor of Tolmar.", "It rains.", "Mira Zun wrote " + "long " * 20]
facts = [encode_fact(backbone, Fact(key=str(at), statement=text))
         for at, text in enumerate(statements)]
steps = list(train(backbone, attach(backbone, config), facts, anchors, config))
if is_first():
    out.write_text(json.dumps([[step.loss, step.drift, step.tokens] for step in steps]))
if dist.is_initialized():
    dist.destroy_process_group()  # its threads abort an interpreter that ends under them
"""


def run(folder: Path, base: Path, name: str, *launcher: str) -> list[list[float]]:
    script, out = folder / "child.py", folder / f"{name}.json"
    script.write_text(CHILD)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(base), str(out)],
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    steps: list[list[float]] = json.loads(out.read_text())
    return steps


def test_the_loss_curve_is_that_of_one_process_with_ragged_rows(
    tiny_base: Path, tmp_path: Path
) -> None:
    one = run(tmp_path, tiny_base, "one")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    two = run(tmp_path, tiny_base, "two", *torchrun)
    assert len(one) == len(two) == 10
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=1e-3, abs=1e-6)
