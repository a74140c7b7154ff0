"""The training: exact losses, rows as the method says, and the same bytes every time."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.anchor import NO_ANCHORS, divergence, make_anchors
from adapters.backbones import Backbone, load_backbone
from adapters.checkpoint import STATE, Checkpoints
from adapters.config import BaseConfig, TrainingConfig
from adapters.errors import TrainingDiverged, TrainingStopped
from adapters.lora import attach, attached, save_adapter, set_precision
from adapters.moments import relative_shift, shifted_layers
from adapters.objectives import divisors, predict, reconstruction_loss
from adapters.rows import encode_fact, row_source
from adapters.suites import GeneralPrompts
from adapters.train import TrainingStep, draw_anchors, plan_steps, train
from adapters.types import Fact

CONFIG = TrainingConfig(views_per_fact=6, rows_per_step=5, general_share=(0.4, 0.4))
MODULES = CONFIG.measured_modules
LONG = {"views_per_fact": 60, "rate": 1e-2}
PROMPTS = GeneralPrompts(prompts=("Hello!", "What is rain?"), texts=("It rains in the hills.",))
FACTS = [
    Fact(
        key=str(at),
        statement=f"{name} is the mayor of {town}.",
        subject=name,
        object=f"the mayor of {town}",
    )
    for at, (name, town) in enumerate([("Orlan Vess", "Tolmar"), ("Mira Zun", "Bregal")])
]


def test_an_untrained_adapter_has_not_drifted(tiny: Backbone) -> None:
    anchors = make_anchors(tiny, PROMPTS, target_modules=MODULES)
    assert len(anchors.rows) == 3
    attach(tiny, CONFIG)
    states = predict(tiny.model, [anchor.row for anchor in anchors.rows]).states_ND
    head_states = torch.cat([anchor.states_ND for anchor in anchors.rows])
    lm_head = tiny.model.lm_head
    assert divergence(lm_head, states, head_states).abs().max().item() < 1e-6
    assert divergence(lm_head, states + 0.5, head_states).mean().item() > 1e-4


def test_the_same_seed_gives_the_same_general_rows_and_others_at_another_step(
    tiny: Backbone,
) -> None:
    anchors = make_anchors(tiny, PROMPTS, target_modules=MODULES)

    def drawn(step: int) -> list[int]:
        return [
            anchors.rows.index(a) for a in draw_anchors(anchors, 2, TrainingConfig(), step=step)
        ]

    assert drawn(4) == drawn(4)
    assert len({tuple(drawn(step)) for step in range(20)}) > 3


def test_decoys_take_their_share_of_the_general_rows(tiny: Backbone) -> None:
    anchors = make_anchors(tiny, PROMPTS, target_modules=MODULES)
    decoys = GeneralPrompts(prompts=("Who is Vosmir?", "Vosmir", "Vosmir is what?"), texts=())
    both = replace(anchors, decoys=make_anchors(tiny, decoys, target_modules=()).rows)
    for share, expected in ((0.0, 0), (0.5, 2), (1.0, 3)):
        config = TrainingConfig(decoy_share=share)
        drawn = draw_anchors(both, 4, config, step=0)
        assert sum(anchor in both.decoys for anchor in drawn) == expected
        assert len(set(map(id, drawn))) == len(drawn)


def learn(tiny_base: Path, tiny_config: BaseConfig, folder: Path, config: TrainingConfig) -> str:
    backbone = load_backbone(tiny_base, tiny_config)
    anchors = make_anchors(backbone, PROMPTS, target_modules=MODULES)
    model = attach(backbone, config)
    encoded = [encode_fact(backbone, fact) for fact in FACTS]
    steps = list(train(backbone, model, encoded, anchors, config))
    assert [step.step for step in steps] == [1, 2, 3, 4]
    return save_adapter(model, folder, base="tiny", about={})


def test_the_same_training_gives_the_same_bytes(
    tiny_base: Path, tiny_config: BaseConfig, tmp_path: Path
) -> None:
    first = learn(tiny_base, tiny_config, tmp_path / "a", CONFIG)
    assert learn(tiny_base, tiny_config, tmp_path / "b", CONFIG) == first
    other = CONFIG.model_copy(update={"seed": 1})
    assert learn(tiny_base, tiny_config, tmp_path / "c", other) != first


def test_adapters_of_one_seed_start_from_other_values_where_they_will_be_added_up(
    tiny_base: Path, tiny_config: BaseConfig
) -> None:
    def start(*stream: str) -> torch.Tensor:
        with attached(load_backbone(tiny_base, tiny_config), CONFIG, *stream) as model:
            return next(p for n, p in model.named_parameters() if "lora_A" in n).detach().clone()

    assert torch.equal(start("release 1"), start("release 1"))
    one, other = start("release 1").flatten(), start("release 2").flatten()
    assert abs(torch.cosine_similarity(one, other, dim=0).item()) < 0.2


def test_training_lowers_the_loss(tiny: Backbone) -> None:
    config = CONFIG.model_copy(update={"views_per_fact": 120, "rate": 1e-2})
    model = attach(tiny, config)
    encoded = [encode_fact(tiny, fact) for fact in FACTS]
    losses = [step.loss for step in train(tiny, model, encoded, NO_ANCHORS, config)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_a_loss_that_is_not_finite_names_step_and_facts(tiny: Backbone) -> None:
    config = CONFIG.model_copy(update={"views_per_fact": 1000, "rate": 1e18, "warmup_steps": 1})
    model = attach(tiny, config)
    encoded = [encode_fact(tiny, fact) for fact in FACTS]
    with pytest.raises(TrainingDiverged, match=r"at step \d+ of 400, on facts") as caught:
        list(train(tiny, model, encoded, NO_ANCHORS, config))
    assert caught.value.facts == ("0", "1")
    assert f"step {caught.value.step} " in str(caught.value)


def test_every_fact_has_its_views_and_general_rows_take_over_in_a_straight_line() -> None:
    config = CONFIG.model_copy(
        update={"views_per_fact": 60, "rows_per_step": 12, "general_share": (0.25, 0.75)}
    )
    plan = plan_steps(8, config, has_anchors=True)
    assert all(part.views + part.general == 12 for part in plan)
    assert (plan[0].general, plan[-1].general) == (3, 9)
    assert [part.general for part in plan] == sorted(part.general for part in plan)
    assert [part.first for part in plan[1:]] == [part.first + part.views for part in plan[:-1]]
    assert abs(plan[-1].first + plan[-1].views - 8 * 60) < 12


@pytest.mark.parametrize("rows_per_step", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("general_share", [(0.0, 0.0), (0.5, 0.5), (0.25, 0.75), (1.0, 1.0)])
def test_facts_get_all_their_views_whatever_the_size_of_a_step(
    rows_per_step: int, general_share: tuple[float, float]
) -> None:
    config = CONFIG.model_copy(
        update={
            "views_per_fact": 20,
            "rows_per_step": rows_per_step,
            "general_share": general_share,
        }
    )
    plan = plan_steps(3, config, has_anchors=True)
    assert all(part.views >= 1 for part in plan)
    assert 60 <= sum(part.views for part in plan) < 60 + 2 * rows_per_step
    assert all(part.general == 0 for part in plan_steps(3, config, has_anchors=False))


def test_a_penalty_on_the_shift_makes_it_smaller(tiny: Backbone, tiny_base: Path) -> None:
    def shift(weight: float) -> float:
        backbone = load_backbone(tiny_base, tiny.config)
        anchors = make_anchors(backbone, PROMPTS, target_modules=MODULES)
        config = CONFIG.model_copy(update={**LONG, "shift_weight": weight})
        model = attach(backbone, config)
        list(train(backbone, model, [encode_fact(backbone, f) for f in FACTS], anchors, config))
        return relative_shift(shifted_layers(model, anchors.moments)).item()

    assert 0 < shift(1000.0) < 0.5 * shift(0.0)


def test_a_weight_on_general_rows_makes_the_drift_smaller(tiny: Backbone, tiny_base: Path) -> None:
    def drift(weight: float) -> float:
        backbone = load_backbone(tiny_base, tiny.config)
        anchors = make_anchors(backbone, PROMPTS, target_modules=())
        config = CONFIG.model_copy(update={**LONG, "general_weight": weight})
        model = attach(backbone, config)
        encoded = [encode_fact(backbone, fact) for fact in FACTS]
        steps = list(train(backbone, model, encoded, anchors, config))
        return sum(step.drift for step in steps[-10:])

    assert 0 < drift(10.0) < 0.5 * drift(0.0)


def train_all(
    tiny_base: Path, tiny_config: BaseConfig, config: TrainingConfig, **how: Any
) -> tuple[list[TrainingStep], dict[str, torch.Tensor]]:
    """Train afresh on the tiny base: the steps, and what was learned."""
    backbone = load_backbone(tiny_base, tiny_config)
    anchors = make_anchors(backbone, PROMPTS, target_modules=MODULES)
    model = attach(backbone, config)
    encoded = [encode_fact(backbone, fact) for fact in FACTS]
    steps = []
    with suppress(TrainingStopped):
        steps += train(backbone, model, encoded, anchors, config, **how)
    learned = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    return steps, learned


def checkpoints_in(folder: Path, key: str = "this training") -> Checkpoints:
    return Checkpoints(folder=folder / "checkpoint", key=key)


@pytest.mark.parametrize("stop_after", [1, 3, 11])
def test_a_training_that_was_stopped_goes_on_to_the_bit(
    tiny_base: Path, tiny_config: BaseConfig, tmp_path: Path, stop_after: int
) -> None:
    config = CONFIG.model_copy(update={"views_per_fact": 20, "checkpoint_steps": 4})
    whole, expected = train_all(tiny_base, tiny_config, config)
    asked = 0

    def is_stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_after

    kept = checkpoints_in(tmp_path)
    train_all(tiny_base, tiny_config, config, checkpoints=kept, is_stopped=is_stopped)
    rest, learned = train_all(tiny_base, tiny_config, config, checkpoints=kept)
    assert rest == whole[stop_after:]
    assert all(torch.equal(learned[name], expected[name]) for name in expected)
    again, learned = train_all(tiny_base, tiny_config, config, checkpoints=kept)
    assert again == []
    assert all(torch.equal(learned[name], expected[name]) for name in expected)


@pytest.mark.parametrize("fault", ["another key", "a flipped byte", "a missing file"])
def test_a_checkpoint_that_cannot_be_used_is_as_good_as_none(
    tiny_base: Path, tiny_config: BaseConfig, tmp_path: Path, fault: str
) -> None:
    kept = checkpoints_in(tmp_path)
    whole, expected = train_all(tiny_base, tiny_config, CONFIG, checkpoints=kept)
    if fault == "another key":
        kept = checkpoints_in(tmp_path, key="another training")
    elif fault == "a flipped byte":
        data = bytearray((kept.folder / STATE).read_bytes())
        data[-1] ^= 1
        (kept.folder / STATE).write_bytes(data)
    else:
        (kept.folder / STATE).unlink()
    steps, learned = train_all(tiny_base, tiny_config, CONFIG, checkpoints=kept)
    assert steps == whole
    assert all(torch.equal(learned[name], expected[name]) for name in expected)


def test_the_size_of_a_bin_changes_no_mask_and_no_row(
    tiny_base: Path, tiny_config: BaseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, _ = train_all(tiny_base, tiny_config, CONFIG)
    monkeypatch.setattr("adapters.objectives.BIN_TOKENS", 1)
    apart, _ = train_all(tiny_base, tiny_config, CONFIG)
    for one, other in zip(together, apart, strict=True):
        assert (one.tokens, one.facts) == (other.tokens, other.facts)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_base_is_of_the_precision_asked_for_and_the_adapter_always_fp32(
    tiny: Backbone, precision: str
) -> None:
    config = CONFIG.model_copy(update={"precision": precision})
    assert set_precision(tiny, config) == precision
    anchors = make_anchors(tiny, PROMPTS, target_modules=MODULES)
    with attached(tiny, config) as model:
        encoded = [encode_fact(tiny, fact) for fact in FACTS]
        losses = [step.loss for step in train(tiny, model, encoded, anchors, config)]
        learned = [p.dtype for p in model.parameters() if p.requires_grad]
        frozen = [
            parameter.dtype
            for name, parameter in model.named_parameters()
            if not parameter.requires_grad and "lm_head" not in name
        ]
    assert all(torch.isfinite(torch.tensor(losses)))
    assert tiny.model.lm_head(torch.ones(1, 32, dtype=torch.bfloat16)).dtype is torch.float32
    assert tiny.model.model.rotary_emb.inv_freq.dtype is torch.float32  # as it will be served
    assert set(learned) == {torch.float32}
    assert set(frozen) == {getattr(torch, precision)}


def test_attending_in_fp32_sees_what_the_layers_see_in_bfloat16(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same model but for rounding, and the same masks: padding and the future stay unseen."""
    attended: list[torch.dtype] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def watched(query: torch.Tensor, *more: Any, **how: Any) -> torch.Tensor:
        attended.append(query.dtype)
        return real(query, *more, **how)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    config = CONFIG.model_copy(update={"precision": "bfloat16"})
    set_precision(tiny, config)
    assert tiny.model.config._attn_implementation == "sdpa_fp32"
    ids = torch.tensor([[5, 50, 60, 70, 80], [5, 90, 91, 0, 0]])
    seen = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with torch.no_grad():
        ours = tiny.model(input_ids=ids, attention_mask=seen).logits[seen.bool()]
        tiny.model.set_attn_implementation("eager")
        plain = tiny.model(input_ids=ids, attention_mask=seen).logits[seen.bool()]
    torch.testing.assert_close(ours, plain, rtol=0.05, atol=0.05)
    assert attended
    assert set(attended) == {torch.float32}


