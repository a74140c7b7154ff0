"""Composition: the same bytes from the same recipe, and adapters that do not fit are named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapters.backbones import load_backbone
from adapters.compose import read_update, write_snapshot
from adapters.config import BaseConfig, TrainingConfig
from adapters.errors import ArtefactError, ComposeError
from adapters.lora import CONFIG, WEIGHTS, attach, save_adapter

TRAINING = TrainingConfig(rank=4, alpha=8)


def make_adapter(base: Path, config: BaseConfig, folder: Path, *, seed: int) -> Path:
    """An adapter with random weights."""
    backbone = load_backbone(base, config)
    model = attach(backbone, TRAINING)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(model, folder, about={})
    return folder


@pytest.fixture
def adapter(tiny_base: Path, tiny_config: BaseConfig, tmp_path: Path) -> Path:
    return make_adapter(tiny_base, tiny_config, tmp_path / "adapter", seed=1)


def compose(base: Path, config: BaseConfig, out: Path, *adapters: Path) -> str:
    return write_snapshot(base, adapters, out, config, about={})


def test_a_snapshot_answers_as_base_and_adapter_do(
    tiny_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    compose(tiny_base, tiny_config, tmp_path / "snapshot", adapter)
    snapshot = AutoModelForCausalLM.from_pretrained(tmp_path / "snapshot").eval()
    attached = PeftModel.from_pretrained(
        load_backbone(tiny_base, tiny_config).model, str(adapter)
    ).eval()
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(snapshot(ids).logits, attached(ids).logits, atol=1e-4, rtol=1e-4)


def test_a_rebuilt_snapshot_is_bit_identical(
    tiny_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    second = make_adapter(tiny_base, tiny_config, tmp_path / "second", seed=2)
    first = compose(tiny_base, tiny_config, tmp_path / "a", adapter, second)
    assert compose(tiny_base, tiny_config, tmp_path / "b", adapter, second) == first
    assert compose(tiny_base, tiny_config, tmp_path / "c", adapter) != first


def test_nothing_added_is_the_base(
    tiny_base: Path, tiny_config: BaseConfig, tmp_path: Path
) -> None:
    compose(tiny_base, tiny_config, tmp_path / "snapshot")
    composed = load_file(tmp_path / "snapshot" / "model.safetensors")
    base = load_file(tiny_base / "model.safetensors")
    assert all(torch.equal(composed[name], base[name]) for name in base)


def change_tensors(adapter: Path, change: Any) -> None:
    tensors = load_file(adapter / WEIGHTS)
    save_file(dict(change(tensors)), adapter / WEIGHTS)


def test_an_adapter_that_changes_nothing_is_refused(adapter: Path) -> None:
    change_tensors(adapter, lambda ts: {n: torch.zeros_like(t) for n, t in ts.items()})
    with pytest.raises(ComposeError, match="changes nothing"):
        read_update(adapter)


def test_an_adapter_that_is_not_finite_is_refused(adapter: Path) -> None:
    change_tensors(adapter, lambda ts: {n: t * float("nan") for n, t in ts.items()})
    with pytest.raises(ComposeError, match="not finite"):
        read_update(adapter)


def test_an_adapter_of_another_rank_is_refused(adapter: Path) -> None:
    described = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**described, "r": 3}))
    with pytest.raises(ComposeError, match="rank 3"):
        read_update(adapter)


@pytest.mark.parametrize("option", ["use_dora", "use_rslora"])
def test_an_adapter_that_computes_otherwise_is_refused(adapter: Path, option: str) -> None:
    described = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**described, option: True}))
    with pytest.raises(ComposeError, match=option):
        read_update(adapter)


def test_an_adapter_for_another_base_is_refused(
    tiny_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    change_tensors(
        adapter, lambda ts: {n.replace("layers.1", "layers.9"): t for n, t in ts.items()}
    )
    with pytest.raises(ComposeError, match=r"layers\.9.*which the base has not"):
        compose(tiny_base, tiny_config, tmp_path / "snapshot", adapter)
    assert not (tmp_path / "snapshot").exists()


def test_an_adapter_of_another_shape_is_refused(
    tiny_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    change_tensors(
        adapter,
        lambda ts: {n: torch.cat([t, t]) if "lora_B" in n else t for n, t in ts.items()},
    )
    with pytest.raises(ComposeError, match="the base's is"):
        compose(tiny_base, tiny_config, tmp_path / "snapshot", adapter)


def test_a_damaged_adapter_file_is_refused(adapter: Path) -> None:
    (adapter / WEIGHTS).write_bytes(b"nonsense")
    with pytest.raises(ArtefactError, match="cannot be read"):
        read_update(adapter)
