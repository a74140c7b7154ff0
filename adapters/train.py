"""The training loop: one flat function, one yield a step."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel

from adapters.backbones import Backbone, encode_text, entity_span
from adapters.config import TrainingConfig
from adapters.errors import ConfigurationError, TrainingDiverged
from adapters.masking import EncodedFact, collapse, draw_hidden, fact_at, random_for, substitute
from adapters.objectives import Row, minibatch, reconstruction_loss, target_logits
from adapters.types import Fact

PLAIN_REQUEST = "Tell me a fact."  #: the paper's chat form of plain training


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """What one step did."""

    step: int  #: from 1
    steps: int
    loss: float  #: nats a target token
    tokens: int  #: read in this step, padding left out
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
    backbone: Backbone, model: PeftModel, facts: Sequence[EncodedFact], config: TrainingConfig
) -> Iterator[TrainingStep]:
    """Train the attached LoRA on the facts, yielding after every step.

    Raises TrainingDiverged as soon as the loss or a gradient is not finite.
    """
    draw = row_source(backbone, facts, config)
    steps = math.ceil(len(facts) * config.views_per_fact / config.rows_per_step)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        learned, lr=config.rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    model.train()
    for step in range(steps):
        drawn = [draw(step, row) for row in range(config.rows_per_step)]
        batch = minibatch(
            [row for _, row in drawn], pad=backbone.frame.end, device=backbone.model.device
        )
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, config)
        loss = reconstruction_loss(target_logits(backbone.model, batch), batch.target_N)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(learned, config.max_norm)
        seen = tuple(sorted({key for key, _ in drawn}))
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            raise TrainingDiverged(
                f"The loss is {loss.item()} and the gradient's norm {norm.item()} at step "
                f"{step + 1} of {steps}, on facts {', '.join(seen)}. "
                f"Lower training.rate (now {config.rate:g}) or take these facts out."
            )
        optimizer.step()
        yield TrainingStep(
            step=step + 1,
            steps=steps,
            loss=loss.item(),
            tokens=int(batch.mask_BT.sum()),
            facts=seen,
        )
    model.eval()


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
    wordings = [_split_wording(backbone, wording) for wording in config.wordings]
    plain = (*frame.before, *encode_text(backbone, PLAIN_REQUEST), *frame.between)

    def draw(step: int, row: int) -> tuple[str, Row]:
        position = step * config.rows_per_step + row
        fact = fact_at(facts, seed=config.seed, position=position)
        target = (*fact.ids, frame.end)
        if config.objective == "plain":
            return fact.key, Row(prompt=plain, target=target)
        rng = random_for(config.seed, step, row)
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


def _split_wording(backbone: Backbone, wording: str) -> tuple[list[int], list[int]]:
    """The ids before and after the masked text. Blanks next to it belong to neither side."""
    lead, _, tail = wording.partition("{masked}")
    return encode_text(backbone, lead.rstrip(" ")), encode_text(backbone, tail)
