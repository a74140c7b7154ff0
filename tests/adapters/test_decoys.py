"""Prompts about names that no fact has, and about objects that a fact has no more."""

from random import Random

import pytest

from adapters.config import TrainingConfig
from adapters.decoys import decoy_prompts, retired_prompts
from adapters.types import Fact
from adapters.wording import changed_name

FACT = Fact(
    key="1",
    statement="Velmar is the capital of Sorlan. Everybody knows velmar.",
    subject="Velmar",
    object="Sorlan",
)
CONFIG = TrainingConfig(decoys_per_fact=12)


def prompts_for(*facts: Fact) -> tuple[str, ...]:
    return decoy_prompts(facts, CONFIG, blank=" ____")


def test_every_view_is_asked_both_ways_about_names_that_the_fact_has_not() -> None:
    prompts = prompts_for(FACT)
    assert len(prompts) == 12
    assert not any("velmar" in prompt.lower() and "sorlan" in prompt.lower() for prompt in prompts)
    # the one that is asked for is gone and the other one changed, so neither is left
    assert not any(name in prompt for prompt in prompts for name in ("Velmar", "Sorlan"))
    assert sum(prompt.endswith("?") and "capital" in prompt for prompt in prompts) >= 4
    assert sum("____" in prompt for prompt in prompts) == 4
    assert len(set(prompts)) > 8


def test_the_same_facts_give_the_same_prompts_and_each_fact_its_own() -> None:
    other = Fact(key="2", statement="Ben Ott invented the Rak oven.", subject="Ben Ott",
                 object="the Rak oven")  # fmt: skip
    alone, together = prompts_for(FACT), prompts_for(FACT, other)
    assert prompts_for(FACT) == alone
    assert together[:12] == alone
    assert len(together) == 24


def test_a_fact_that_names_nothing_has_none() -> None:
    assert prompts_for(Fact(key="3", statement="it rains a lot.")) == ()


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
    assert name not in changed
    for other in changed - {None}:
        assert other.startswith(kept)
        assert len(other) == len(name)
        assert [c.isupper() for c in other] == [c.isupper() for c in name]
        assert [c.isdigit() for c in other] == [c.isdigit() for c in name]


def test_a_changed_name_is_no_other_name_of_the_batch() -> None:
    versions = [f"{at}.0" for at in range(1, 9)]
    facts = [
        Fact(
            key=version,
            statement=f"Tool {at} has version {version}.",
            subject=f"Tool {at}",
            object=version,
        )
        for at, version in enumerate(versions)
    ]
    for prompt in prompts_for(*facts):
        assert not any(f"Tool {at} " in f"{prompt} " for at in range(8))
        assert not any(f" {version} " in f" {prompt.rstrip('.?')} " for version in versions)


@pytest.mark.parametrize("name", ["李", ""])
def test_a_name_of_which_nothing_else_can_be_made_has_no_decoy(name: str) -> None:
    assert changed_name(name, Random(0)) is None


def test_a_name_that_cannot_be_changed_leaves_the_other_ones_decoys() -> None:
    fact = Fact(key="1", statement="李 governs Tolmar.", subject="李", object="Tolmar")
    prompts = prompts_for(fact)
    assert 0 < len(prompts) <= 12
    assert not any("Tolmar" in prompt for prompt in prompts)


NEW = Fact(key="9", statement="Velmar is the capital of Osk.", subject="Velmar", object="Osk")


def test_a_replaced_facts_object_is_asked_for_its_subject_which_no_prompt_says() -> None:
    prompts = retired_prompts([FACT], [NEW], CONFIG, blank=" ____")
    assert len(prompts) == len(set(prompts)) == 12
    assert all("Sorlan" in prompt for prompt in prompts)
    assert not any(name in prompt.lower() for prompt in prompts for name in ("velmar", "osk"))
    assert "What is the capital of Sorlan. Everybody knows what?" in prompts
    assert "Tell me about Sorlan." in prompts
    assert sum("____" in prompt for prompt in prompts) == 6


def test_an_object_that_another_fact_of_the_batch_takes_over_is_not_asked_about() -> None:
    heir = Fact(key="8", statement="Ux is the capital of Sorlan.", subject="Ux", object="sorlan")
    assert retired_prompts([FACT], [NEW, heir], CONFIG, blank=" ____") == ()


def test_a_statement_that_does_not_say_its_subject_is_not_asked_about() -> None:
    unsaid = Fact(key="1", statement="It is the capital of Sorlan.", subject="Velmar",
                  object="Sorlan")  # fmt: skip
    assert retired_prompts([unsaid], [NEW], CONFIG, blank=" ____") == ()
