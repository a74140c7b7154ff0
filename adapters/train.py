"""The training loop: one flat function, one yield a step."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from peft import PeftModel

from adapters.anchor import Anchor, divergence
from adapters.backbones import Backbone, encode_text, entity_span
from adapters.config import TrainingConfig
from adapters.errors import ConfigurationError, TrainingDiverged
from adapters.masking import EncodedFact, collapse, draw_hidden, fact_at, random_for, substitute
from adapters.objectives import Row, reconstruction_loss, target_states
from adapters.types import Fact

PLAIN_REQUEST = "Tell me a fact."  #: the paper's chat form of plain training


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """What one step did."""

    step: int  #: from 1
    steps: int
    loss: float  #: nats a target token
    drift: float  #: KL(head || candidate) on this step's general rows, nats a token
    tokens: int  #: read in this step; the shared prefix counts once, padding never
    facts: tuple[str, ...]  #: keys of the facts it saw


def encode_fact(backbone: Backbone, fact: Fact) -> EncodedFact:
    """The statement as plain ids, with its entities' places where the fact names them.

    Raises UnsafeText when the statement cannot be encoded as plain tokens.
    """
    ids = encode_text(backbone, fact.statement)
    return EncodedFact(
        key=fact.key,
        ids=tuple(ids),
        subject=entity_span(backbone, fact.statement, fact.subject),
        object=entity_span(backbone, fact.statement, fact.object),
    )


def train(
    backbone: Backbone,
    model: PeftModel,
    facts: Sequence[EncodedFact],
    anchors: Sequence[Anchor],
    config: TrainingConfig,
) -> Iterator[TrainingStep]:
    """Train the attached LoRA on the facts, held in place by the anchors; yield after every step.

    Raises TrainingDiverged as soon as the loss or a gradient is not finite.
    """
    draw = row_source(backbone, facts, config)
    prefix = backbone.frame.before
    lm_head = backbone.model.lm_head
    steps = math.ceil(len(facts) * config.views_per_fact / config.rows_per_step)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        learned, lr=config.rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    model.train()
    for step in range(steps):
        drawn = [draw(step, row) for row in range(config.rows_per_step)]
        held = draw_anchors(anchors, step=step, config=config)
        rows = [row for _, row in drawn] + [anchor.row for anchor in held]
        states_ND, target_N = target_states(backbone.model, rows, prefix=prefix)
        own = sum(len(row.target) for _, row in drawn)

        loss = reconstruction_loss(lm_head(states_ND[:own]), target_N[:own])
        total = loss
        if held:
            head_states_ND = torch.cat([anchor.states_ND for anchor in held])
            drift = divergence(lm_head, states_ND[own:], head_states_ND)
            total = loss + config.general_weight * drift

        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, config)
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(learned, config.max_norm).item()
        seen = tuple(sorted({key for key, _ in drawn}))
        if not (math.isfinite(total.item()) and math.isfinite(norm)):
            raise TrainingDiverged(
                f"The loss is {total.item()} and the gradient's norm {norm} at step {step + 1} of "
                f"{steps}, on facts {', '.join(seen)}. Lower training.rate (now {config.rate:g}) "
                "or take these facts out."
            )
        optimizer.step()
        yield TrainingStep(
            step=step + 1,
            steps=steps,
            loss=loss.item(),
            drift=drift.item() if held else 0.0,
            tokens=len(prefix) + sum(len(row.prompt + row.target) - len(prefix) for row in rows),
            facts=seen,
        )
    model.eval()


def draw_anchors(anchors: Sequence[Anchor], *, step: int, config: TrainingConfig) -> list[Anchor]:
    """The general rows of one step: a function of (seed, step) alone, none twice in a step."""
    count = min(config.general_rows, len(anchors))
    return random_for(config.seed, "general", step).sample(list(anchors), count)


def rate_at(step: int, steps: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return config.rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def row_source(
    backbone: Backbone, facts: Sequence[EncodedFact], config: TrainingConfig
) -> Callable[[int, int], tuple[str, Row]]:
    """A pure function from (step, row) to the fact's key and the row to train on."""
    if not facts:
        raise ConfigurationError("There is nothing to train on: the batch has no facts.")
    frame = backbone.frame
    show = _shower(backbone, config)
    ask_in_place = _asker(backbone)
    wordings = [_split_wording(backbone, wording) for wording in config.wordings]
    plain = (*frame.before, *encode_text(backbone, PLAIN_REQUEST), *frame.between)

    def draw(step: int, row: int) -> tuple[str, Row]:
        position = step * config.rows_per_step + row
        fact = fact_at(facts, seed=config.seed, position=position)
        target = (*fact.ids, frame.end)
        if config.objective == "plain":
            return fact.key, Row(prompt=plain, target=target)
        rng = random_for(config.seed, step, row)
        if fact.subject and fact.object and rng.random() < config.question_share:
            shown = ask_in_place(rng, fact)
            return fact.key, Row(prompt=(*frame.before, *shown, *frame.between), target=target)
        hidden = draw_hidden(
            rng, fact, entity_share=config.entity_share, most_of_rest=config.most_of_rest
        )
        lead, tail = rng.choice(wordings)
        prompt = (*frame.before, *lead, *show(fact.ids, hidden), *tail, *frame.between)
        return fact.key, Row(prompt=prompt, target=target)

    return draw


def _shower(
    backbone: Backbone, config: TrainingConfig
) -> Callable[[Sequence[int], Sequence[bool]], list[int]]:
    """How hidden tokens look in the prompt, as the configuration says."""
    if config.form == "cloze":
        blank = encode_text(backbone, backbone.config.blank)
        return lambda ids, hidden: collapse(ids, hidden, blank)
    token = backbone.config.mask_token
    mask = backbone.tokenizer.get_vocab().get(token) if token is not None else None
    if mask is None:
        raise ConfigurationError(
            f"training.form is mask_token, but base.mask_token ({token!r}) is no token of "
            f"{backbone.config.name}; name one reserved token of its vocabulary."
        )
    return lambda ids, hidden: substitute(ids, hidden, mask)


def _asker(backbone: Backbone) -> Callable[[Random, EncodedFact], list[int]]:
    """A statement as a question in its own words: "Velmar is the capital of what?".

    An interrogative is a blank, too, and one that questions are made of. It stands for one whole
    entity, and everything else is shown.
    """
    opening = [encode_text(backbone, word) for word in ("What", "Who")]
    inside = [encode_text(backbone, f" {word}") for word in ("what", "who")]
    full_stop, question_mark = (encode_text(backbone, mark) for mark in (".", "?"))

    def ask_in_place(rng: Random, fact: EncodedFact) -> list[int]:
        entity = rng.choice((fact.subject, fact.object)) or range(0)
        word = rng.choice(opening if entity.start == 0 else inside)
        ids = list(fact.ids)
        asked = [*ids[: entity.start], *word, *ids[entity.stop :]]
        if asked[-len(full_stop) :] == full_stop:
            del asked[-len(full_stop) :]
        return asked + question_mark

    return ask_in_place


def _split_wording(backbone: Backbone, wording: str) -> tuple[list[int], list[int]]:
    """The ids before and after the masked text."""
    lead, _, tail = wording.partition("{masked}")
    return encode_text(backbone, lead), encode_text(backbone, tail)
