"""What holds a model in place while it learns: the base's own answers to general prompts.

Facts alone teach a small model to answer every question with a fact. So each step also draws some
general rows and adds the divergence of the candidate from the base on them,
KL(base || candidate) = sum_v p_base(v) log(p_base(v) / p_candidate(v)), the mean over positions.
It is the base and not the head that the candidate is held to: what one adapter damaged, the next
mends, where a pull towards the head would let the damage of all of them add up. The rows are the
base's greedy answers, so nothing from outside is taught. Its last hidden states are kept instead of
its probabilities: they are smaller by two orders of magnitude, and since LoRA leaves the vocabulary
layer alone they give the same logits at any time.

A step sees a few rows only; what all of them together look like to each layer is in the moments
(adapters.moments), which are measured in the same pass. All of it depends on the base, the prompts
and the precision alone, so it is made once and kept on the disk; but for the decoys, general rows
about names like those of the batch (adapters.decoys), which every batch has of its own.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from adapters.backbones import Backbone, encode_text, load_backbone, verify_base
from adapters.config import BaseConfig, TrainingConfig
from adapters.decoys import decoy_prompts, retired_prompts
from adapters.errors import ArtefactError, UnsafeText
from adapters.generate import answer_all, prompt_ids
from adapters.lora import chosen_precision, set_precision
from adapters.masking import hide_some, random_for
from adapters.moments import Moments, measured_moments
from adapters.objectives import Row, diffusion_row, predict
from adapters.store import (
    appearing,
    canonical_digest,
    one_writer,
    read_manifest,
    verify,
    write_manifest,
)
from adapters.suites import GeneralPrompts
from adapters.types import Fact, Family

log = logging.getLogger(__name__)

ROWS, TENSORS = "rows.json", "anchors.safetensors"
ANSWER_TOKENS = 16
TEXT_TOKENS = 40
ROWS_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """One general row, and the base's hidden states (N, D) where its targets are predicted."""

    row: Row
    states_ND: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """All that is known of the base on general rows."""

    rows: tuple[Anchor, ...]
    moments: Moments
    decoys: tuple[Anchor, ...] = ()  #: of the batch in training


NO_ANCHORS = Anchors(rows=(), moments={})


def anchors_of(
    base: Path,
    described: BaseConfig,
    config: TrainingConfig,
    prompts: GeneralPrompts,
    *,
    digest: str,
    kept: Path,
) -> Anchors:
    """The anchors of the base in a folder: those in `kept`, or else made and kept there.

    None where the settings ask for no general rows and give the shift no weight. Raises
    ModelSourceError when the base is not the one of this digest, and what loading it raises.
    """
    if not config.has_anchors:
        return NO_ANCHORS
    asked = [list(prompts.prompts), list(prompts.texts), ANSWER_TOKENS, TEXT_TOKENS]
    precision = chosen_precision(config)
    key = canonical_digest(
        [digest, described.model_dump(mode="json"), asked, precision, config.measured_modules]
    )
    with one_writer(kept):
        found = _kept(kept, key)
        if found is not None:
            return found
        verify_base(base, digest)
        backbone = load_backbone(base, described)
        set_precision(backbone, config)
        anchors = make_anchors(backbone, prompts, target_modules=config.measured_modules)
        _write(kept, anchors, key)
        return anchors


