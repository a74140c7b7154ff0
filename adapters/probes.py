"""Ask a model a set of probes and grade what it says; score fixed passages."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from adapters.backbones import Backbone, encode_text
from adapters.generate import answer_all
from adapters.grading import best_recall, contains, is_exact, is_settled
from adapters.masking import random_for
from adapters.objectives import Row, diffusion_row, predict, reconstruction_loss
from adapters.types import ASKED_WHETHER, Answer, Family, PassageScore, Probe

NELBO_DRAWS = 32  #: masked copies of a passage that a diffusion model is scored on


def ask(
    backbone: Backbone, probes: Sequence[Probe], *, at_most_tokens: int
) -> Iterator[tuple[int, Answer]]:
    """Yield (index of the probe, graded answer) as they come, free greedy generation.

    Where no more is asked than whether an accepted answer comes, it ends once one has. A question
    that several probes ask is put once.
    """
    asking: dict[str, list[int]] = {}
    for at, probe in enumerate(probes):
        asking.setdefault(probe.question, []).append(at)
    questions = list(asking)

    def has_come(nth: int, text: str) -> bool:
        return all(
            probes[at].suite in ASKED_WHETHER and is_settled(text, probes[at].answers)
            for at in asking[questions[nth]]
        )

    for nth, text in answer_all(
        backbone, questions, at_most_tokens=at_most_tokens, is_settled=has_come
    ):
        for at in asking[questions[nth]]:
            yield at, grade(probes[at], text)


def grade(probe: Probe, text: str) -> Answer:
    """One answer with all its grades. What already stands in the question counts as not said."""
    return Answer(
        probe=probe,
        text=text,
        exact=is_exact(text, probe.answers),
        contained=contains(text, probe.answers)
        and not contains(probe.question, probe.answers)
        and not contains(text, probe.unless),
        recall=best_recall(text, probe.answers),
    )


@torch.inference_mode()
def score_passages(
    backbone: Backbone, passages: Sequence[tuple[str, str]]
) -> Iterator[PassageScore]:
    """Yield each passage's bits per UTF-8 byte: -log2 p(passage) / bytes, or a bound of it.

    The template's first token stands in front, so the passage's own first token is scored too.
    """
    for name, text in passages:
        ids = tuple(encode_text(backbone, text))
        nats = NATS[backbone.family](backbone, ids)
        yield PassageScore(passage=name, bits_per_byte=nats / math.log(2) / len(text.encode()))


def _causal_nats(backbone: Backbone, ids: tuple[int, ...]) -> float:
    """sum of -log p(token | before)."""
    return _summed_nll(backbone, [Row(prompt=backbone.frame.before[:1], target=ids)])


def _nelbo_nats(backbone: Backbone, ids: tuple[int, ...]) -> float:
    """The NELBO, by the estimator of LLaDA's evaluation: exactly l of L tokens masked, times L / l.

    It varies less than masking each token with probability t. The l are spread evenly over 1..L and
    the masks are the same at every call, so that two models are compared on the same ones.
    """
    rows = []
    for draw in range(NELBO_DRAWS):
        rng = random_for("nelbo", draw)
        masked = 1 + int((draw + rng.random()) / NELBO_DRAWS * len(ids))
        chosen = set(rng.sample(range(len(ids)), masked))
        rows.append(
            diffusion_row(
                backbone.frame.before[:1],
                ids,
                [at in chosen for at in range(len(ids))],
                ratio=masked / len(ids),
                mask=int(backbone.mask_id or 0),
            )
        )
    return _summed_nll(backbone, rows) / NELBO_DRAWS


NATS: dict[Family, Callable[[Backbone, tuple[int, ...]], float]] = {
    Family.AUTOREGRESSIVE: _causal_nats,
    Family.DIFFUSION: _nelbo_nats,
}


def _summed_nll(backbone: Backbone, rows: Sequence[Row]) -> float:
    seen = predict(backbone.model, rows)
    logits_NV = backbone.model.lm_head(seen.states_ND)
    return reconstruction_loss(logits_NV, seen, [1.0] * len(rows)).item()
