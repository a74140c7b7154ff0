"""Composing a release, beside copying the same bytes; going back to one, beside its size.

    python -m benchmarks.compose --json                      # a synthetic base of 2.5 GB
    python -m benchmarks.compose --layers 4 --rounds 1       # a small one

The base has random weights in bfloat16 and shards of half a gigabyte, the adapters are of rank 16
on the feed-forward layers. Each round copies the base's files, flushed to the disk, then takes the
copies' digests, and composes the same files with the adapters added, flushed and with their digests
taken. `ratio` is to the copying alone, `ratio_with_digest` to copying and digesting. Each is done
in a process of its own, begins with nothing to be flushed, and what it wrote is removed before the
next: memory that a virtual machine must first get from its host costs whoever writes more than the
writing. Memory is that of the process which composes. `rollback_to_s` is a whole `lorewright
rollback --to` in a state directory with this base and a head that holds the adapters, but for the
start of Python.
"""

import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from adapters.compose import write_snapshot
from adapters.config import BaseConfig
from adapters.lora import CONFIG, WEIGHTS
from adapters.store import copy_plain, file_digests, sync, write_manifest
from benchmarks.measure import described_machine, spread
from benchmarks.trial import arguments
from service import lineage
from service.db import make_engine, upgrade, writing
from service.models import Batch, HeadAction, Refresh
from service.places import Places
from service.rollback import go_back
from service.settings import Settings, load_settings
from service.snapshots import compose_recipe

HIDDEN, INTERMEDIATE, VOCABULARY = 2048, 5632, 32000
SHARD_BYTES = 1 << 29
RANK = 16
PROJECTIONS = {
    "gate_proj": (INTERMEDIATE, HIDDEN),
    "up_proj": (INTERMEDIATE, HIDDEN),
    "down_proj": (HIDDEN, INTERMEDIATE),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--adapters", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: a new one")
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.folder) as nowhere:
        folder = Path(nowhere)
        base_bytes = make_base(folder / "state" / "base", options.layers)
        adapters = [
            make_adapter(folder / f"adapter{at}", options.layers, seed=at)
            for at in range(options.adapters)
        ]
        copied, digested, composed, digests = [], [], [], set()
        peak = 0
        base, target = folder / "state" / "base", folder / "written"
        for _ in range(options.rounds):
            copy_s, digest_s = alone(copy, base, target)
            copied.append(copy_s)
            digested.append(digest_s)
            shutil.rmtree(target)
            seconds, digest, grown = alone(compose, base, adapters, target)
            composed.append(seconds)
            digests.add(digest)
            peak = max(peak, grown)
            shutil.rmtree(target)
        found = {
            "bytes": base_bytes,
            "copy_s": spread(copied),
            "compose_s": spread(composed),
            "digest_s": spread(digested),
            "ratio": median(ratios(composed, copied)),
            "ratio_spread": spread(ratios(composed, copied)),
            "ratio_with_digest": spread(
                ratios(composed, [sum(both) for both in zip(copied, digested, strict=True)])
            ),
            "identical": len(digests) == 1,
            "peak_bytes_over_output": peak,
        }
        times = back(options.config, folder / "state", adapters)
        found |= {"rollback_to_s": times["median"], "rollback_to_spread": times}
    print(found)
    if options.json:
        print(json.dumps({**described_machine(), **found}))


def make_base(folder: Path, layers: int) -> int:
    """A Llama of random weights in shards, as a folder; how many bytes its tensors have."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{at}.mlp.{name}.weight": shape for name, shape in PROJECTIONS.items()}
    shapes["lm_head.weight"] = (VOCABULARY, HIDDEN)
    shard: dict[str, torch.Tensor] = {}
    shards = total = 0
    for name, shape in shapes.items():
        shard[name] = torch.randn(shape, dtype=torch.bfloat16)
        total += shard[name].nbytes
        if sum(t.nbytes for t in shard.values()) >= SHARD_BYTES or name == "lm_head.weight":
            shards += 1
            save_file(shard, folder / f"model-{shards:05d}.safetensors", metadata={"format": "pt"})
            shard = {}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    write_manifest(folder, kind="base", about={})
    return total


def make_adapter(folder: Path, layers: int, *, seed: int) -> Path:
    """An adapter of random weights in PEFT's format."""
    folder.mkdir()
    torch.manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for name, (out, into) in PROJECTIONS.items():
            key = f"base_model.model.model.layers.{layer}.mlp.{name}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(RANK, into)
            tensors[f"{key}.lora_B.weight"] = torch.randn(out, RANK) / 100
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    described = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK}
    (folder / CONFIG).write_text(json.dumps(described))
    write_manifest(folder, kind="adapter", about={})
    return folder