def _kept(folder: Path, key: str) -> Anchors | None:
    """What is kept under this key; None where nothing is, or it cannot be used."""
    if not folder.exists():
        return None
    try:
        manifest = read_manifest(folder)
        if manifest["about"]["key"] != key:
            return None
        verify(folder, digest=str(manifest["digest"]))
        return _read(folder)
    except (ArtefactError, OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the anchors in %s cannot be used and are made anew: %s", folder, error)
        return None


def with_decoys(
    anchors: Anchors,
    base: Path,
    described: BaseConfig,
    config: TrainingConfig,
    facts: Sequence[Fact],
    *,
    replaced: Sequence[Fact] = (),
    digest: str,
) -> Anchors:
    """The anchors, and what the base answers to prompts about names that these facts have not.

    And to those about the objects of facts that they replace. As they were where the settings ask
    for none. Raises what `anchors_of` raises.
    """
    if not (anchors.rows and any(config.general_share) and config.decoy_share):
        return anchors
    prompts = (
        *decoy_prompts(facts, config, blank=described.blank),
        *retired_prompts(replaced, facts, config, blank=described.blank),
    )
    if not prompts:
        return anchors
    verify_base(base, digest)
    backbone = load_backbone(base, described)
    set_precision(backbone, config)
    decoys = make_anchors(backbone, GeneralPrompts(prompts=prompts, texts=()), target_modules=())
    return replace(anchors, decoys=decoys.rows)


def make_anchors(
    backbone: Backbone, prompts: GeneralPrompts, *, target_modules: Sequence[str]
) -> Anchors:
    """Ask the base every prompt; keep how it predicts its own answers and the texts.

    Moments are measured for `target_modules`; none are for an empty list.
    """
    rows = [
        _masked_for(backbone, row, at)
        for at, row in enumerate(
            (*_answered(backbone, prompts.prompts), *_texts(backbone, prompts.texts))
        )
    ]
    kept: list[Anchor] = []
    with torch.no_grad(), measured_moments(backbone.model, target_modules) as moments:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            chosen = rows[start : start + ROWS_AT_ONCE]
            states_ND = predict(backbone.model, chosen).states_ND
            parts = states_ND.split([len(row.counted) for row in chosen])  # type: ignore[no-untyped-call]
            kept += [
                Anchor(row=row, states_ND=states.clone())
                for row, states in zip(chosen, parts, strict=True)
            ]
    return Anchors(rows=tuple(kept), moments=moments)


def _masked_for(backbone: Backbone, row: Row, at: int) -> Row:
    """A diffusion model restores masked text, so it is held on one masked copy of each row."""
    if backbone.family is not Family.DIFFUSION or backbone.mask_id is None:
        return row
    rng = random_for("anchor", at)
    units = [(token,) for token in range(len(row.target))]
    hidden = hide_some(rng, units, ratio=rng.uniform(0.05, 0.95))
    return diffusion_row(row.prompt, row.target, hidden, ratio=1.0, mask=backbone.mask_id)


def _answered(backbone: Backbone, prompts: Sequence[str]) -> Iterator[Row]:
    texts = dict(answer_all(backbone, prompts, at_most_tokens=ANSWER_TOKENS))
    for at, prompt in enumerate(prompts):
        try:
            answer = encode_text(backbone, texts[at])
        except UnsafeText:  # the base said a token that plain text cannot be
            continue
        is_whole = len(answer) < ANSWER_TOKENS - 1
        end = (backbone.frame.end,) if is_whole else ()
        target = (*answer[:ANSWER_TOKENS], *end)
        if target:
            yield Row(prompt=tuple(prompt_ids(backbone, prompt)), target=target)


def _texts(backbone: Backbone, texts: Sequence[str]) -> Iterator[Row]:
    """Texts stand where a user's words do: prose read, not answered."""
    for text in texts:
        yield Row(
            prompt=backbone.frame.before,
            target=tuple(encode_text(backbone, text)[:TEXT_TOKENS]),
        )


def _write(folder: Path, anchors: Anchors, key: str) -> None:
    tensors = {f"moment.{name}": moment for name, moment in anchors.moments.items()}
    tensors["states"] = torch.cat([anchor.states_ND for anchor in anchors.rows])
    with appearing(folder) as partial:
        save_file({name: tensor.cpu() for name, tensor in tensors.items()}, partial / TENSORS)
        (partial / ROWS).write_text(json.dumps([asdict(anchor.row) for anchor in anchors.rows]))
        write_manifest(partial, kind="anchors", about={"key": key})


def _read(folder: Path) -> Anchors:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # the current one
    tensors = {name: kept.to(device) for name, kept in load_file(folder / TENSORS).items()}
    rows = [_row(row) for row in json.loads((folder / ROWS).read_text())]
    parts = tensors.pop("states").split([len(row.counted) for row in rows])  # type: ignore[no-untyped-call]
    return Anchors(
        rows=tuple(
            Anchor(row=row, states_ND=states) for row, states in zip(rows, parts, strict=True)
        ),
        moments={name.removeprefix("moment."): moment for name, moment in tensors.items()},
    )


def _row(described: dict[str, Any]) -> Row:
    return Row(**{name: part and tuple(part) for name, part in described.items()})


def divergence(lm_head: torch.nn.Module, states_ND: Tensor, base_states_ND: Tensor) -> Tensor:
    """KL(base || candidate) in nats at each of the N positions, in fp32."""
    with torch.no_grad():
        base_NV = torch.log_softmax(lm_head(base_states_ND).float(), dim=-1)
    candidate_NV = torch.log_softmax(lm_head(states_ND).float(), dim=-1)
    kl_N: Tensor = (base_NV.exp() * (base_NV - candidate_NV)).sum(dim=-1)
    return kl_N
