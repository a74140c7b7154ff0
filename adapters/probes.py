"""Ask a model a set of probes and grade what it says; score fixed passages."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F

from adapters.backbones import Backbone, encode_text
from adapters.generate import answer_all
from adapters.grading import best_recall, contains, is_exact
from adapters.types import Answer, PassageScore, Probe


def ask(
    backbone: Backbone, probes: Sequence[Probe], *, at_most_tokens: int
) -> Iterator[tuple[int, Answer]]:
    """Yield (index of the probe, graded answer) as they come, free greedy generation."""
    questions = [probe.question for probe in probes]
    for at, text in answer_all(backbone, questions, at_most_tokens=at_most_tokens):
        yield at, grade(probes[at], text)


def grade(probe: Probe, text: str) -> Answer:
    """One answer with all its grades. What already stands in the question counts as not said."""
    return Answer(
        probe=probe,
        text=text,
        exact=is_exact(text, probe.answers),
        contained=contains(text, probe.answers) and not contains(probe.question, probe.answers),
        recall=best_recall(text, probe.answers),
    )


@torch.inference_mode()
def score_passages(
    backbone: Backbone, passages: Sequence[tuple[str, str]]
) -> Iterator[PassageScore]:
    """Yield each passage's bits per UTF-8 byte: sum of -log2 p(token | before) / bytes.

    The template's first token stands in front, so the passage's own first token is scored too.
    """
    for name, text in passages:
        ids_T = torch.tensor(
            [backbone.frame.before[0], *encode_text(backbone, text)], device=backbone.model.device
        )
        logits_TV = backbone.model(input_ids=ids_T[None]).logits[0].float()
        nats = F.cross_entropy(logits_TV[:-1], ids_T[1:], reduction="sum").item()
        yield PassageScore(passage=name, bits_per_byte=nats / math.log(2) / len(text.encode()))