def ratios(ours: list[float], peers: list[float]) -> list[float]:
    return [own / peer for own, peer in zip(ours, peers, strict=True)]


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def alone(work: Callable[..., Any], *arguments: object) -> Any:
    """What it returns in a process that does nothing else, with nothing that waits for the disk."""
    os.sync()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def copy(source: Path, target: Path) -> tuple[float, float]:
    """Seconds of the copying, and of the copies' digests."""

    def copied() -> None:
        for path in source.iterdir():
            copy_plain(path, target / path.name)
            sync(target / path.name)
        sync(target)

    return timed(copied), timed(lambda: file_digests(target))


def compose(base: Path, adapters: list[Path], folder: Path) -> tuple[float, str, int]:
    """Seconds, digest, and by how many bytes this process grew."""
    before = peak_bytes()
    config = BaseConfig(name="synthetic", folder=base, dtype="bfloat16")
    began = time.monotonic()
    digest = write_snapshot(base, adapters, folder, config, about={})
    return time.monotonic() - began, digest, peak_bytes() - before


def peak_bytes() -> int:
    """Of this process; what getrusage says begins with what its parent had come to."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def back(config: Path, state_dir: Path, adapters: list[Path]) -> dict[str, float]:
    """Seconds from a head with all adapters back to the one with all but the last, and forth."""
    settings = load_settings(config)
    base = settings.base.model_copy(update={"dtype": "bfloat16"})
    settings = settings.model_copy(update={"state_dir": state_dir, "base": base})
    upgrade(settings.url)
    engine = make_engine(settings.url)
    releases = released(settings, engine, adapters)
    times = []
    for release in (releases[-2], releases[-1], releases[-2]):
        began = time.monotonic()
        go_back(settings, engine, release, by="benchmark", reason="benchmark")
        times.append(time.monotonic() - began)
    engine.dispose()
    return spread(times)


def released(settings: Settings, engine: Any, adapters: list[Path]) -> list[int]:
    """A release for each adapter added, the last one the head."""
    now = datetime.now(UTC)
    places = Places(settings.state_dir)
    base_digest = json.loads((places.base / "manifest.json").read_text())["digest"]
    with writing(engine) as session:
        releases = [
            lineage.make_first_release(session, base_digest=base_digest, by="benchmark", now=now)
        ]
    for at, folder in enumerate(adapters, start=1):
        digest = json.loads((folder / "manifest.json").read_text())["digest"]
        places.adapter(digest).parent.mkdir(exist_ok=True)
        folder.rename(places.adapter(digest))
        with writing(engine) as session:
            head = lineage.read_head(session)
            refresh = Refresh(
                started_at=now,
                lease_token=0,
                trained_on=head.release_id,
                phase="ended",
                step=0,
                steps=0,
                timings={},
            )
            session.add(refresh)
            session.flush()
            batch = Batch(refresh_id=refresh.id, created_at=now)
            session.add(batch)
            session.flush()
            adapter_id = lineage.record_adapter(
                session,
                refresh_id=refresh.id,
                batch_id=batch.id,
                trained_on=head.release_id,
                digest=digest,
                base_digest=base_digest,
                about={},
                now=now,
            )
            recipe = head.recipe.with_adapter(adapter_id, digest)
        snapshot = compose_recipe(settings, recipe)
        with writing(engine) as session:
            release = lineage.release_with(session, recipe, snapshot_digest=snapshot, now=now)
            releases.append(release.id)
            lineage.move_head(
                session,
                release.id,
                expected_seq=at,
                action=HeadAction.PROMOTION,
                by="benchmark",
                reason="benchmark",
                now=now,
            )
    return releases


if __name__ == "__main__":
    main()
