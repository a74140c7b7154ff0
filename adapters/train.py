"""The training loop: one flat function, one yield a step."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel

from adapters.anchor import Anchor, Anchors, divergence
from adapters.backbones import Backbone
from adapters.config import TrainingConfig
from adapters.errors import TrainingDiverged
from adapters.masking import EncodedFact, random_for
from adapters.moments import relative_shift, shifted_layers
from adapters.objectives import reconstruction_loss, target_states
from adapters.rows import row_source


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """What one step did."""

    step: int  #: from 1
    steps: int
    loss: float  #: nats a target token
    drift: float  #: KL(head || candidate) on this step's general rows, nats a token
    tokens: int  #: read in this step; the shared prefix counts once, padding never
    facts: tuple[str, ...]  #: keys of the facts it saw


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What one step is made of."""

    first: int  #: the position in the run of its first view
    views: int
    general: int  #: general rows beside them


def train(
    backbone: Backbone,
    model: PeftModel,
    facts: Sequence[EncodedFact],
    anchors: Anchors,
    config: TrainingConfig,
) -> Iterator[TrainingStep]:
    """Train the attached LoRA on the facts, held in place by the anchors; yield after every step.

    loss = reconstruction + general_weight KL(head || candidate) + shift_weight (relative shift)

    Raises TrainingDiverged as soon as the loss or a gradient is not finite.
    """
    draw = row_source(backbone, facts, config)
    prefix = backbone.frame.before
    lm_head = backbone.model.lm_head
    plan = plan_steps(len(facts), config, has_anchors=bool(anchors.rows))
    layers = shifted_layers(model, anchors.moments) if anchors.moments else []
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        learned, lr=config.rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    model.train()
    for step, part in enumerate(plan):
        drawn = [draw(position) for position in range(part.first, part.first + part.views)]
        held = draw_anchors(anchors.rows, part.general, step=step, seed=config.seed)
        rows = [row for _, row in drawn] + [anchor.row for anchor in held]
        states_ND, target_N = target_states(backbone.model, rows, prefix=prefix)
        own = sum(len(row.target) for _, row in drawn)

        loss = reconstruction_loss(lm_head(states_ND[:own]), target_N[:own])
        total, drift = loss, 0.0
        if held:
            head_states_ND = torch.cat([anchor.states_ND for anchor in held])
            kl = divergence(lm_head, states_ND[own:], head_states_ND)
            total, drift = loss + config.general_weight * kl, kl.item()
        if layers:
            total = total + config.shift_weight * relative_shift(layers)

        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, len(plan), config)
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(learned, config.max_norm).item()
        seen = tuple(sorted({key for key, _ in drawn}))
        if not (math.isfinite(total.item()) and math.isfinite(norm)):
            raise TrainingDiverged(
                f"The loss is {total.item()} and the gradient's norm {norm} at step {step + 1} of "
                f"{len(plan)}, on facts {', '.join(seen)}. Lower training.rate (now "
                f"{config.rate:g}) or take these facts out."
            )
        optimizer.step()
        yield TrainingStep(
            step=step + 1,
            steps=len(plan),
            loss=loss.item(),
            drift=drift,
            tokens=len(prefix) + sum(len(row.prompt + row.target) - len(prefix) for row in rows),
            facts=seen,
        )
    model.eval()


def plan_steps(facts: int, config: TrainingConfig, *, has_anchors: bool) -> list[StepPlan]:
    """Every step's rows, until each fact has had its views.

    The share of general rows goes in a straight line from its first value to its last: facts are
    learned while they are new, and what that damaged is mended towards the end.
    """
    shares = config.general_share if has_anchors else (0.0, 0.0)
    wanted = facts * config.views_per_fact
    steps = math.ceil(wanted / max(1.0, config.rows_per_step * (1 - sum(shares) / 2)))
    plan = _plan(steps, config.rows_per_step, shares)
    while _views(plan) < wanted:  # whole rows are not always the share's own number of them
        plan = _plan(len(plan) + 1, config.rows_per_step, shares)
    while (
        len(plan) > 1
        and _views(shorter := _plan(len(plan) - 1, config.rows_per_step, shares)) >= wanted
    ):
        plan = shorter
    return plan


def _plan(steps: int, rows: int, shares: tuple[float, float]) -> list[StepPlan]:
    plan: list[StepPlan] = []
    for step in range(steps):
        share = shares[0] + (shares[1] - shares[0]) * step / max(1, steps - 1)
        general = min(rows - 1, round(rows * share))
        plan.append(StepPlan(first=_views(plan), views=rows - general, general=general))
    return plan


def _views(plan: Sequence[StepPlan]) -> int:
    return plan[-1].first + plan[-1].views if plan else 0


def draw_anchors(anchors: Sequence[Anchor], count: int, *, step: int, seed: int) -> list[Anchor]:
    """The general rows of one step: a function of (seed, step) alone, none twice in a step."""
    return random_for(seed, "general", step).sample(list(anchors), min(count, len(anchors)))


def rate_at(step: int, steps: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return config.rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
