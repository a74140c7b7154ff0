"""A base model: converted once into a plain safetensors folder, loaded from there ever after.

Safetensors and GGUF are read, pickle never, and code that a checkpoint brings along is never run.
"""

import importlib.util
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from adapters.config import BaseConfig
from adapters.errors import ArtefactError, ConfigurationError, ModelSourceError, UnsafeText
from adapters.llada import llama_config, load_llada, tensor_names
from adapters.store import appearing, copy_plain, verify_and_stamp, write_manifest
from adapters.types import Family

CONTROL_CODES = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if chr(code) not in "\t\n\r"
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SENTINEL = "LOREWRIGHTSENTINEL"  #: stands for the words of a turn while the template is read
#: What a base folder may hold; weights in any other form are refused.
BASE_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model")
#: The `model_type` in config.json that each family is made of.
MODEL_TYPES = {Family.AUTOREGRESSIVE: "llama", Family.DIFFUSION: "llada"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatFrame:
    """What stands around a user's words in the model's own chat template, as token ids."""

    before: tuple[int, ...]  #: up to the user's words, the template's default system turn included
    between: tuple[int, ...]  #: from the user's words to the assistant's
    end: int  #: the token that ends the assistant's turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A loaded model with its tokenizer and chat frame."""

    model: Any  #: a LlamaForCausalLM; its own annotations do not know that it can generate
    tokenizer: PreTrainedTokenizerBase
    frame: ChatFrame
    config: BaseConfig
    control_ids: frozenset[int]  #: ids that plain text must never become
    mask_id: int | None  #: of `base.mask_token`; the diffusion family always has one

    @property
    def family(self) -> Family:
        return self.config.family


def convert_base(config: BaseConfig, folder: Path) -> str:
    """Write the configured base as a plain safetensors folder and return its digest.

    A folder is copied as it is: a LLaDA keeps its own tensor names. Raises ModelSourceError when
    the source is missing, corrupt, of another family or not safetensors, StorageFull when the disk
    fills up.
    """
    if config.gguf_file is not None and config.family is not Family.AUTOREGRESSIVE:
        raise ModelSourceError(
            f"{config.name} is of the {config.family} family, which is not read from GGUF; name a "
            "folder or hub_id with safetensors."
        )
    disable_progress_bar()  # type: ignore[no-untyped-call]
    with appearing(folder) as partial:
        if config.gguf_file is not None:
            _convert_gguf(_gguf_path(config), partial)
        else:
            _copy_folder(_source_folder(config), partial, config.family)
        return write_manifest(partial, kind="base", about={"name": config.name})


def _gguf_path(config: BaseConfig) -> Path:
    if config.package is None:
        path = _source_folder(config) / str(config.gguf_file)
    else:
        spec = importlib.util.find_spec(config.package)  # finds it; its code is not run
        if spec is None or spec.origin is None:
            raise ModelSourceError(
                f"The package {config.package}, which carries {config.name}, is not installed "
                "(`make setup` installs it)."
            )
        path = Path(spec.origin).parent / str(config.gguf_file)
    if not path.is_file():
        raise ModelSourceError(f"The base model's file {path} does not exist.")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise ModelSourceError(f"{path} is not a GGUF file: it begins with {magic!r}.")
    return path


def _source_folder(config: BaseConfig) -> Path:
    if config.hub_id is not None:
        return _from_hub(config.hub_id, str(config.revision))
    folder = Path(str(config.folder))
    if not folder.is_dir():
        raise ModelSourceError(f"The base model's folder {folder} does not exist.")
    return folder


def _from_hub(hub_id: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(BASE_FILES)))
    except (
        Exception
    ) as error:  # the hub's client has a dozen kinds, none of them ours to tell apart
        raise ModelSourceError(
            f"{hub_id} at {revision} could not be fetched from the hub: {error}"
        ) from error


