"""Prompts about names that no fact has."""

from random import Random

import pytest

from adapters.backbones import Backbone
from adapters.config import TrainingConfig
from adapters.decoys import changed_name, decoy_prompts
from adapters.rows import encode_fact
from adapters.types import Fact

FACT = Fact(
    key="1",
    statement="Velmar is the capital of Sorlan. Everybody knows velmar.",
    subject="Velmar",
    object="Sorlan",
)
CONFIG = TrainingConfig(decoys_per_fact=12)


def prompts_for(backbone: Backbone, *facts: Fact) -> tuple[str, ...]:
    return decoy_prompts([encode_fact(backbone, fact) for fact in facts], CONFIG, blank=" ____")


def test_every_view_is_asked_both_ways_about_names_that_the_fact_has_not(tiny: Backbone) -> None:
    prompts = prompts_for(tiny, FACT)
    assert len(prompts) == 12
    assert not any("velmar" in prompt.lower() and "sorlan" in prompt.lower() for prompt in prompts)
    # the one that is asked for is gone and the other one changed, so neither is left
    assert not any(name in prompt for prompt in prompts for name in ("Velmar", "Sorlan"))
    assert sum(prompt.endswith("?") and "capital" in prompt for prompt in prompts) >= 4
    assert sum("____" in prompt for prompt in prompts) == 4
    assert len(set(prompts)) > 8


def test_the_same_facts_give_the_same_prompts_and_each_fact_its_own(tiny: Backbone) -> None:
    other = Fact(key="2", statement="Ben Ott invented the Rak oven.", subject="Ben Ott",
                 object="the Rak oven")  # fmt: skip
    alone, together = prompts_for(tiny, FACT), prompts_for(tiny, FACT, other)
    assert prompts_for(tiny, FACT) == alone
    assert together[:12] == alone
    assert len(together) == 24


def test_a_fact_that_names_nothing_has_none(tiny: Backbone) -> None:
    assert prompts_for(tiny, Fact(key="3", statement="it rains a lot.")) == ()


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Velmar", ""),
        ("the chief beekeeper of Talmin", "the chief beekeeper of "),
        ("The Mirror of Bolsek", "The "),
        ("photosynthesis", ""),
        ("Apollo 13", ""),
        ("1984", ""),
        ("北京市", ""),
        ("O'Brien", ""),
    ],
)
def test_a_changed_name_has_the_shape_of_the_old_one(name: str, kept: str) -> None:
    rng = Random(0)
    changed = {changed_name(name, rng) for _ in range(20)}
    assert changed != {name}
    for other in changed:
        assert other.startswith(kept)
        assert len(other) == len(name)
        assert [c.isupper() for c in other] == [c.isupper() for c in name]
        assert [c.isdigit() for c in other] == [c.isdigit() for c in name]


def test_nothing_comes_of_nothing() -> None:
    assert changed_name("", Random(0)) == ""
