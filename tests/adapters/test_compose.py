"""Composition: the same bytes from the same recipe, and adapters that do not fit are named."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adapters.backbones import load_backbone
from adapters.compose import read_update, write_concatenated, write_snapshot
from adapters.config import BaseConfig, TrainingConfig
from adapters.errors import ArtefactError, ComposeError, StorageFull
from adapters.lora import CONFIG, WEIGHTS, attach, save_adapter, update_norm
from adapters.store import read_manifest, verify

TRAINING = TrainingConfig(rank=4, alpha=8)


def make_adapter(
    base: Path,
    config: BaseConfig,
    folder: Path,
    *,
    seed: int,
    training: TrainingConfig = TRAINING,
) -> Path:
    """An adapter with random weights."""
    backbone = load_backbone(base, config)
    model = attach(backbone, training)
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(model, folder, base="tiny", about={})
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


def test_one_adapter_with_all_ranks_answers_as_the_sum_does(
    tiny_base: Path, tiny_config: BaseConfig, tmp_path: Path
) -> None:
    """Of three, one has another rank and scale, and one leaves some layers alone."""
    from peft import PeftModel

    changes = [{}, {"rank": 2, "alpha": 3}, {"target_modules": ("q_proj", "up_proj")}]
    adapters = [
        make_adapter(
            tiny_base,
            tiny_config,
            tmp_path / f"adapter{seed}",
            seed=seed,
            training=TRAINING.model_copy(update=change),
        )
        for seed, change in enumerate(changes)
    ]
    compose(tiny_base, tiny_config, tmp_path / "snapshot", *adapters)
    (tmp_path / "one").mkdir()
    write_concatenated(adapters, tmp_path / "one", base="tiny")
    assert json.loads((tmp_path / "one" / CONFIG).read_text())["r"] == 4 + 2 + 4
    summed = AutoModelForCausalLM.from_pretrained(tmp_path / "snapshot").eval()
    model = load_backbone(tiny_base, tiny_config).model
    tokens = torch.arange(3, 40).unsqueeze(0)
    with torch.no_grad():
        alone = model(tokens).logits
        one = PeftModel.from_pretrained(model, str(tmp_path / "one")).eval()(tokens).logits
        wanted = summed(tokens).logits
    torch.testing.assert_close(one, wanted, atol=1e-4, rtol=0)
    assert not torch.allclose(alone, wanted, atol=1e-2)


def test_a_rebuilt_snapshot_is_bit_identical(
    tiny_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    second = make_adapter(tiny_base, tiny_config, tmp_path / "second", seed=2)
    first = compose(tiny_base, tiny_config, tmp_path / "a", adapter, second)
    assert compose(tiny_base, tiny_config, tmp_path / "b", adapter, second) == first
    assert compose(tiny_base, tiny_config, tmp_path / "c", adapter) != first


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_threads_and_the_recipe_written_out_give_the_same(
    tiny_base: Path,
    tiny_config: BaseConfig,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
) -> None:
    config = tiny_config.model_copy(update={"dtype": dtype})
    second = make_adapter(tiny_base, tiny_config, tmp_path / "second", seed=2)
    digest = compose(tiny_base, config, tmp_path / "a", adapter, second)
    verify(tmp_path / "a", digest=digest)  # it was taken while the files were written
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert compose(tiny_base, config, tmp_path / "b", adapter, second) == digest
    finally:
        torch.set_num_threads(threads)
    found = load_file(tmp_path / "a" / "model.safetensors")
    for name, weight in load_file(tiny_base / "model.safetensors").items():
        wanted = weight.float()
        for folder in (adapter, second):
            factors, key = load_file(folder / WEIGHTS), f"base_model.model.{name}"
            down = factors.get(key.replace(".weight", ".lora_A.weight"))
            if down is not None:
                up = factors[key.replace(".weight", ".lora_B.weight")]
                wanted = wanted + 2.0 * (up @ down)
        assert found[name].dtype is getattr(torch, dtype)
        close = {"float32": (1e-5, 1e-6), "bfloat16": (1e-2, 1e-3)}[dtype]
        torch.testing.assert_close(found[name].float(), wanted, rtol=close[0], atol=close[1])
    monkeypatch.setattr("adapters.compose.BLOCK_WEIGHTS", 100)
    compose(tiny_base, config, tmp_path / "c", adapter, second)
    few = load_file(tmp_path / "c" / "model.safetensors")
    for name, tensor in found.items():
        torch.testing.assert_close(few[name], tensor, rtol=close[0], atol=close[1])


def test_a_disk_that_fills_up_in_the_middle_is_said_so_and_nothing_is_left(
    tiny_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path, small_disk: Path
) -> None:
    wanted = compose(tiny_base, tiny_config, tmp_path / "elsewhere", adapter)
    size = (tmp_path / "elsewhere" / "model.safetensors").stat().st_size
    free = shutil.disk_usage(small_disk).free
    (small_disk / "others").write_bytes(b"x" * (free - size // 2))
    with pytest.raises(StorageFull, match="disk is full"):
        compose(tiny_base, tiny_config, small_disk / "snapshot", adapter)
    assert {path.name for path in small_disk.iterdir()} == {"others", "snapshot.lock"}
    (small_disk / "others").unlink()
    assert compose(tiny_base, tiny_config, small_disk / "snapshot", adapter) == wanted


def test_a_sum_that_is_no_longer_finite_is_refused(
    tiny_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    """Both factors are finite, and their product is not."""
    change_tensors(adapter, lambda ts: {n: t * 1e22 for n, t in ts.items()})
    with pytest.raises(ComposeError, match="no longer finite"):
        compose(tiny_base, tiny_config, tmp_path / "snapshot", adapter)
    assert not (tmp_path / "snapshot").exists()


def test_an_adapter_that_does_not_outlive_the_cast_is_refused(
    tiny_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    """It is no zero, but too small for any weight's last bit."""
    change_tensors(
        adapter, lambda ts: {n: t * (1e-12 if "lora_B" in n else 1) for n, t in ts.items()}
    )
    second = make_adapter(tiny_base, tiny_config, tmp_path / "second", seed=2)
    rough = tiny_config.model_copy(update={"dtype": "bfloat16"})
    for adapters in ((adapter,), (second, adapter), (adapter, second)):
        with pytest.raises(ComposeError, match=r"adapter changes nothing: cast to bfloat16"):
            compose(tiny_base, rough, tmp_path / "snapshot", *adapters)
    assert not (tmp_path / "snapshot").exists()


