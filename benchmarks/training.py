"""Training tokens a second, beside TRL's SFTTrainer with PEFT, in one run on the same minibatches.

    pip install -e '.[bench]'
    python -m benchmarks.training --json

Same base, same sequences in the same order, same LoRA, same precision, AdamW and clipping in all
three: this project's loop, SFTTrainer with its defaults (gradient checkpointing on), and SFTTrainer
as fast as its settings make it here. Rounds alternate; a ratio is of two rates of one round. What
is counted is every token of every sequence, padding never. Before anything is timed the gradients
of one minibatch are compared.
"""

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from adapters.anchor import NO_ANCHORS
from adapters.backbones import Backbone, load_backbone
from adapters.config import TrainingConfig
from adapters.lora import attached, set_precision
from adapters.masking import EncodedFact
from adapters.objectives import Row, divisors, predict, reconstruction_loss
from adapters.rows import encode_fact, row_source
from adapters.train import train
from adapters.types import Fact
from benchmarks.measure import described_machine, spread
from benchmarks.trial import arguments, ready_base
from service.invent import invent_facts
from service.settings import load_settings

MOST_APART = 1e-3  #: the gradients of one minibatch, as a share of their norm
WARM_UP = 2  #: steps of each round that are not timed
#: SFTTrainer's settings beside its defaults, as fast as they make it.
TUNED = {"gradient_checkpointing": False, "dataloader_pin_memory": False}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--facts", type=int, default=16)
    parser.add_argument("--steps", type=int, default=6, help="timed, in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    settings = load_settings(options.config)
    base = ready_base(settings, options.base)
    config = settings.training.model_copy(
        update={
            "precision": options.precision,
            "general_share": (0.0, 0.0),
            "shift_weight": 0.0,
            "visible_weight": 1.0,  # SFTTrainer weighs every token of a target alike
            "views_per_fact": 1000,  # more than is asked for
        }
    )

    def load() -> Backbone:
        """A model of its own for each run: SFTTrainer leaves traces in the one it had."""
        backbone = load_backbone(base, settings.base)
        set_precision(backbone, config)
        return backbone

    backbone = load()
    facts = [
        encode_fact(backbone, Fact(key=str(at), statement=fact.statement, subject=fact.subject,
                                   object=fact.object))
        for at, fact in enumerate(invent_facts(1, count=options.facts))
    ]  # fmt: skip
    draw, steps = row_source(backbone, facts, config), WARM_UP + options.steps
    rows = [draw(position)[1] for position in range(steps * config.rows_per_step)]
    difference = gradients_differ_by(load(), config, rows[: config.rows_per_step])
    print(f"gradients: relative difference {difference:.1e}", flush=True)
    assert difference < MOST_APART, "both sides must train the same objective"
    rounds = [one_round(load, config, facts, rows, steps) for _ in range(options.rounds)]
    result = {
        "precision": str(next(backbone.model.parameters()).dtype),
        "gradients_differ_by": difference,
        "tokens_per_s": spread([own for own, _, _ in rounds]),
        "peer_tokens_per_s": spread([default for _, default, _ in rounds]),
        "tuned_tokens_per_s": spread([tuned for _, _, tuned in rounds]),
        "ratio": spread([own / default for own, default, _ in rounds]),
        "ratio_tuned": spread([own / tuned for own, _, tuned in rounds]),
    }
    if options.json:
        print(json.dumps({**described_machine(), "training": result}))


def one_round(
    load: Callable[[], Backbone],
    config: TrainingConfig,
    facts: Sequence[EncodedFact],
    rows: Sequence[Row],
    steps: int,
) -> tuple[float, float, float]:
    """Tokens a second of this project, of SFTTrainer's defaults, and of its best settings."""
    size = config.rows_per_step
    tokens = sum(len(row.prompt) + len(row.target) for row in rows[WARM_UP * size :])
    backbone = load()
    with attached(backbone, config) as model:
        running = train(backbone, model, facts, NO_ANCHORS, config)
        for _ in range(WARM_UP):
            next(running)
        began = time.perf_counter()
        counted = sum(next(running).tokens for _ in range(steps - WARM_UP))
        own = counted / (time.perf_counter() - began)
        running.close()
    assert counted == tokens, "both sides must read the same sequences"
    default, tuned = (tokens / peer_seconds(load(), config, rows, **how) for how in ({}, TUNED))
    print(f"{own:.0f} tokens/s; SFTTrainer {default:.0f}, tuned {tuned:.0f}", flush=True)
    return own, default, tuned


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when each step begins and ends."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.moments.append(time.perf_counter())

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.last = time.perf_counter()


class InOrder(SFTTrainer):  # type: ignore[misc]
    """The rows in their own order, so that the minibatches are the same."""

    def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(dataset if dataset is not None else self.train_dataset)


@contextmanager
def peer(
    backbone: Backbone, config: TrainingConfig, rows: Sequence[Row], clock: Clock, **how: Any
) -> Iterator[InOrder]:
    """SFTTrainer on the same base with the same LoRA; the base is as it was afterwards."""
    dataset = Dataset.from_dict(
        {
            "input_ids": [[*row.prompt, *row.target] for row in rows],
            "labels": [[-100] * len(row.prompt) + list(row.target) for row in rows],
        }
    )
    with TemporaryDirectory() as nowhere, attached(backbone, config) as model:
        arguments = SFTConfig(
            output_dir=nowhere,
            per_device_train_batch_size=config.rows_per_step,
            num_train_epochs=1,
            learning_rate=config.rate,
            adam_beta2=0.95,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_norm,
            lr_scheduler_type="constant",
            bf16=False,  # the weights are of the precision already, on both sides
            use_cpu=backbone.model.device.type == "cpu",
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            max_length=None,
            **how,
        )
        yield InOrder(
            model=model,
            args=arguments,
            train_dataset=dataset,
            processing_class=backbone.tokenizer,
            callbacks=[clock],
        )


def peer_seconds(
    backbone: Backbone, config: TrainingConfig, rows: Sequence[Row], **how: Any
) -> float:
    clock = Clock()
    with peer(backbone, config, rows, clock, **how) as trainer:
        trainer.train()
    return clock.last - clock.moments[WARM_UP]


def gradients_differ_by(backbone: Backbone, config: TrainingConfig, rows: Sequence[Row]) -> float:
    """|own - peer| / |peer| over the gradient of one minibatch, at a LoRA that is not zero."""
    with peer(backbone, config, rows, Clock(), **TUNED) as trainer:
        model = trainer.model
        generator = torch.Generator().manual_seed(0)
        learned = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        with torch.no_grad():
            for _, parameter in learned:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(0.01 * noise)
        model.train()
        batch = next(iter(trainer.get_train_dataloader()))
        batch = {name: value.to(backbone.model.device) for name, value in batch.items()}
        trainer.compute_loss(model, batch).backward()
        theirs = [parameter.grad.clone() for _, parameter in learned]
        model.zero_grad()
        seen = predict(backbone.model, rows)
        logits_NV = backbone.model.lm_head(seen.states_ND)
        reconstruction_loss(logits_NV, seen, divisors(rows, "minibatch")).backward()
        ours = [parameter.grad for _, parameter in learned]
    apart = sum(((own - other) ** 2).sum() for own, other in zip(ours, theirs, strict=True))
    whole = sum((other**2).sum() for other in theirs)
    return float((apart / whole).sqrt())


if __name__ == "__main__":
    main()
