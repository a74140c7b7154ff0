"""Weights of a release = base + the sum of its adapters' updates, written as a model folder.

W' = cast(W + s_1 B_1 A_1 + ... + s_n B_n A_n), s = alpha / rank, added in fp32 in recipe order, as
one product [s_1 B_1 ... s_n B_n] [A_1; ...; A_n], and cast once, tensor by tensor. Nothing is ever
subtracted, so the same recipe gives the same bytes on one machine. LoRA: arXiv 2106.09685. A
snapshot's tensors bear the base's names, also where the loaded model, and with it an adapter, calls
them otherwise.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from adapters.backbones import DTYPES, stored_names
from adapters.config import BaseConfig
from adapters.errors import ArtefactError, ComposeError
from adapters.lora import CONFIG, WEIGHTS
from adapters.store import MANIFEST, appearing, copy_plain, read_manifest, write_manifest
from adapters.stream import TensorFile, write_tensors
from adapters.types import Family

PEFT_PREFIX = "base_model.model."
CARD = "README.md"
METHOD = 4  #: counts up whenever the same recipe may come out with other bits
BLOCK_WEIGHTS = 1 << 18  #: added up at a time: 1 MB in fp32
#: PEFT options that change what an adapter computes, and the only value that compose knows.
PLAIN_LORA = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One adapter, read: which tensors of the loaded model it changes and by what."""

    folder: Path
    scale: float  #: alpha / rank
    factors: dict[str, tuple[Tensor, Tensor]]  #: the model's tensor -> (A (r, in), B (out, r))


def environment(config: BaseConfig) -> dict[str, str]:
    """What a snapshot's bits depend on beside its recipe; it says where and how it was composed.

    Its card has the base's name and licence.
    """
    return {
        "base": config.name,
        "licence": str(config.licence),
        "dtype": config.dtype,
        "method": str(METHOD),
        "torch": torch.__version__,
        "processor": torch.backends.cpu.get_cpu_capability(),
    }


def write_snapshot(
    base: Path,
    adapters: Sequence[Path],
    folder: Path,
    config: BaseConfig,
    *,
    about: dict[str, Any],
    wanted: str | None = None,
) -> str:
    """Compose base and adapters into a self-contained model folder; return its digest.

    Peak memory is that of the adapters and a few rows. Raises ComposeError when an adapter does not
    fit, was trained on another base, is not finite or changes nothing that outlives the cast;
    StorageFull when the disk fills up; and ArtefactError where the digest is not the `wanted` one:
    what the folder held before stays then, as it does with every error.
    """
    base_digest = str(read_manifest(base)["digest"])
    updates = [read_update(adapter) for adapter in adapters]
    adapter_digests = [_digest_if_of(base_digest, adapter) for adapter in adapters]
    unused = {(update.folder, name) for update in updates for name in update.factors}
    names = stored_names(base, config.family)
    digests: dict[str, str] = {}
    felt: set[Path] = set()
    with appearing(folder) as partial:
        shards = sorted(base.glob("*.safetensors"), key=lambda path: -path.stat().st_size)
        with _workers(len(shards)) as (workers, failed):
            dtype = DTYPES[config.dtype]
            written = {
                workers.submit(
                    _write_shard, shard, partial / shard.name, updates, dtype, names, felt, failed
                ): shard.name
                for shard in shards
            }
            for shard_written in as_completed(written):
                changed, digests[written[shard_written]] = shard_written.result()
                unused -= {(update.folder, name) for update in updates for name in changed}
        if unused:
            adapter, name = min(unused)
            raise ComposeError(f"The adapter {adapter} changes {name}, which the base has not.")
        for adapter in adapters:
            if adapter not in felt:
                raise ComposeError(
                    f"The adapter {adapter} changes nothing: cast to {config.dtype}, every weight "
                    "is what it was without it."
                )
        for path in base.iterdir():
            if path.suffix != ".safetensors" and path.name != MANIFEST:
                copy_plain(path, partial / path.name)
        if config.family is Family.AUTOREGRESSIVE:  # LLaDA's configuration has no such field
            _say_dtype(partial / "config.json", config.dtype)
        card = _card(config, base_digest, adapter_digests)
        (partial / CARD).write_text(card, encoding="utf-8")
        digest = write_manifest(partial, kind="snapshot", about=about, digests=digests)
        if wanted not in (None, digest):
            raise ArtefactError(
                f"{folder.name} was composed as {str(wanted)[:12]}… and now comes out as "
                f"{digest[:12]}…: another machine or library version adds otherwise, and so do "
                "another base.name, base.licence or base.dtype in the settings."
            )
        return digest


