"""The tiny base, converted and loaded."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from adapters.backbones import Backbone, convert_base, load_backbone
from adapters.config import BaseConfig

torch.set_num_threads(1)  # a tiny model is slower on more


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory, tiny_config: BaseConfig) -> Path:
    folder = tmp_path_factory.mktemp("state") / "base"
    convert_base(tiny_config, folder)
    return folder


@pytest.fixture
def tiny(tiny_base: Path, tiny_config: BaseConfig) -> Backbone:
    """A freshly loaded tiny model; training changes it, so every test gets its own."""
    return load_backbone(tiny_base, tiny_config)


@pytest.fixture(scope="session")
def tiny_llada_base(
    tmp_path_factory: pytest.TempPathFactory, tiny_llada_config: BaseConfig
) -> Path:
    folder = tmp_path_factory.mktemp("state") / "base"
    convert_base(tiny_llada_config, folder)
    return folder


@pytest.fixture
def tiny_llada(tiny_llada_base: Path, tiny_llada_config: BaseConfig) -> Backbone:
    """A freshly loaded tiny LLaDA, as `tiny` is."""
    return load_backbone(tiny_llada_base, tiny_llada_config)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root on Linux")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
