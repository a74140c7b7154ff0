"""LLaDA as the Llama that it is: its configuration, its tensors' names, its attention.

A LLaDA block (arXiv 2502.09992) is a Llama block without the causal mask, under other names. So a
checkpoint is read into transformers' own Llama, and the code that it brings along is never run.
One difference is left: LLaDA turns queries and keys in fp32, transformers in the model's dtype.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from adapters.errors import ModelSourceError

#: What a Llama block is in LLaDA's words. Each must be said: LLaDA's defaults are others.
BLOCK = {"block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "rope": True}
#: What a Llama has no place for, and the values with which LLaDA does without, too.
DONE_WITHOUT: dict[str, tuple[Any, ...]] = {
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "bias_for_layer_norm": (False, None),
    "block_group_size": (1,),
    "clip_qkv": (None,),
    "include_bias": (False,),
    "include_qkv_bias": (False, None),
    "input_emb_norm": (False,),
    "layer_norm_with_affine": (True,),
    "multi_query_attention": (False, None),
    "quantization_config": (None,),
    "rope_scaling": (None,),
    "scale_logits": (False,),
    "attention_dropout": (0.0,),
    "embedding_dropout": (0.0,),
    "residual_dropout": (0.0,),
}
#: The tensors around the blocks, and those of one block: LLaDA's name -> Llama's.
OUTER_NAMES = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


def llama_config(described: Mapping[str, Any]) -> LlamaConfig:
    """The Llama that a LLaDA's config.json describes.

    Raises ModelSourceError for a value that a Llama cannot express, and for one that is missing.
    """
    _refuse_other_blocks(described)
    width, heads = _whole(described, "d_model"), _whole(described, "n_heads")
    readers = heads if described.get("n_kv_heads") is None else _whole(described, "n_kv_heads")
    vocabulary = _whole(described, "vocab_size")
    if described.get("embedding_size") not in (None, vocabulary):
        raise ModelSourceError(
            f"LLaDA's config.json has vocab_size = {vocabulary}, but embedding_size = "
            f"{described['embedding_size']!r}; they must agree."
        )
    if width % (2 * heads) or heads % readers:
        raise ModelSourceError(
            f"LLaDA's config.json has d_model = {width}, n_heads = {heads} and n_kv_heads = "
            f"{readers}, which cannot be divided into heads."
        )
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=_inner_width(described, width),
        num_hidden_layers=_whole(described, "n_layers"),
        num_attention_heads=heads,
        num_key_value_heads=readers,
        max_position_embeddings=_whole(described, "max_sequence_length"),
        rms_norm_eps=_positive(described, "rms_norm_eps"),
        rope_parameters={"rope_type": "default", "rope_theta": _positive(described, "rope_theta")},
        tie_word_embeddings=_said(described, "weight_tying", bool),
        bos_token_id=None,
        eos_token_id=described.get("eos_token_id"),
        use_cache=False,  # every token looks at every other: nothing computed stays true
    )


def _refuse_other_blocks(described: Mapping[str, Any]) -> None:
    for key, value in BLOCK.items():
        if described.get(key) != value:
            raise ModelSourceError(
                f"LLaDA's config.json has {key} = {described.get(key)!r}; "
                f"only {value!r} can be loaded."
            )
    for key, allowed in DONE_WITHOUT.items():
        if described.get(key, allowed[0]) not in allowed:
            raise ModelSourceError(
                f"LLaDA's config.json has {key} = {described[key]!r}; "
                f"only {allowed[0]!r} can be loaded."
            )


def _inner_width(described: Mapping[str, Any], width: int) -> int:
    if described.get("mlp_hidden_size") is None:
        return width * _whole(described, "mlp_ratio")
    return _whole(described, "mlp_hidden_size")


def _whole(described: Mapping[str, Any], key: str) -> int:
    value = int(_said(described, key, int))
    if value < 1:
        raise ModelSourceError(f"LLaDA's config.json has {key} = {value}; at least 1 is needed.")
    return value


def _positive(described: Mapping[str, Any], key: str) -> float:
    value = float(_said(described, key, (int, float)))
    if not value > 0.0:
        raise ModelSourceError(f"LLaDA's config.json has {key} = {value}; it must be above 0.")
    return value


def _said(described: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    value = described.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ModelSourceError(f"LLaDA's config.json has {key} = {value!r}, which cannot be used.")
    return value


def tensor_names(config: LlamaConfig) -> dict[str, str]:
    """LLaDA's name of every tensor of the model -> Llama's. With tied weights there is no head."""
    outer = {
        f"model.transformer.{name}.weight": f"{llama_name}.weight"
        for name, llama_name in OUTER_NAMES.items()
        if not (config.tie_word_embeddings and llama_name == "lm_head")
    }
    return outer | {
        f"model.transformer.blocks.{at}.{name}.weight": f"model.layers.{at}.{llama_name}.weight"
        for at in range(config.num_hidden_layers)
        for name, llama_name in BLOCK_NAMES.items()
    }


def load_llada(
    folder: Path, described: Mapping[str, Any], dtype: torch.dtype, device: torch.device
) -> LlamaForCausalLM:
    """Read a LLaDA folder into a Llama whose attention looks both ways.

    The weights go to the device one by one, so they are never in memory twice. Raises
    ModelSourceError when one is missing, unknown, there twice or of another shape.
    """
    config = llama_config(described)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to(dtype).to_empty(device=device)  # type: ignore[arg-type]
    # What is computed and not read: the angles, which the line above left empty, and the tie.
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device)
    model.tie_weights()
    look_both_ways(model)
    _fill(model, folder)
    return model


def look_both_ways(model: LlamaForCausalLM) -> None:
    """Take the causal mask out of every layer.

    Without padding transformers makes no mask at all, and a flag says whether that means all tokens
    or those before: the configuration's, and where a call does not pass it on, the layer's own.
    """
    model.config.is_causal = False
    for layer in model.model.layers:
        layer.self_attn.is_causal = False


@torch.no_grad()
def _fill(model: LlamaForCausalLM, folder: Path) -> None:
    parameters = dict(model.named_parameters())
    names = tensor_names(model.config)
    awaited = set(names)
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            for name in tensors.keys():
                if name not in awaited:
                    what = "there twice" if name in names else "no tensor of the model"
                    raise ModelSourceError(f"{shard} holds {name}, which is {what}.")
                parameter, tensor = parameters[names[name]], tensors.get_tensor(name)
                if parameter.shape != tensor.shape:
                    raise ModelSourceError(
                        f"{shard} holds {name} of shape {tuple(tensor.shape)}; config.json says "
                        f"{tuple(parameter.shape)}."
                    )
                parameter.copy_(tensor)
                awaited.remove(name)
    if awaited:
        raise ModelSourceError(
            f"The model in {folder} lacks {len(awaited)} tensors, {min(awaited)} first."
        )