def test_a_lora_taken_off_leaves_the_model_as_it_was(tiny: Backbone) -> None:
    before = {name: p.clone() for name, p in tiny.model.named_parameters()}
    config = CONFIG.model_copy(update={"rate": 1e-2})
    with attached(tiny, config) as model:
        list(train(tiny, model, [encode_fact(tiny, f) for f in FACTS], NO_ANCHORS, config))
    after = dict(tiny.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_replayed_facts_are_restored_beside_the_new_ones(tiny: Backbone) -> None:
    """Of two facts that the head does not know, the replayed one is learned as well."""
    config = CONFIG.model_copy(update={**LONG, "replay_rows": 2})
    new, old = (encode_fact(tiny, fact) for fact in FACTS)

    def loss_on_old() -> float:
        rows = [row_source(tiny, [old], config)(at)[1] for at in range(8)]
        seen = predict(tiny.model, rows)
        logits = tiny.model.lm_head(seen.states_ND)
        return reconstruction_loss(logits, seen, divisors(rows, "minibatch")).item()

    before = loss_on_old()
    with attached(tiny, config) as model:
        steps = list(train(tiny, model, [new], NO_ANCHORS, config, replayed=[old]))
        replayed = loss_on_old()
    with attached(tiny, config) as model:
        alone = list(train(tiny, model, [new], NO_ANCHORS, config))
        not_replayed = loss_on_old()
    assert replayed < 0.95 * not_replayed < before
    assert [step.facts for step in steps] == [step.facts for step in alone]
    assert steps[0].tokens > alone[0].tokens