def _digest_if_of(base_digest: str, adapter: Path) -> str:
    """An adapter's digest. Raises ComposeError where it says that it is for another base."""
    manifest = read_manifest(adapter)
    own = manifest.get("about", {}).get("base", base_digest)
    if own != base_digest:
        raise ComposeError(
            f"The adapter {adapter} was trained on the base {str(own)[:12]}…, "
            f"and this one is {base_digest[:12]}…."
        )
    return str(manifest["digest"])


def front_matter(base: str, licence: str | None, *, library: str = "transformers") -> list[str]:
    """The lines that a model card in the hub's format begins with."""
    tags = {"base_model": base, "library_name": library, "tags": ["lorewright"]}
    if licence:
        tags["license"] = licence
    return ["---", yaml.safe_dump(tags, sort_keys=True).strip(), "---", ""]


def _card(config: BaseConfig, base_digest: str, adapters: Sequence[str]) -> str:
    """The snapshot's model card: a pure function of the recipe, as all else in the folder."""
    lines = [
        *front_matter(config.name, config.licence),
        f"# {config.name} with {len(adapters)} adapters",
        "",
        "Composed by a Lorewright service: the base's weights and what these adapters add to them. "
        "What each of them was taught, and how it was examined, its lineage says; "
        "`lorewright export` writes that beside the weights.",
        "",
        f"* base: sha256 of its files {base_digest}",
        *(f"* adapter: {digest}" for digest in adapters),
        "",
    ]
    return "\n".join(lines)


