"""What holds a model in place: kept with its base; of a diffusion model, one masked copy a row."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from adapters.anchor import (
    NO_ANCHORS,
    TENSORS,
    Anchors,
    anchors_of,
    divergence,
    make_anchors,
    with_decoys,
)
from adapters.backbones import Backbone, convert_base, encode_text, load_backbone
from adapters.config import BaseConfig, TrainingConfig
from adapters.errors import ModelSourceError
from adapters.generate import answer_all, prompt_ids
from adapters.lora import attach
from adapters.moments import shifted_layers
from adapters.objectives import predict
from adapters.suites import GeneralPrompts
from adapters.types import Fact

CONFIG = TrainingConfig()
PROMPTS = GeneralPrompts(
    prompts=("Hello!", "What is rain?", "Who wrote it?"),
    texts=("It rains in the hills.", "The mill stands at the end of the lane."),
)


@pytest.fixture
def anchors(tiny_llada: Backbone) -> Anchors:
    return make_anchors(tiny_llada, PROMPTS, target_modules=CONFIG.measured_modules)


def test_the_rows_are_the_bases_own_answers_and_the_texts(
    tiny_llada: Backbone, anchors: Anchors
) -> None:
    answers = dict(answer_all(tiny_llada, PROMPTS.prompts, at_most_tokens=16))
    said = [tuple(encode_text(tiny_llada, answers[at]))[:16] for at in range(3)]
    read = [tuple(encode_text(tiny_llada, text)) for text in PROMPTS.texts]
    rows = [anchor.row for anchor in anchors.rows]
    assert len(rows) == 5
    for row, prompt, target in zip(rows, PROMPTS.prompts, said, strict=False):
        assert row.prompt == tuple(prompt_ids(tiny_llada, prompt))
        assert row.target[: len(target)] == target
    assert [row.target for row in rows[3:]] == read
    assert all(row.prompt == tiny_llada.frame.before for row in rows[3:])


def test_each_row_has_masked_tokens_that_all_count_once(
    tiny_llada: Backbone, anchors: Anchors
) -> None:
    for anchor in anchors.rows:
        row = anchor.row
        assert row.shown is not None
        assert row.weights is not None
        hidden = [token == tiny_llada.mask_id for token in row.shown]
        assert any(hidden)
        assert row.weights == tuple(map(float, hidden))
        kept = zip(row.shown, row.target, hidden, strict=True)
        assert all(shown == token for shown, token, off in kept if not off)
        assert tiny_llada.mask_id not in row.prompt


def test_the_bases_states_are_those_of_the_masked_tokens(
    tiny_llada: Backbone, anchors: Anchors
) -> None:
    for anchor in anchors.rows:
        alone = predict(tiny_llada.model, [anchor.row]).states_ND
        torch.testing.assert_close(anchor.states_ND, alone, atol=1e-5, rtol=1e-4)


def test_asking_again_gives_the_same_masks(tiny_llada: Backbone, anchors: Anchors) -> None:
    again = make_anchors(tiny_llada, PROMPTS, target_modules=CONFIG.measured_modules)
    assert [anchor.row for anchor in again.rows] == [anchor.row for anchor in anchors.rows]


def test_the_rows_are_masked_each_in_its_own_way(anchors: Anchors) -> None:
    shares = [len(anchor.row.counted) / len(anchor.row.target) for anchor in anchors.rows]
    assert len(set(shares)) > 2


def test_an_untrained_adapter_has_not_drifted(tiny_llada: Backbone, anchors: Anchors) -> None:
    attach(tiny_llada, CONFIG)
    states_ND = predict(tiny_llada.model, [anchor.row for anchor in anchors.rows]).states_ND
    base_states_ND = torch.cat([anchor.states_ND for anchor in anchors.rows])
    lm_head = tiny_llada.model.lm_head
    assert divergence(lm_head, states_ND, base_states_ND).abs().max().item() < 1e-6
    assert divergence(lm_head, states_ND + 0.5, base_states_ND).mean().item() > 1e-4


def test_the_shift_of_every_trained_layer_is_held(tiny_llada: Backbone, anchors: Anchors) -> None:
    layers = shifted_layers(attach(tiny_llada, CONFIG), anchors.moments)
    assert len(layers) == len(tiny_llada.model.model.layers) * len(CONFIG.target_modules)


def test_moments_that_have_no_weight_are_not_measured(tiny_llada: Backbone) -> None:
    assert make_anchors(tiny_llada, PROMPTS, target_modules=()).moments == {}


@pytest.fixture(params=["tiny_config", "tiny_llada_config"])
def described(request: pytest.FixtureRequest) -> BaseConfig:
    """Either family: their rows are not of one form."""
    config: BaseConfig = request.getfixturevalue(request.param)
    return config


def are_same(one: Anchors, other: Anchors) -> bool:
    return (
        [anchor.row for anchor in one.rows] == [anchor.row for anchor in other.rows]
        and all(
            torch.equal(a.states_ND, b.states_ND) for a, b in zip(one.rows, other.rows, strict=True)
        )
        and one.moments.keys() == other.moments.keys()
        and all(torch.equal(one.moments[name], other.moments[name]) for name in one.moments)
    )


def test_anchors_are_made_once_and_made_anew_when_damaged_or_of_something_else(
    described: BaseConfig, tmp_path: Path
) -> None:
    base, kept = tmp_path / "base", tmp_path / "anchors"
    digest = convert_base(described, base)

    def get(config: TrainingConfig = CONFIG, prompts: GeneralPrompts = PROMPTS) -> Anchors:
        return anchors_of(base, described, config, prompts, digest=digest, kept=kept)

    def written() -> int:
        return (kept / TENSORS).stat().st_mtime_ns

    made = get()
    assert len(made.rows) == 5
    assert made.moments
    first = written()
    assert are_same(get(CONFIG.model_copy(update={"rate": 1e-4})), made)
    assert written() == first

    data = bytearray((kept / TENSORS).read_bytes())
    data[-1] ^= 1
    (kept / TENSORS).write_bytes(data)
    assert are_same(get(), made)
    second = written()
    assert second > first

    fewer = get(prompts=GeneralPrompts(prompts=PROMPTS.prompts, texts=()))
    assert len(fewer.rows) == 3
    without = get(CONFIG.model_copy(update={"shift_weight": 0.0}))
    assert without.moments == {}
    assert written() > second


def test_decoys_are_what_the_base_answers_about_names_that_no_fact_has(
    described: BaseConfig, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    digest = convert_base(described, base)
    backbone = load_backbone(base, described)
    fact = Fact(key="1", statement="Boris is Alma.", subject="Boris", object="Alma")
    anchors = make_anchors(backbone, PROMPTS, target_modules=())
    config = CONFIG.model_copy(update={"precision": "float32"})

    def get(config: TrainingConfig, *facts: Fact) -> Anchors:
        return with_decoys(anchors, base, described, config, facts, digest=digest)

    held = get(config, fact)
    assert are_same(held, anchors)  # the general rows stay as they were
    assert 6 < len(held.decoys) <= CONFIG.decoys_per_fact
    states = predict(backbone.model, [decoy.row for decoy in held.decoys]).states_ND
    kept = torch.cat([decoy.states_ND for decoy in held.decoys])
    assert torch.allclose(states, kept, atol=1e-4)
    assert get(config.model_copy(update={"decoy_share": 0.0}), fact) is anchors
    assert get(config, Fact(key="2", statement="it rains.")) is anchors
    nothing = with_decoys(NO_ANCHORS, base, described, CONFIG, [], digest=digest)
    assert nothing is NO_ANCHORS


def test_who_comes_second_waits_for_what_the_first_one_makes(
    tiny_config: BaseConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, kept = tmp_path / "base", tmp_path / "anchors"
    digest = convert_base(tiny_config, base)
    made: list[Anchors] = []

    def watched(*given: Any, **more: Any) -> Anchors:
        made.append(make_anchors(*given, **more))
        return made[-1]

    monkeypatch.setattr("adapters.anchor.make_anchors", watched)
    with ThreadPoolExecutor(3) as pool:
        futures = [
            pool.submit(anchors_of, base, tiny_config, CONFIG, PROMPTS, digest=digest, kept=kept)
            for _ in range(3)
        ]
        assert all(are_same(future.result(), futures[0].result()) for future in futures)
    assert len(made) == 1


def test_nothing_is_made_where_nothing_is_held_and_nothing_of_a_damaged_base(
    tiny_config: BaseConfig, tmp_path: Path
) -> None:
    base, kept = tmp_path / "base", tmp_path / "anchors"
    convert_base(tiny_config, base)
    free = CONFIG.model_copy(update={"general_share": (0.0, 0.0), "shift_weight": 0.0})
    assert anchors_of(base, tiny_config, free, PROMPTS, digest="", kept=kept) is NO_ANCHORS
    with pytest.raises(ModelSourceError, match="damaged"):
        anchors_of(base, tiny_config, CONFIG, PROMPTS, digest="another", kept=kept)
    assert not kept.exists()
