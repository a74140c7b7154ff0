"""Answers without chance, many questions at a time: greedy ones, or a diffusion model's."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from transformers import DynamicCache

from adapters.backbones import Backbone, encode_text, said_text
from adapters.denoise import denoise
from adapters.types import Family

#: Answers that have ended are taken out of a minibatch when no more than this share goes on.
KEPT_FULL = 0.8

IsSettled = Callable[[int, str], bool]  #: (index of the question, answer so far)


def _never_settled(_: int, __: str) -> bool:
    return False


def _of_chosen(is_settled: IsSettled, chosen: Sequence[int], at: int, text: str) -> bool:
    return is_settled(chosen[at], text)


def prompt_ids(backbone: Backbone, question: str) -> list[int]:
    """The question as the user's turn of the model's own chat template."""
    plain = encode_text(backbone, question)
    return [*backbone.frame.before, *plain, *backbone.frame.between]


def answer_all(
    backbone: Backbone,
    questions: Sequence[str],
    *,
    at_most_tokens: int,
    minibatch: int = 128,
    is_settled: IsSettled = _never_settled,
) -> Iterator[tuple[int, str]]:
    """Yield (index of the question, answer), the longest questions first.

    An answer of which `is_settled` says so may end there: whoever asks needs no more of it.

    Padding is masked and never counted as a position, so an answer depends on its own question
    alone (up to floating-point ties).
    """
    prompts = [prompt_ids(backbone, question) for question in questions]
    by_length = sorted(range(len(prompts)), key=lambda at: -len(prompts[at]))
    for start in range(0, len(by_length), minibatch):
        chosen = by_length[start : start + minibatch]
        texts = DECODERS[backbone.family](
            backbone,
            [prompts[at] for at in chosen],
            at_most_tokens=at_most_tokens,
            is_settled=partial(_of_chosen, is_settled, chosen),
        )
        yield from zip(chosen, texts, strict=True)


@torch.inference_mode()
def _greedy(
    backbone: Backbone, prompts: list[list[int]], *, at_most_tokens: int, is_settled: IsSettled
) -> list[str]:
    """The likeliest token each time, until the turn ends or the answer is full.

    The template's own opening is read once for all prompts; what differs stands behind it, padded
    on the left. Answers that have ended are taken out together, since that copies the cache.
    """
    end = backbone.frame.end
    cache, mask_BT, token_B = _read_prompts(backbone, prompts)
    position_B = mask_BT.sum(dim=-1)
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which prompt's answer each row of the minibatch is
    going = set(rows)
    for length in range(1, at_most_tokens + 1):
        for row, token in zip(rows, token_B.tolist(), strict=True):
            if row not in going:
                continue
            if token != end:
                answers[row].append(token)
            if token == end or is_settled(row, said_text(backbone, answers[row])):
                going.remove(row)
        if not going or length == at_most_tokens:
            break
        if len(going) <= KEPT_FULL * len(rows):
            kept = [at for at, row in enumerate(rows) if row in going]
            rows, chosen = [rows[at] for at in kept], torch.tensor(kept, device=token_B.device)
            cache.batch_select_indices(chosen)
            mask_BT, token_B, position_B = mask_BT[chosen], token_B[chosen], position_B[chosen]
        mask_BT = torch.cat([mask_BT, torch.ones_like(mask_BT[:, :1])], dim=1)
        states_BTD = backbone.model.model(
            input_ids=token_B[:, None],
            attention_mask=mask_BT,
            position_ids=position_B[:, None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        token_B = backbone.model.lm_head(states_BTD[:, -1]).argmax(dim=-1)
        position_B = position_B + 1
    return [said_text(backbone, answer) for answer in answers]


def _read_prompts(
    backbone: Backbone, prompts: list[list[int]]
) -> tuple[DynamicCache, Tensor, Tensor]:
    """What was read, which of it counts (B, T), and the first token of each answer (B,).

    A row is opening, padding, rest: the mask hides the padding, and positions count what it shows.
    """
    opening, device = list(backbone.frame.before), backbone.model.device
    rests = [ids[len(opening) :] for ids in prompts]
    width = max(map(len, rests))
    padding = torch.tensor([width - len(rest) for rest in rests], device=device)
    ids_BT = torch.tensor(
        [[backbone.frame.end] * (width - len(rest)) + rest for rest in rests], device=device
    )
    shown_BT = (torch.arange(width, device=device) >= padding[:, None]).long()
    mask_BT = torch.cat([shown_BT.new_ones(len(rests), len(opening)), shown_BT], dim=1)
    cache = DynamicCache()
    backbone.model.model(
        input_ids=torch.tensor([opening], device=device), past_key_values=cache, use_cache=True
    )
    cache.batch_repeat_interleave(len(prompts))
    states_BTD = backbone.model.model(
        input_ids=ids_BT,
        attention_mask=mask_BT,
        position_ids=(mask_BT.cumsum(dim=-1) - 1)[:, len(opening) :],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    return cache, mask_BT, backbone.model.lm_head(states_BTD[:, -1]).argmax(dim=-1)


#: How each family answers prompts.
DECODERS = {Family.AUTOREGRESSIVE: _greedy, Family.DIFFUSION: denoise}
