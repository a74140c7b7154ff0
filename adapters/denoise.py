"""Answers of a diffusion model: masks at first, and step by step the surest predictions stay.

Low-confidence re-masking at temperature 0 (LLaDA, arXiv 2502.09992): block by block from left to
right, every step predicts what is masked and keeps the predictions of the highest probability.
"""

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from adapters.backbones import Backbone, said_text
from adapters.config import DecodingConfig


@torch.inference_mode()
def denoise(
    backbone: Backbone,
    prompts: list[list[int]],
    *,
    at_most_tokens: int,
    is_settled: Callable[[int, str], bool],
) -> list[str]:
    """One answer for each prompt, cut at its first end token.

    Padding stands before the prompt, is masked and never counted as a position. It ends early when
    nothing that is still masked could be part of an answer, or is asked for: `is_settled` is put
    (number of the prompt, its answer so far). All answers go on until the last one may end.
    """
    device, width = backbone.model.device, max(map(len, prompts))
    mask_id: Any = backbone.mask_id  # the diffusion family always has one
    ends = end_ids(backbone)
    padding = [width - len(prompt) for prompt in prompts]
    ids_BT = torch.tensor(
        [
            [backbone.frame.end] * pads + prompt + [mask_id] * at_most_tokens
            for pads, prompt in zip(padding, prompts, strict=True)
        ],
        device=device,
    )
    shown_BT = torch.arange(ids_BT.shape[1], device=device) >= torch.tensor(
        padding, device=device
    ).unsqueeze(1)
    positions_BT = (shown_BT.cumsum(-1) - 1).clamp_min(0)
    answers_BA = ids_BT[:, width:]  # a view: what is decided in it stands in the next step's input
    for block, count in steps(at_most_tokens, backbone.config.decoding):
        logits_BLV = backbone.model(
            input_ids=ids_BT,
            attention_mask=shown_BT,
            position_ids=positions_BT,
            logits_to_keep=width + torch.tensor(block, device=device),
        ).logits
        part = slice(block.start, block.stop)
        answers_BA[:, part] = _decide(answers_BA[:, part], logits_BLV, mask_id, count)
        ended = _ended(answers_BA, mask_id, ends)
        if all(
            done or is_settled(at, _text(backbone, row, ends | {mask_id}))
            for at, (done, row) in enumerate(zip(ended, answers_BA.tolist(), strict=True))
        ):
            break
    return [_text(backbone, row, ends | {mask_id}) for row in answers_BA.tolist()]


def end_ids(backbone: Backbone) -> frozenset[int]:
    """The tokens behind which there is no answer: the turn's end and the text's end."""
    ids = (backbone.frame.end, backbone.tokenizer.eos_token_id)
    return frozenset(at for at in ids if isinstance(at, int))


def steps(tokens: int, config: DecodingConfig) -> Iterator[tuple[range, int]]:
    """Every step of an answer: the places of its block, and how many of them it decides.

    What does not divide goes to the first steps; the last block may be shorter than the others.
    """
    for begin in range(0, tokens, config.block_length):
        block = range(begin, min(begin + config.block_length, tokens))
        count = min(config.steps_per_block or len(block), len(block))
        for at in range(count):
            yield block, len(block) // count + (at < len(block) % count)


def _decide(block_BL: Tensor, logits_BLV: Tensor, mask_id: int, count: int) -> Tensor:
    """The block with its `count` surest predictions in place of masks; of equals, the left one."""
    # fp64, since in fp32 everything that is nearly certain would be equally so
    logits_BLV = logits_BLV.double()
    logits_BLV[..., mask_id] = -torch.inf
    sureness_BL, guess_BL = logits_BLV.softmax(-1).max(-1)
    sureness_BL = sureness_BL.masked_fill(block_BL != mask_id, -1.0)
    surest_BK = sureness_BL.argsort(dim=-1, descending=True, stable=True)[:, :count]
    return block_BL.scatter(1, surest_BK, guess_BL.gather(1, surest_BK))


def _ended(answers_BA: Tensor, mask_id: int, ends: frozenset[int]) -> list[bool]:
    """Which answers have an end token with nothing undecided before it."""
    decided_BA = (answers_BA != mask_id).cumprod(-1).bool()
    ended_BA = torch.isin(answers_BA, torch.tensor(sorted(ends), device=answers_BA.device))
    ended: list[bool] = (ended_BA & decided_BA).any(-1).tolist()
    return ended


def _text(backbone: Backbone, row: list[int], ends: frozenset[int]) -> str:
    """What is decided up to the first of `ends`."""
    kept = list(takewhile(lambda token: token not in ends, row))
    return said_text(backbone, kept)
