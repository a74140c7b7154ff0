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
from itertools import groupby, islice

import torch
from torch import Tensor

from adapters.backbones import Backbone, encode_text
from adapters.generate import answer_all, prompt_ids
from adapters.moments import Moments, measured_moments
from adapters.objectives import Row, target_states
from adapters.suites import GeneralPrompts

ANSWER_TOKENS = 16
TEXT_TOKENS = 40
ROWS_AT_ONCE = 16


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
    rows = [*_answered(backbone, prompts.prompts), *_texts(backbone, prompts.texts)]
    kept: list[Anchor] = []
    with torch.no_grad(), measured_moments(backbone.model, target_modules) as moments:
        for chosen in _of_one_length(rows):
            states_ND, _ = target_states(backbone.model, chosen, prefix=backbone.frame.before)
            parts = states_ND.split([len(row.target) for row in chosen])  # type: ignore[no-untyped-call]
            kept += [
                Anchor(row=row, states_ND=states.clone())
                for row, states in zip(chosen, parts, strict=True)
            ]
    return Anchors(rows=tuple(kept), moments=moments)


def _of_one_length(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Rows of equal length, a few at a time: nothing is padded, so every token counts."""

    def length(row: Row) -> int:
        return len(row.prompt) + len(row.target)

    for _, group in groupby(sorted(rows, key=length), key=length):
        while chosen := list(islice(group, ROWS_AT_ONCE)):
            yield chosen


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
    """KL(head || candidate) in nats, the mean over the N positions."""
    with torch.no_grad():
        head_NV = torch.log_softmax(lm_head(head_states_ND).float(), dim=-1)
    candidate_NV = torch.log_softmax(lm_head(states_ND).float(), dim=-1)
    kl: Tensor = (head_NV.exp() * (head_NV - candidate_NV)).sum(dim=-1).mean()
    return kl