def _convert_gguf(path: Path, folder: Path) -> None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        quantised = LlamaForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
    except Exception as error:  # gguf and transformers raise whatever the broken bytes lead to
        raise ModelSourceError(f"{path} is corrupt or not a Llama: {error}") from error
    # A model read from GGUF refuses to be saved, so its weights go into a fresh one.
    described = quantised.config.to_dict()
    described.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig(**described))
    plain.load_state_dict(quantised.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _copy_folder(source: Path, folder: Path, family: Family) -> None:
    described = _described(source, family)
    if family is Family.DIFFUSION:
        llama_config(described)  # what cannot be loaded is refused here, before anything is trained
    if not list(source.glob("*.safetensors")):
        raise ModelSourceError(f"{source} holds no *.safetensors; other forms are refused.")
    # An `auto_map` stays in config.json: LLaDA's own tools find their code by it. It can do no harm
    # here, where its files are not copied and trust_remote_code is never on.
    for pattern in BASE_FILES:
        for path in source.glob(pattern):
            copy_plain(path, folder / path.name)


def _described(folder: Path, family: Family) -> dict[str, Any]:
    """What a model folder says of itself. Raises ModelSourceError when it is of another family."""
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelSourceError(f"{folder / 'config.json'} cannot be read: {error}.") from error
    if described.get("model_type") != MODEL_TYPES[family]:
        raise ModelSourceError(
            f"{folder} holds a model of type {described.get('model_type')!r}; base.family is "
            f"{family}, which is {MODEL_TYPES[family]!r}."
        )
    return dict(described)


def stored_names(folder: Path, family: Family) -> dict[str, str]:
    """The name of each tensor in a base's files -> its name in the loaded model.

    Empty where they are the same.
    """
    if family is Family.AUTOREGRESSIVE:
        return {}
    return tensor_names(llama_config(_described(folder, family)))


def load_backbone(folder: Path, config: BaseConfig) -> Backbone:
    """Load a base or snapshot folder that was verified before, onto a GPU where there is one.

    Raises ModelSourceError when it cannot be loaded, is of another family than configured or has no
    chat template; ConfigurationError when base.mask_token is no token of it.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]
    described = _described(folder, config.family)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model = LOADERS[config.family](folder, described, DTYPES[config.dtype], device)
        tokenizer = AutoTokenizer.from_pretrained(
            folder, config=model.config, local_files_only=True, trust_remote_code=False
        )
    except ModelSourceError:
        raise
    except Exception as error:  # safetensors, json and transformers each raise their own
        raise ModelSourceError(f"The model in {folder} cannot be loaded: {error}") from error
    if not tokenizer.chat_template:
        raise ModelSourceError(f"The tokenizer in {folder} has no chat template; one is needed.")
    frame = read_frame(tokenizer)
    if not frame.before:
        raise ModelSourceError(
            f"The chat template in {folder} puts nothing before a user's words; a token is needed "
            "there, from which the first word is predicted."
        )
    mask_id = _mask_id(tokenizer, config, described)
    reserved = {*tokenizer.get_added_vocab().values(), *tokenizer.all_special_ids}
    if mask_id is not None and config.family is Family.DIFFUSION:
        reserved.add(mask_id)  # a mask in a question would be answered in place
    model.eval()
    return Backbone(
        model=model,
        tokenizer=tokenizer,
        frame=frame,
        config=config,
        control_ids=frozenset(reserved),
        mask_id=mask_id,
    )


def _load_llama(
    folder: Path, described: dict[str, Any], dtype: torch.dtype, device: torch.device
) -> Any:
    loaded: Any = LlamaForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
    )
    model, report = loaded
    lacking = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if lacking:
        raise ModelSourceError(
            f"The model in {folder} lacks {len(lacking)} tensors, {lacking[0]} first."
        )
    return model.to(device)


#: How each family is loaded: (folder, its config.json, dtype, device) -> a LlamaForCausalLM.
LOADERS: dict[Family, Callable[[Path, dict[str, Any], torch.dtype, torch.device], Any]] = {
    Family.AUTOREGRESSIVE: _load_llama,
    Family.DIFFUSION: load_llada,
}


def _mask_id(
    tokenizer: PreTrainedTokenizerBase, config: BaseConfig, described: dict[str, Any]
) -> int | None:
    """The id of the configured mask token: one token of the vocabulary, and of a LLaDA its own."""
    token = config.mask_token
    if token is None and config.family is Family.AUTOREGRESSIVE:
        return None
    mask_id = None if token is None else tokenizer.get_vocab().get(token)
    if mask_id is None:
        raise ConfigurationError(
            f"base.mask_token ({token!r}) is no token of {config.name}; name one "
            "reserved token of its vocabulary."
        )
    if config.family is Family.DIFFUSION and mask_id != described.get("mask_token_id"):
        raise ConfigurationError(
            f"base.mask_token ({token!r}) is token {mask_id} of {config.name}, but its "
            f"config.json says that it was trained with {described.get('mask_token_id')!r}."
        )
    return mask_id


def read_frame(tokenizer: PreTrainedTokenizerBase) -> ChatFrame:
    """Read the chat template's own text around a user's and an assistant's words."""
    user = {"role": "user", "content": SENTINEL}
    answer = {"role": "assistant", "content": SENTINEL * 2}
    asked = str(tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True))
    answered = str(tokenizer.apply_chat_template([user, answer], tokenize=False))
    before, _, between = asked.partition(SENTINEL)
    after = answered.rpartition(SENTINEL * 2)[2]
    return ChatFrame(
        before=_template_ids(tokenizer, before),
        between=_template_ids(tokenizer, between),
        end=_template_ids(tokenizer, after)[0],
    )


