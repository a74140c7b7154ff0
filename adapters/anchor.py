"""What holds a model in place while it learns: its own answers to general prompts.

Facts alone teach a small model to answer every question with a fact. So each step also draws some
general rows and adds the divergence of the candidate from the head on them,
KL(head || candidate) = sum_v p_head(v) log(p_head(v) / p_candidate(v)), the mean over positions.
The rows are the head's own greedy answers, so nothing from outside is taught. The head's last
hidden states are kept instead of its probabilities: they are smaller by two orders of magnitude,
and since LoRA leaves the vocabulary layer alone they give the same logits at any time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.backbones import Backbone, encode_text
from adapters.generate import answer_all, prompt_ids
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


def make_anchors(backbone: Backbone, prompts: GeneralPrompts) -> list[Anchor]:
    """Ask the head every prompt and keep how it predicts its own answers, and the texts."""
    rows = [*_answered(backbone, prompts.prompts), *_texts(backbone, prompts.texts)]
    anchors = []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        chosen = rows[start : start + ROWS_AT_ONCE]
        with torch.no_grad():
            states_ND, _ = target_states(backbone.model, chosen, prefix=backbone.frame.before)
        lengths = [len(row.target) for row in chosen]
        parts = states_ND.split(lengths)  # type: ignore[no-untyped-call]
        for row, states in zip(chosen, parts, strict=True):
            anchors.append(Anchor(row=row, states_ND=states.clone()))
    return anchors


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
