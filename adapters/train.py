"""The training loop: one flat function, one yield a step."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor

from adapters.anchor import Anchor, Anchors, divergence
from adapters.backbones import Backbone
from adapters.checkpoint import Checkpoints, restore_checkpoint, save_checkpoint
from adapters.config import TrainingConfig
from adapters.errors import TrainingDiverged, TrainingStopped
from adapters.masking import EncodedFact, random_for
from adapters.moments import relative_shift, shifted_layers
from adapters.objectives import Row, divisors, predict, reconstruction_loss
from adapters.parallel import add_up, add_up_gradients, is_first, own_share
from adapters.rows import row_source

#: A model that knows nothing loses log(vocabulary) a token; one of four times that has exploded.
EXPLODED = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """What one step did."""

    step: int  #: from 1
    steps: int
    loss: float  #: nats a target token
    drift: float  #: KL(base || candidate) on this step's general rows, nats a token
    tokens: int  #: in all rows of the step, what they share counted in each
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
    *,
    replayed: Sequence[EncodedFact] = (),
    checkpoints: Checkpoints | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[TrainingStep]:
    """Train the attached LoRA on the facts, held in place by the anchors; yield after every step.

    loss = reconstruction + general_weight KL(base || candidate) + shift_weight (relative shift)

    Facts of earlier batches that are `replayed` are shown and restored like the new ones, in a few
    rows of every step. A training with checkpoints goes on after the latest one. Under torchrun
    every process calls this with the same arguments and gets the same adapter.

    Raises TrainingDiverged as soon as the loss explodes or a gradient is not finite, and
    TrainingStopped, with a checkpoint written, at the end of a step after which `is_stopped`.
    """
    draw = row_source(backbone, facts, config)
    again = row_source(backbone, replayed, config, "replay") if replayed else None
    plan = plan_steps(len(facts), config, has_anchors=bool(anchors.rows))
    layers = shifted_layers(model, anchors.moments) if anchors.moments else []
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        learned, lr=config.rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    done = restore_checkpoint(checkpoints, model, optimizer) if checkpoints else 0
    model.train()
    for step in range(done, len(plan)):
        part = plan[step]
        drawn = [draw(position) for position in range(part.first, part.first + part.views)]
        held = draw_anchors(anchors, part.general, config, step=step)
        replay = range(step * config.replay_rows, (step + 1) * config.replay_rows)
        rows = [row for _, row in drawn] + [again(at)[1] for at in replay if again]

        loss, kl = step_losses(backbone, rows, held, config)
        total = loss + config.general_weight * kl
        if layers and is_first():
            total = total + config.shift_weight * relative_shift(layers)
        optimizer.zero_grad()
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
        add_up_gradients(learned)
        loss_all, kl_all, total_all = add_up(torch.stack([loss, kl, total])).tolist()

        norm = torch.nn.utils.clip_grad_norm_(learned, config.max_norm).item()
        seen = tuple(sorted({key for key, _ in drawn}))
        _refuse_divergence(backbone, loss_all, total_all, norm, step, len(plan), seen, config)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, len(plan), config)
        optimizer.step()
        yield TrainingStep(
            step=step + 1,
            steps=len(plan),
            loss=loss_all,
            drift=kl_all,
            tokens=sum(len(row.prompt + row.target) for row in rows)
            + sum(len(anchor.row.prompt + anchor.row.target) for anchor in held),
            facts=seen,
        )
        is_last = step + 1 == len(plan)
        stop = is_stopped() and not is_last
        is_due = is_last or stop or (step + 1) % config.checkpoint_steps == 0
        if checkpoints and is_first() and is_due:
            save_checkpoint(checkpoints, model, optimizer, done=step + 1)
        if stop:
            raise TrainingStopped(
                f"The training was stopped after step {step + 1} of {len(plan)}; it goes on there."
            )
    model.eval()


def step_losses(
    backbone: Backbone, rows: Sequence[Row], held: Sequence[Anchor], config: TrainingConfig
) -> tuple[Tensor, Tensor]:
    """This process's part of the reconstruction loss and of the mean KL on the general rows.

    Both are divided by what all processes' rows count together.
    """
    own = own_share(list(zip(rows, divisors(rows, config.normalise), strict=True)))
    own_held = own_share(held)
    read = [row for row, _ in own] + [anchor.row for anchor in own_held]
    zero = torch.zeros((), device=backbone.model.device)
    if not read:
        return zero, zero
    seen = predict(backbone.model, read)
    lm_head = backbone.model.lm_head
    count = int((seen.row_N < len(own)).sum())  # rows stand in order: the facts' own come first
    loss = kl = zero
    if own:
        loss = reconstruction_loss(
            lm_head(seen.states_ND[:count]), seen.first(count), [divisor for _, divisor in own]
        )
    if own_held:
        base_states_ND = torch.cat([anchor.states_ND for anchor in own_held])
        kl_N = divergence(lm_head, seen.states_ND[count:], base_states_ND)
        kl = kl_N.sum() / sum(len(anchor.row.counted) for anchor in held)
    return loss, kl


def _refuse_divergence(
    backbone: Backbone,
    loss: float,
    total: float,
    norm: float,
    step: int,
    steps: int,
    seen: Sequence[str],
    config: TrainingConfig,
) -> None:
    most = EXPLODED * math.log(backbone.model.config.vocab_size)
    if math.isfinite(total) and math.isfinite(norm) and loss <= most:
        return
    raise TrainingDiverged(
        f"The loss is {loss:.4g} (at most {most:.3g} is let pass) and the gradient's norm "
        f"{norm:.4g} at step {step + 1} of {steps}, on facts {', '.join(seen)}. Lower "
        f"training.rate (now {config.rate:g}) or take these facts out.",
        step=step + 1,
        facts=tuple(seen),
    )


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


def draw_anchors(
    anchors: Anchors, count: int, config: TrainingConfig, *, step: int
) -> list[Anchor]:
    """The general rows of one step: a function of (seed, step) alone, none twice in a step."""
    rng = random_for(config.seed, "general", step)
    about_decoys = min(round(count * config.decoy_share), len(anchors.decoys))
    general = min(count - about_decoys, len(anchors.rows))
    return rng.sample(anchors.rows, general) + rng.sample(anchors.decoys, about_decoys)


def rate_at(step: int, steps: int, config: TrainingConfig) -> float:
    """Linear warm-up, then a cosine down to a twentieth of the peak."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return config.rate * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