def _template_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The ids of the template's own text, whose control tokens are meant as such."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_text(backbone: Backbone, text: str) -> list[int]:
    """Token ids of a text as plain characters: a control token spelt out in it is not parsed.

    Raises UnsafeText when the tokenizer parses one all the same, or loses characters.
    """
    return list(_encoding(backbone, text)["input_ids"])


def entity_tokens(
    backbone: Backbone, statement: str, name: str | None
) -> tuple[str, frozenset[int]] | None:
    """An entity's name as the statement first has it, and the tokens of all its mentions.

    A mention is a whole word or several, in any case; None when there is none.
    """
    if not name:
        return None
    mentions = list(re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", statement, re.IGNORECASE))
    if not mentions:
        return None
    offsets = _encoding(backbone, statement)["offset_mapping"]
    tokens = frozenset(
        at
        for at, (begin, end) in enumerate(offsets)
        if any(end > mention.start() and begin < mention.end() for mention in mentions)
    )
    return mentions[0].group(), tokens


def token_offsets(backbone: Backbone, text: str) -> list[tuple[int, int]]:
    """Where each token of a text begins and ends, in characters. Raises UnsafeText."""
    return list(_encoding(backbone, text)["offset_mapping"])


def _encoding(backbone: Backbone, text: str) -> Any:
    encoding = backbone.tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    ids = encoding["input_ids"]
    parsed = backbone.control_ids.intersection(ids)
    if parsed:
        raise UnsafeText(f"The tokenizer reads control token {min(parsed)} in a plain text.")
    decoded = backbone.tokenizer.decode(
        ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    if decoded != text:
        raise UnsafeText("The tokenizer cannot give a text back unchanged; it would be mislearned.")
    return encoding


def said_text(backbone: Backbone, ids: Sequence[int]) -> str:
    """What the model said, as a text that can be stored and shown.

    A control code in it is replaced by U+FFFD: PostgreSQL holds no NUL, and a terminal obeys ESC.
    """
    text = str(backbone.tokenizer.decode(list(ids), skip_special_tokens=True))
    return text.translate(CONTROL_CODES).strip()


def verify_base(folder: Path, digest: str) -> None:
    """Raises ModelSourceError when the converted base is not, byte for byte, what it was."""
    try:
        verify_and_stamp(folder, digest=digest)
    except ArtefactError as error:
        raise ModelSourceError(
            f"The base model is damaged: {error} Remove {folder} and run `lorewright init` again."
        ) from error
