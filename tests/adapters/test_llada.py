"""LLaDA read natively: names, configuration, attention, and every number that comes out."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from adapters.backbones import Backbone, convert_base, load_backbone
from adapters.config import BaseConfig
from adapters.errors import ConfigurationError, ModelSourceError
from adapters.llada import llama_config, look_both_ways, tensor_names
from adapters.types import Family

IDS = torch.tensor([[5, 80, 3, 210, 3, 3, 17, 140, 9, 66, 2, 31]])
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def read(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / SHARDS[0]) | load_file(folder / SHARDS[1])


def describe(folder: Path, **changes: object) -> None:
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, **changes}))


@pytest.fixture
def copied(tiny_llada_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny LLaDA to break."""
    return Path(shutil.copytree(tiny_llada_folder, tmp_path / "copied"))


def logits(model: Any, ids_BT: Tensor = IDS, **more: Any) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(ids_BT, **more).logits)


# LLaDA's forward pass, from the mathematics.


def normed(x_TD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return x_TD / (x_TD.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight_D


def turned(x_HTK: Tensor, theta: float) -> Tensor:
    """Channels k and k + K/2 as a plane, turned by position times theta ** (-2k / K)."""
    length, half = x_HTK.shape[1], x_HTK.shape[2] // 2
    speed_K = torch.tensor([theta ** (-at / half) for at in range(half)])
    angle_TK = torch.arange(length)[:, None] * speed_K
    x, y = x_HTK[..., :half], x_HTK[..., half:]
    cos, sin = angle_TK.cos(), angle_TK.sin()
    return torch.cat([x * cos - y * sin, y * cos + x * sin], dim=-1)


def reference_logits(tensors: dict[str, Tensor], told: dict[str, Any], ids_T: Tensor) -> Tensor:
    """One row; every token attends to every other."""
    w = {name.removeprefix("model.transformer."): weight for name, weight in tensors.items()}
    heads, readers, eps = told["n_heads"], told["n_kv_heads"], told["rms_norm_eps"]

    def split(x_TD: Tensor, count: int) -> Tensor:
        return x_TD.view(len(x_TD), count, -1).transpose(0, 1)

    x_TD = w["wte.weight"][ids_T]
    for at in range(told["n_layers"]):
        b = {name: w[f"blocks.{at}.{name}.weight"] for name in BLOCK}
        h_TD = normed(x_TD, b["attn_norm"], eps)
        q_HTK = turned(split(h_TD @ b["q_proj"].T, heads), told["rope_theta"])
        k_HTK = turned(split(h_TD @ b["k_proj"].T, readers), told["rope_theta"])
        v_HTK = split(h_TD @ b["v_proj"].T, readers)
        shared = [head * readers // heads for head in range(heads)]
        score_HTT = q_HTK @ k_HTK[shared].transpose(1, 2) / math.sqrt(q_HTK.shape[-1])
        seen_HTK = score_HTT.softmax(-1) @ v_HTK[shared]
        x_TD = x_TD + seen_HTK.transpose(0, 1).flatten(1) @ b["attn_out"].T
        h_TD = normed(x_TD, b["ff_norm"], eps)
        gated_TM = F.silu(h_TD @ b["ff_proj"].T) * (h_TD @ b["up_proj"].T)
        x_TD = x_TD + gated_TM @ b["ff_out"].T
    return normed(x_TD, w["ln_f.weight"], eps) @ w["ff_out.weight"].T


BLOCK = (
    *("attn_norm", "q_proj", "k_proj", "v_proj", "attn_out"),
    *("ff_norm", "ff_proj", "up_proj", "ff_out"),
)


@pytest.fixture(scope="module")
def expected(tiny_llada_folder: Path) -> Tensor:
    told = json.loads((tiny_llada_folder / "config.json").read_text())
    return reference_logits(read(tiny_llada_folder), told, IDS[0])[None]


def agree(found_BTV: Tensor, expected_BTV: Tensor) -> bool:
    return torch.allclose(found_BTV, expected_BTV, atol=1e-5, rtol=1e-5)


def test_the_logits_are_those_of_llada(tiny_llada: Backbone, expected: Tensor) -> None:
    torch.testing.assert_close(logits(tiny_llada.model), expected, atol=1e-5, rtol=1e-5)


def leave_it_causal(model: Any) -> None:
    model.config.is_causal = True


def swap_gate_and_up(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp.gate_proj, layer.mlp.up_proj = layer.mlp.up_proj, layer.mlp.gate_proj


def forget_theta(model: Any) -> None:
    model.model.rotary_emb.inv_freq = 10000.0 ** (-torch.arange(4) / 4)


def empty_the_angles(model: Any) -> None:
    model.model.rotary_emb.inv_freq.zero_()


def turn_the_heads(model: Any) -> None:
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data = layer.self_attn.q_proj.weight.data.roll(8, 0)


@pytest.mark.parametrize(
    "sabotage",
    [leave_it_causal, swap_gate_and_up, forget_theta, empty_the_angles, turn_the_heads],
)
def test_that_comparison_finds_every_mistake(
    tiny_llada: Backbone, expected: Tensor, sabotage: Callable[[Any], None]
) -> None:
    sabotage(tiny_llada.model)
    assert not agree(logits(tiny_llada.model), expected)


def test_logits_shifted_by_one_are_not_those_of_llada(
    tiny_llada: Backbone, expected: Tensor
) -> None:
    assert not agree(logits(tiny_llada.model)[:, :-1], expected[:, 1:])


PADDED = torch.cat([IDS, torch.full((1, 5), 2)], dim=1)
MASK = torch.cat([torch.ones_like(IDS), torch.zeros(1, 5, dtype=torch.long)], dim=1)


def test_padding_on_either_side_changes_nothing(tiny_llada: Backbone, expected: Tensor) -> None:
    right = logits(tiny_llada.model, PADDED, attention_mask=MASK)[:, :12]
    torch.testing.assert_close(right, expected, atol=1e-5, rtol=1e-5)
    left = logits(tiny_llada.model, PADDED.roll(5, 1), attention_mask=MASK.roll(5, 1))[:, 5:]
    torch.testing.assert_close(left, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sabotage", [leave_it_causal, None])
def test_padding_without_its_mask_or_with_a_causal_one_would_show(
    tiny_llada: Backbone, expected: Tensor, sabotage: Callable[[Any], None] | None
) -> None:
    if sabotage is None:
        found = logits(tiny_llada.model, PADDED)
    else:
        sabotage(tiny_llada.model)
        found = logits(tiny_llada.model, PADDED, attention_mask=MASK)
    assert not agree(found[:, :12], expected)


def attend_in_one_layer(model: Any) -> Tensor:
    """A layer called on its own, where the configuration's flag is not passed on."""
    layer, x_BTD = model.model.layers[0], model.model.embed_tokens(IDS)
    angles = model.model.rotary_emb(x_BTD, torch.arange(IDS.shape[1])[None])
    with torch.no_grad():
        return torch.as_tensor(layer(x_BTD, position_embeddings=angles))


def test_both_flags_of_the_causal_mask_are_taken_out(tiny_llada: Backbone) -> None:
    model = tiny_llada.model
    assert model.config.is_causal is False
    free = attend_in_one_layer(model)
    for layer in model.model.layers:
        layer.self_attn.is_causal = True
    assert not agree(attend_in_one_layer(model)[:, 0], free[:, 0])
    look_both_ways(model)
    assert agree(attend_in_one_layer(model), free)


def test_a_mask_over_pairs_is_taken_as_it_is(tiny_llada: Backbone, expected: Tensor) -> None:
    """Two rows packed into one, neither seeing the other, are those rows."""
    ids_BT = torch.cat([IDS, IDS[:, :7]], dim=1)
    row_T = torch.tensor([0] * 12 + [1] * 7)
    found = logits(
        tiny_llada.model,
        ids_BT,
        attention_mask=(row_T[:, None] == row_T)[None, None],
        position_ids=torch.cat([torch.arange(12), torch.arange(7)])[None],
    )
    alone = logits(tiny_llada.model, IDS[:, :7])
    torch.testing.assert_close(found[:, :12], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, 12:], alone, atol=1e-5, rtol=1e-5)
    causal = torch.ones(19, 19, dtype=torch.bool).tril()[None, None]
    assert not agree(logits(tiny_llada.model, ids_BT, attention_mask=causal)[:, :12], expected)


def test_the_real_models_tensors_all_have_their_place(
    real_llada: tuple[dict[str, Any], dict[str, tuple[int, ...]]],
) -> None:
    described, shapes = real_llada
    config = llama_config(described)
    with torch.device("meta"):
        parameters = dict(LlamaForCausalLM(config).named_parameters())
    names = tensor_names(config)
    assert set(names) == set(shapes)
    assert sorted(names.values()) == sorted(parameters)
    assert {name: tuple(parameters[own].shape) for name, own in names.items()} == shapes
    assert sum(parameter.numel() for parameter in parameters.values()) == 8_015_581_184


def test_gate_down_and_head_are_not_mixed_up(
    real_llada: tuple[dict[str, Any], dict[str, tuple[int, ...]]],
) -> None:
    names = tensor_names(llama_config(real_llada[0]))
    named = {own: name.removeprefix("model.transformer.") for name, own in names.items()}
    assert named["model.layers.31.mlp.gate_proj.weight"] == "blocks.31.ff_proj.weight"
    assert named["model.layers.31.mlp.up_proj.weight"] == "blocks.31.up_proj.weight"
    assert named["model.layers.31.mlp.down_proj.weight"] == "blocks.31.ff_out.weight"
    assert named["model.layers.31.self_attn.o_proj.weight"] == "blocks.31.attn_out.weight"
    assert named["lm_head.weight"] == "ff_out.weight"


def test_the_base_is_kept_as_it_came_but_for_its_code(
    copied: Path, tmp_path: Path, tiny_llada_config: BaseConfig
) -> None:
    (copied / "modeling_llada.py").write_text("raise SystemExit('this must never be run')")
    convert_base(tiny_llada_config.model_copy(update={"folder": copied}), tmp_path / "base")
    assert not list((tmp_path / "base").rglob("*.py"))
    for name in (*SHARDS, "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "base" / name).read_bytes() == (copied / name).read_bytes()
    load_backbone(tmp_path / "base", tiny_llada_config)


def test_code_in_the_folder_is_not_run(copied: Path, tiny_llada_config: BaseConfig) -> None:
    (copied / "modeling_llada.py").write_text("raise SystemExit('this must never be run')")
    describe(copied, auto_map={"AutoConfig": "modeling_llada.X", "AutoModel": "modeling_llada.X"})
    load_backbone(copied, tiny_llada_config)


def test_every_weight_arrives_in_the_configured_type_and_nothing_stays_empty(
    tiny_llada_folder: Path, tiny_llada_config: BaseConfig
) -> None:
    half = tiny_llada_config.model_copy(update={"dtype": "bfloat16"})
    model = load_backbone(tiny_llada_folder, half).model
    own = model.state_dict()
    names = tensor_names(model.config)
    for name, tensor in read(tiny_llada_folder).items():
        assert torch.equal(own[names[name]], tensor.bfloat16())
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    turning = model.model.rotary_emb.inv_freq
    assert turning.dtype == torch.float32
    torch.testing.assert_close(turning, 500000.0 ** (-torch.arange(4) / 4))


def test_tied_weights_are_one_tensor(
    copied: Path, tiny_llada_config: BaseConfig, expected: Tensor
) -> None:
    tensors = read(copied)
    told = json.loads((copied / "config.json").read_text())
    head = tensors.pop("model.transformer.ff_out.weight")
    (copied / SHARDS[1]).unlink()
    save_file(tensors, copied / SHARDS[0])
    with pytest.raises(ModelSourceError, match=r"lacks 1 tensors, model\.transformer\.ff_out"):
        load_backbone(copied, tiny_llada_config)
    describe(copied, weight_tying=True)
    model = load_backbone(copied, tiny_llada_config).model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tied = {**tensors, "model.transformer.ff_out.weight": tensors["model.transformer.wte.weight"]}
    torch.testing.assert_close(
        logits(model)[0], reference_logits(tied, told, IDS[0]), atol=1e-5, rtol=1e-5
    )
    save_file({**tensors, "model.transformer.ff_out.weight": head}, copied / SHARDS[0])
    with pytest.raises(ModelSourceError, match="no tensor of the model"):
        load_backbone(copied, tiny_llada_config)


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


Q_PROJ = "model.transformer.blocks.1.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(Q_PROJ), r"lacks 1 tensors, model\.transformer\.blocks\.1\.q_proj"),
        (lambda tensors: {**tensors, Q_PROJ: torch.ones(32, 16)}, r"shape \(32, 16\)"),
        (lambda tensors: {**tensors, "model.x": torch.ones(1)}, r"model\.x, which is no tensor"),
    ],
)
def test_a_tensor_missing_misshaped_or_unknown_is_named(
    copied: Path, tiny_llada_config: BaseConfig, change: Any, message: str
) -> None:
    tensors = read(copied)
    (copied / SHARDS[1]).unlink()
    save_file(change(tensors), copied / SHARDS[0])
    with pytest.raises(ModelSourceError, match=message):
        load_backbone(copied, tiny_llada_config)


def test_a_tensor_that_is_there_twice_is_named(copied: Path, tiny_llada_config: BaseConfig) -> None:
    shutil.copy(copied / SHARDS[0], copied / "model.safetensors")
    with pytest.raises(ModelSourceError, match="there twice"):
        load_backbone(copied, tiny_llada_config)


def test_a_truncated_file_is_refused(copied: Path, tiny_llada_config: BaseConfig) -> None:
    weights = copied / SHARDS[0]
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelSourceError, match="cannot be loaded"):
        load_backbone(copied, tiny_llada_config)


def test_a_folder_with_pickles_alone_is_refused(
    copied: Path, tmp_path: Path, tiny_llada_config: BaseConfig
) -> None:
    for at, name in enumerate(SHARDS):
        (copied / name).rename(copied / f"pytorch_model-{at}.bin")
    with pytest.raises(ModelSourceError, match=r"no \*\.safetensors"):
        convert_base(tiny_llada_config.model_copy(update={"folder": copied}), tmp_path / "base")


@pytest.mark.parametrize(
    "changes",
    [
        {"block_type": "sequential"},
        {"activation_type": "swiglu"},
        {"layer_norm_type": "default"},
        {"rope": False},
        {"alibi": True},
        {"attention_layer_norm": True},
        {"bias_for_layer_norm": True},
        {"block_group_size": 2},
        {"clip_qkv": 8.0},
        {"include_bias": True},
        {"include_qkv_bias": True},
        {"input_emb_norm": True},
        {"layer_norm_with_affine": False},
        {"multi_query_attention": True},
        {"quantization_config": {"bits": 4}},
        {"rope_scaling": {"type": "linear"}},
        {"scale_logits": True},
        {"residual_dropout": 0.1},
        {"embedding_size": 126592},
        {"d_model": 4100},
        {"n_kv_heads": 5},
        {"n_layers": 0},
        {"n_layers": "many"},
        {"rope_theta": None},
        {"rms_norm_eps": 0.0},
        {"weight_tying": None},
        {"vocab_size": True},
    ],
    ids=str,
)
def test_a_configuration_that_no_llama_has_is_refused(
    real_llada: tuple[dict[str, Any], dict[str, tuple[int, ...]]], changes: dict[str, Any]
) -> None:
    described = {**real_llada[0], **changes}
    with pytest.raises(
        ModelSourceError, match=r"LLaDA's config\.json has .*" + next(iter(changes))
    ):
        llama_config(described)


def test_a_configuration_that_leaves_out_what_llada_decides_otherwise_is_refused(
    real_llada: tuple[dict[str, Any], dict[str, tuple[int, ...]]],
) -> None:
    for key in ("block_type", "activation_type", "layer_norm_type", "rope", "weight_tying"):
        with pytest.raises(ModelSourceError, match=key):
            llama_config(without(key)(real_llada[0]))


def test_what_may_be_left_out_has_lladas_own_default(
    real_llada: tuple[dict[str, Any], dict[str, tuple[int, ...]]],
) -> None:
    described = {
        **real_llada[0],
        "embedding_size": None,
        "n_kv_heads": None,
        "mlp_hidden_size": None,
    }
    config = llama_config(described)
    assert config.num_key_value_heads == 32
    assert config.intermediate_size == 4 * 4096


def test_a_configuration_is_refused_before_anything_is_copied(
    copied: Path, tmp_path: Path, tiny_llada_config: BaseConfig
) -> None:
    describe(copied, alibi=True)
    with pytest.raises(ModelSourceError, match="alibi"):
        convert_base(tiny_llada_config.model_copy(update={"folder": copied}), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_the_mask_token_is_the_one_that_the_model_was_trained_with(
    tiny_llada: Backbone, tiny_llada_base: Path, tiny_llada_config: BaseConfig
) -> None:
    assert tiny_llada.mask_id == tiny_llada.tokenizer.convert_tokens_to_ids("<|mdm_mask|>")
    assert tiny_llada.mask_id in tiny_llada.control_ids
    assert tiny_llada.family is Family.DIFFUSION
    for token, message in [
        (None, "no token of"),
        ("<mask>", "no token of"),
        ("<|endoftext|>", "trained with"),
    ]:
        config = tiny_llada_config.model_copy(update={"mask_token": token})
        with pytest.raises(ConfigurationError, match=message):
            load_backbone(tiny_llada_base, config)