def test_an_adapter_of_another_base_is_refused_whatever_its_shape(
    tiny_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(adapter)
    for base in ("b" * 64, read_manifest(tiny_base)["digest"]):
        manifest["about"]["base"] = base
        (adapter / "manifest.json").write_text(json.dumps(manifest))
        if base[0] == base[-1]:
            with pytest.raises(ComposeError, match=r"was trained on the base bbbbbbbbbbbb…, and"):
                compose(tiny_base, tiny_config, tmp_path / "snapshot", adapter)
    compose(tiny_base, tiny_config, tmp_path / "snapshot", adapter)


def test_what_comes_out_otherwise_than_wanted_does_not_take_the_place_of_what_is_there(
    tiny_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    digest = compose(tiny_base, tiny_config, tmp_path / "snapshot", adapter)
    second = make_adapter(tiny_base, tiny_config, tmp_path / "second", seed=2)
    with pytest.raises(ArtefactError, match=f"was composed as {digest[:12]}… and now comes out"):
        write_snapshot(
            tiny_base, [second], tmp_path / "snapshot", tiny_config, about={}, wanted=digest
        )
    verify(tmp_path / "snapshot", digest=digest)
    write_snapshot(
        tiny_base, [adapter], tmp_path / "snapshot", tiny_config, about={}, wanted=digest
    )


def test_a_snapshot_says_on_its_card_what_it_is_made_of(
    tiny_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    licensed = tiny_config.model_copy(update={"licence": "apache-2.0"})
    compose(tiny_base, licensed, tmp_path / "snapshot", adapter)
    card = (tmp_path / "snapshot" / "README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": licensed.name,
        "library_name": "transformers",
        "license": "apache-2.0",
        "tags": ["lorewright"],
    }
    assert read_manifest(tiny_base)["digest"] in text
    assert read_manifest(adapter)["digest"] in text


@pytest.fixture
def sharded_base(tiny_base: Path, tmp_path: Path) -> Path:
    """The tiny base with a tensor a file."""
    folder = tmp_path / "sharded"
    shutil.copytree(tiny_base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for at, (name, tensor) in enumerate(load_file(tiny_base / "model.safetensors").items()):
        save_file({name: tensor}, folder / f"model-{at:05d}.safetensors", metadata={"format": "pt"})
    return folder


def test_shards_that_are_composed_side_by_side_are_the_whole_in_parts(
    tiny_base: Path, sharded_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    compose(tiny_base, tiny_config, tmp_path / "whole", adapter)
    digest = compose(sharded_base, tiny_config, tmp_path / "parts", adapter)
    assert torch.get_num_threads() == threads
    verify(tmp_path / "parts", digest=digest)
    parts = sorted((tmp_path / "parts").glob("*.safetensors"))
    assert [path.name for path in parts] == [
        path.name for path in sorted(sharded_base.glob("*.safetensors"))
    ]
    found = {name: tensor for path in parts for name, tensor in load_file(path).items()}
    wanted = load_file(tmp_path / "whole" / "model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_shard_that_cannot_be_composed_is_named_whatever_becomes_of_the_others(
    sharded_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    spoilt = sorted(sharded_base.glob("*.safetensors"))[-1]
    spoilt.write_bytes(spoilt.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=spoilt.name):
        compose(sharded_base, tiny_config, tmp_path / "snapshot", adapter)
    assert not list(tmp_path.glob("snapshot*.partial"))
    assert not (tmp_path / "snapshot").exists()


def test_nothing_added_is_the_base(
    tiny_base: Path, tiny_config: BaseConfig, tmp_path: Path
) -> None:
    compose(tiny_base, tiny_config, tmp_path / "snapshot")
    composed = load_file(tmp_path / "snapshot" / "model.safetensors")
    base = load_file(tiny_base / "model.safetensors")
    assert all(torch.equal(composed[name], base[name]) for name in base)


LLADA = TRAINING.model_copy(
    update={"target_modules": ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")}
)


@pytest.fixture
def llada_adapter(tiny_llada_base: Path, tiny_llada_config: BaseConfig, tmp_path: Path) -> Path:
    return make_adapter(
        tiny_llada_base, tiny_llada_config, tmp_path / "llada_adapter", seed=1, training=LLADA
    )


def all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for shard in folder.glob("*.safetensors")
        for name, tensor in load_file(shard).items()
    }


def test_a_snapshot_of_llada_answers_as_base_and_adapter_do(
    tiny_llada_base: Path, tiny_llada_config: BaseConfig, llada_adapter: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    compose(tiny_llada_base, tiny_llada_config, tmp_path / "snapshot", llada_adapter)
    snapshot = load_backbone(tmp_path / "snapshot", tiny_llada_config).model
    base = load_backbone(tiny_llada_base, tiny_llada_config).model
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        plain = base(ids).logits
        attached = PeftModel.from_pretrained(base, str(llada_adapter)).eval()
        torch.testing.assert_close(snapshot(ids).logits, attached(ids).logits, atol=1e-4, rtol=1e-4)
        merged: Any = attached.merge_and_unload()
        torch.testing.assert_close(snapshot(ids).logits, merged(ids).logits, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(snapshot(ids).logits, plain, atol=0.1)


def test_a_snapshot_of_llada_is_one_itself(
    tiny_llada_base: Path, tiny_llada_config: BaseConfig, llada_adapter: Path, tmp_path: Path
) -> None:
    compose(tiny_llada_base, tiny_llada_config, tmp_path / "snapshot", llada_adapter)
    base, snapshot = all_tensors(tiny_llada_base), all_tensors(tmp_path / "snapshot")
    assert base.keys() == snapshot.keys()
    changed = {name for name in base if not torch.equal(base[name], snapshot[name])}
    assert changed == {
        f"model.transformer.blocks.{at}.{name}.weight"
        for at in range(2)
        for name in ("q_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
    }
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "snapshot" / name).read_bytes() == (tiny_llada_base / name).read_bytes()


def test_nothing_added_to_llada_is_the_base_byte_for_byte(
    tiny_llada_base: Path, tiny_llada_config: BaseConfig, tmp_path: Path
) -> None:
    compose(tiny_llada_base, tiny_llada_config, tmp_path / "snapshot")
    files = read_manifest(tmp_path / "snapshot")["files"]
    del files["README.md"]  # the card
    assert files == read_manifest(tiny_llada_base)["files"]


@pytest.mark.parametrize(
    ("module", "stored"),
    [("gate_proj", "ff_proj"), ("down_proj", "ff_out"), ("o_proj", "attn_out")],
)
def test_an_update_lands_on_the_tensor_that_llada_calls_otherwise(
    tiny_llada_base: Path, tiny_llada_config: BaseConfig, tmp_path: Path, module: str, stored: str
) -> None:
    training = TRAINING.model_copy(update={"target_modules": (module,)})
    folder = make_adapter(
        tiny_llada_base, tiny_llada_config, tmp_path / "adapter", seed=2, training=training
    )
    factors = load_file(folder / WEIGHTS)
    compose(tiny_llada_base, tiny_llada_config, tmp_path / "snapshot", folder)
    base, snapshot = all_tensors(tiny_llada_base), all_tensors(tmp_path / "snapshot")
    parent = "self_attn" if module == "o_proj" else "mlp"
    for at in range(2):
        key = f"base_model.model.model.layers.{at}.{parent}.{module}"
        delta = 2.0 * factors[f"{key}.lora_B.weight"] @ factors[f"{key}.lora_A.weight"]
        name = f"model.transformer.blocks.{at}.{stored}.weight"
        torch.testing.assert_close(snapshot[name] - base[name], delta, atol=1e-5, rtol=1e-4)


def test_an_adapter_for_another_llada_is_refused(
    tiny_llada_base: Path, tiny_llada_config: BaseConfig, llada_adapter: Path, tmp_path: Path
) -> None:
    change_tensors(
        llada_adapter, lambda ts: {n.replace("layers.1", "layers.9"): t for n, t in ts.items()}
    )
    with pytest.raises(ComposeError, match=r"layers\.9.*which the base has not"):
        compose(tiny_llada_base, tiny_llada_config, tmp_path / "snapshot", llada_adapter)


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


def test_an_adapters_size_is_that_of_what_it_adds(
    tiny_base: Path, tiny_config: BaseConfig, adapter: Path, tmp_path: Path
) -> None:
    compose(tiny_base, tiny_config, tmp_path / "snapshot", adapter)
    before = load_backbone(tiny_base, tiny_config).model.state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "snapshot").state_dict()
    added = sum(
        float((after[name].double() - before[name].double()).square().sum()) for name in after
    )
    assert update_norm(adapter) == pytest.approx(math.sqrt(added), rel=1e-4)
