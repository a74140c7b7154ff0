"""Greedy answers of an autoregressive model, many questions at a time."""

from collections.abc import Iterator, Sequence

import torch

from adapters.backbones import Backbone, encode_text


def prompt_ids(backbone: Backbone, question: str) -> list[int]:
    """The question as the user's turn of the model's own chat template."""
    plain = encode_text(backbone, question)
    return [*backbone.frame.before, *plain, *backbone.frame.between]


def answer_all(
    backbone: Backbone, questions: Sequence[str], *, at_most_tokens: int, minibatch: int = 32
) -> Iterator[tuple[int, str]]:
    """Yield (index of the question, greedy answer), the longest questions first.

    Left-padded with an attention mask and explicit positions, so an answer depends on its own
    question alone (up to floating-point ties).
    """
    prompts = [prompt_ids(backbone, question) for question in questions]
    by_length = sorted(range(len(prompts)), key=lambda at: -len(prompts[at]))
    for start in range(0, len(by_length), minibatch):
        chosen = by_length[start : start + minibatch]
        texts = _greedy(backbone, [prompts[at] for at in chosen], at_most_tokens=at_most_tokens)
        yield from zip(chosen, texts, strict=True)


@torch.inference_mode()
def _greedy(backbone: Backbone, prompts: list[list[int]], *, at_most_tokens: int) -> list[str]:
    width = max(map(len, prompts))
    end = backbone.frame.end
    device = backbone.model.device
    ids_BT = torch.tensor([[end] * (width - len(ids)) + ids for ids in prompts], device=device)
    mask_BT = torch.tensor(
        [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device
    )
    made_BT = backbone.model.generate(
        input_ids=ids_BT,
        attention_mask=mask_BT,
        max_new_tokens=at_most_tokens,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
    )[:, width:]
    return [
        str(backbone.tokenizer.decode(row, skip_special_tokens=True)).strip() for row in made_BT
    ]
