"""What holds a model in place while it learns: its own answers to general prompts.

Facts alone teach a small model to answer every question with a fact. So each step also draws some
general rows and adds the divergence of the candidate from the head on them,
KL(head || candidate) = sum_v p_head(v) log(p_head(v) / p_candidate(v)), the mean over positions.
The rows are the head's own greedy answers, so nothing from outside is taught. The head's last
hidden states are kept instead of its probabilities: they are smaller by two orders of magnitude,
and since LoRA leaves the vocabulary layer alone they give the same logits at any time.

A step sees a few rows only; what all of them together look like to each layer is in the moments
(adapters.moments), which are measured in the same pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.backbones import Backbone, encode_text
from adapters.generate import answer_all, prompt_ids
from adapters.masking import hide_some, random_for
from adapters.moments import Moments, measured_moments
from adapters.objectives import Row, diffusion_row, predict
from adapters.suites import GeneralPrompts
from adapters.types import Family

ANSWER_TOKENS = 16
TEXT_TOKENS = 40
ROWS_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """One general row, and the head's hidden states (N, D) where its targets are predicted."""

    row: Row
    states_ND: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """All that is known of the head on general rows."""

    rows: tuple[Anchor, ...]
    moments: Moments


NO_ANCHORS = Anchors(rows=(), moments={})


def make_anchors(
    backbone: Backbone, prompts: GeneralPrompts, *, target_modules: Sequence[str]
) -> Anchors:
    """Ask the head every prompt; keep how it predicts its own answers and the texts.

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
        answer = encode_text(backbone, texts[at])
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


def divergence(lm_head: torch.nn.Module, states_ND: Tensor, head_states_ND: Tensor) -> Tensor:
    """KL(head || candidate) in nats at each of the N positions, in fp32."""
    with torch.no_grad():
        head_NV = torch.log_softmax(lm_head(head_states_ND).float(), dim=-1)
    candidate_NV = torch.log_softmax(lm_head(states_ND).float(), dim=-1)
    kl_N: Tensor = (head_NV.exp() * (head_NV - candidate_NV)).sum(dim=-1)
    return kl_N
