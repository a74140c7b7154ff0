"""Answers without chance, many questions at a time: greedy ones, or a diffusion model's."""

from collections.abc import Iterator, Sequence

import torch
from transformers import DynamicCache

from adapters.backbones import Backbone, encode_text
from adapters.denoise import denoise
from adapters.types import Family


def prompt_ids(backbone: Backbone, question: str) -> list[int]:
    """The question as the user's turn of the model's own chat template."""
    plain = encode_text(backbone, question)
    return [*backbone.frame.before, *plain, *backbone.frame.between]


def answer_all(
    backbone: Backbone, questions: Sequence[str], *, at_most_tokens: int, minibatch: int = 32
) -> Iterator[tuple[int, str]]:
    """Yield (index of the question, answer), the longest questions first.

    Padding is masked and never counted as a position, so an answer depends on its own question
    alone (up to floating-point ties).
    """
    prompts = [prompt_ids(backbone, question) for question in questions]
    by_length = sorted(range(len(prompts)), key=lambda at: -len(prompts[at]))
    for start in range(0, len(by_length), minibatch):
        chosen = by_length[start : start + minibatch]
        texts = DECODERS[backbone.family](
            backbone, [prompts[at] for at in chosen], at_most_tokens=at_most_tokens
        )
        yield from zip(chosen, texts, strict=True)


@torch.inference_mode()
def _greedy(backbone: Backbone, prompts: list[list[int]], *, at_most_tokens: int) -> list[str]:
    """The template's own opening is read once for all prompts; what differs stands behind it.

    A row is opening, padding, rest: the mask hides the padding, and positions count what it shows.
    """
    opening = list(backbone.frame.before)
    end, device = backbone.frame.end, backbone.model.device
    rests = [ids[len(opening) :] for ids in prompts]
    width = max(map(len, rests))
    padding = [width - len(rest) for rest in rests]
    ids_BT = torch.tensor(
        [opening + [end] * pads + rest for pads, rest in zip(padding, rests, strict=True)],
        device=device,
    )
    mask_BT = torch.ones_like(ids_BT)
    for row, pads in enumerate(padding):
        mask_BT[row, len(opening) : len(opening) + pads] = 0
    cache = DynamicCache()
    backbone.model.model(
        input_ids=ids_BT[:1, : len(opening)], past_key_values=cache, use_cache=True
    )
    cache.batch_repeat_interleave(len(prompts))
    made_BT = backbone.model.generate(
        input_ids=ids_BT,
        attention_mask=mask_BT,
        past_key_values=cache,
        use_cache=True,
        max_new_tokens=at_most_tokens,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )[:, ids_BT.shape[1] :]
    return [
        str(backbone.tokenizer.decode(row, skip_special_tokens=True)).strip() for row in made_BT
    ]


#: How each family answers prompts: (backbone, prompts, at_most_tokens=...) -> texts.
DECODERS = {Family.AUTOREGRESSIVE: _greedy, Family.DIFFUSION: denoise}