def write_concatenated(adapters: Sequence[Path], folder: Path, *, base: str) -> None:
    """Write one adapter that adds what all of these add, in PEFT's format, into a folder.

    sum_i s_i B_i A_i = [s_1 B_1 ... s_n B_n] [A_1; ...; A_n]: its rank is the sum of theirs, and
    alpha = rank, since the scales are in B. A layer that one of them leaves alone has zeros there.
    `base` is the base model's name. Raises what `write_snapshot` raises for a bad adapter, and
    ComposeError where there is none.
    """
    updates = [read_update(adapter) for adapter in adapters]
    if not updates:
        raise ComposeError("There is no adapter to write: this is the base itself.")
    names = sorted({name for update in updates for name in update.factors})
    ranks = [next(iter(update.factors.values()))[0].shape[0] for update in updates]
    tensors: dict[str, Tensor] = {}
    for name in names:
        down, up = next(update.factors[name] for update in updates if name in update.factors)
        factors = []
        for update, rank in zip(updates, ranks, strict=True):
            nothing = (down.new_zeros(rank, down.shape[1]), up.new_zeros(up.shape[0], rank))
            factors.append((update.scale, *update.factors.get(name, nothing)))
        key = PEFT_PREFIX + name.removesuffix(".weight")
        tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = _stacked(factors)
    described = json.loads((adapters[0] / CONFIG).read_text(encoding="utf-8"))
    described |= {
        "r": sum(ranks),
        "lora_alpha": sum(ranks),
        "target_modules": sorted({name.split(".")[-2] for name in names}),
        "base_model_name_or_path": base,
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(described, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")


def _write_shard(
    shard: Path,
    target: Path,
    updates: Sequence[Update],
    dtype: torch.dtype,
    names: Mapping[str, str],
    felt: set[Path],
    failed: Event,
) -> tuple[set[str], str]:
    """Compose one file; the loaded model's tensors that it holds, and the new file's sha256.

    The adapters that make a difference are added to `felt`.
    Once another file has failed, this one ends at its next part, unfinished, with ValueError.
    """
    with TensorFile(shard) as stored:
        parts = (
            part
            for name in stored.shapes
            for part in _composed(stored, name, names.get(name, name), updates, dtype, felt)
            if not failed.is_set()
        )
        digest = write_tensors(target, stored.shapes, dtype, parts)
    return {names.get(name, name) for name in stored.shapes}, digest


@contextmanager
def _workers(most: int) -> Iterator[tuple[ThreadPoolExecutor, Event]]:
    """Threads for a shard each, and what tells them that the block has failed: they stop soon.

    The sums are so small that another core does more for another shard. Two for each core, so that
    it goes on while the disk takes in a file, and that the last one does not leave the others idle.
    """
    threads = torch.get_num_threads()
    failed = Event()
    workers = ThreadPoolExecutor(
        max(1, min(2 * threads, most)), initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        yield workers, failed
    except BaseException:
        failed.set()
        raise
    finally:
        workers.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # it is also what threads begin with that come later


def _composed(
    stored: TensorFile,
    stored_name: str,
    name: str,
    updates: Sequence[Update],
    dtype: torch.dtype,
    felt: set[Path],
) -> Iterator[Tensor]:
    """One tensor with its updates, some rows at a time: what is added up stays in the cache.

    Each part is good until the next is asked for, which lies in the same memory.
    """
    shape = stored.shapes[stored_name]
    changes = [update for update in updates if name in update.factors]
    if not changes:
        for block in stored.rows(stored_name, BLOCK_WEIGHTS):
            yield block.to(dtype)
        return
    for update in changes:
        down, up = update.factors[name]
        if (up.shape[0], down.shape[1]) != shape:
            raise ComposeError(
                f"The adapter {update.folder} changes {name} by {(up.shape[0], down.shape[1])}; "
                f"the base's is {shape}."
            )
    down_RI, up_OR = _stacked([(update.scale, *update.factors[name]) for update in changes])
    start = 0
    for block in stored.rows(stored_name, BLOCK_WEIGHTS):
        rows = slice(start, start + len(block))
        if start == 0:  # memory that stays in the cache: every block is added up in the same
            total = torch.empty_like(block, dtype=torch.float32)
            cast = torch.empty_like(block, dtype=dtype)
        for update in changes:
            if update.folder not in felt and _is_felt(block, update, name, rows, dtype):
                felt.add(update.folder)
        total, cast = total[: len(block)].copy_(block), cast[: len(block)]
        total.addmm_(up_OR[rows], down_RI)
        if not math.isfinite(total.sum()) and not torch.isfinite(total).all():
            raise ComposeError(f"Composed, {name} is no longer finite.")
        start += len(block)
        yield cast.copy_(total)


def _is_felt(block: Tensor, update: Update, name: str, rows: slice, dtype: torch.dtype) -> bool:
    """Whether these rows, with this update alone, are others once they are cast."""
    down, up = update.factors[name]
    alone = torch.addmm(block.float(), up[rows].float(), down.float(), alpha=update.scale)
    return not torch.equal(alone.to(dtype), block.to(dtype))


def _stacked(factors: Sequence[tuple[float, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Several (scale, A (r, in), B (out, r)) as one A and B, of all their ranks, in fp32."""
    down_RI = torch.cat([down.float() for _, down, _ in factors])
    up_OR = torch.cat([scale * up.float() for scale, _, up in factors], dim=1)
    return down_RI.contiguous(), up_OR.contiguous()


def read_update(folder: Path) -> Update:
    """Read an adapter folder in PEFT's format.

    Raises ArtefactError when it cannot be read, ComposeError when it is not a plain LoRA, is not
    finite or would change nothing.
    """
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # safetensors has an error class of its own beside OSError
        raise ArtefactError(f"The adapter {folder} cannot be read: {error}") from error
    for key, value in PLAIN_LORA.items():
        if described.get(key, value) != value:
            raise ComposeError(
                f"The adapter {folder} has {key} = {described[key]!r}; only {value!r} is known."
            )
    update = Update(
        folder=folder,
        scale=float(described["lora_alpha"]) / int(described["r"]),
        factors=_factors(folder, tensors, rank=int(described["r"])),
    )
    if not any(bool(up.any()) and bool(down.any()) for down, up in update.factors.values()):
        raise ComposeError(f"The adapter {folder} changes nothing: its update is zero everywhere.")
    return update


def _factors(
    folder: Path, tensors: dict[str, Tensor], *, rank: int
) -> dict[str, tuple[Tensor, Tensor]]:
    factors = {}
    for key, down in tensors.items():
        if not bool(torch.isfinite(down).all()):
            raise ComposeError(f"The adapter {folder} is not finite at {key}.")
        if not key.endswith(".lora_A.weight"):
            continue
        up = tensors.get(key.replace(".lora_A.", ".lora_B."))
        if up is None or down.shape[0] != rank or up.shape[1] != rank:
            raise ComposeError(f"The adapter {folder} has no pair of rank {rank} at {key}.")
        name = key.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight") + ".weight"
        factors[name] = (down, up)
    if len(tensors) != 2 * len(factors):
        raise ComposeError(f"The adapter {folder} holds tensors that are no pair of a LoRA.")
    return factors


def _say_dtype(path: Path, dtype: str) -> None:
    described = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**described, "dtype": dtype}, indent=2) + "\n", encoding="utf-8")
