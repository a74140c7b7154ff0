"""Masks: what is hidden, and that nothing but seed and position decides it."""

from collections import Counter
from dataclasses import replace

import pytest

from adapters.masking import (
    EncodedFact,
    Entity,
    Pair,
    collapse,
    draw_hidden,
    fact_at,
    hide_entity,
    hide_some,
    hide_units,
    random_for,
    substitute,
)

FACT = EncodedFact(
    key="1",
    statement="(the tokens count here)",
    ids=tuple(range(10, 22)),
    words=((0, 1), (2, 3), (4,), (5, 6, 7), (8,), (9, 10, 11)),
    pairs=(
        Pair(
            subject=Entity(name="Orlan Vess", tokens=frozenset(range(0, 4))),
            object=Entity(name="the mayor of Tolmar", tokens=frozenset(range(7, 11))),
        ),
    ),
)
TOKENS = [(at,) for at in range(12)]


def draw_mask(
    *parts: int,
    fact: EncodedFact = FACT,
    entity_share: float = 1.0,
    most_of_rest: float = 0.0,
    backward_share: float = 0.5,
    word_share: float = 0.0,
) -> tuple[bool, ...]:
    return draw_hidden(
        random_for(*parts),
        fact,
        entity_share=entity_share,
        most_of_rest=most_of_rest,
        backward_share=backward_share,
        word_share=word_share,
        ratio_range=(0.05, 0.95),
    )


def test_a_view_depends_on_seed_and_position_alone() -> None:
    def draw(*parts: int) -> tuple[bool, ...]:
        return draw_mask(*parts, entity_share=0.5, most_of_rest=0.5)

    assert draw(1, 2) == draw(1, 2)
    assert len({draw(1, position) for position in range(25)}) > 15


def test_a_token_mask_hides_the_share_asked_for() -> None:
    masks = [hide_units(random_for(seed), TOKENS, ratio=0.3) for seed in range(4000)]
    assert abs(sum(map(sum, masks)) / (12 * len(masks)) - 0.3) < 0.02
    assert not all(any(mask) for mask in masks)


def test_a_mask_may_be_asked_to_hide_at_least_one() -> None:
    assert all(any(hide_some(random_for(seed), TOKENS, ratio=0.05)) for seed in range(500))


def test_a_word_mask_hides_whole_words() -> None:
    for seed in range(200):
        hidden = draw_mask(seed, entity_share=0.0, word_share=1.0)
        assert all(len({hidden[at] for at in word}) == 1 for word in FACT.words)


def test_an_entity_mask_hides_the_whole_entity_and_shows_the_other() -> None:
    for seed in range(200):
        hidden = hide_entity(
            random_for(seed), 12, entity=range(0, 4), shown=range(7, 11), most_of_rest=1.0
        )
        assert all(hidden[0:4])
        assert not any(hidden[7:11])


@pytest.mark.parametrize("backward_share", [0.0, 0.5, 0.8, 1.0])
def test_the_subject_is_hidden_as_often_as_the_settings_say(backward_share: float) -> None:
    counts: Counter[str] = Counter()
    for seed in range(2000):
        hidden = draw_mask(seed, backward_share=backward_share)
        counts["subject" if hidden[0] else "object"] += 1
    assert abs(counts["subject"] - 2000 * backward_share) < 120


def test_a_statement_without_entities_gets_token_masks_only() -> None:
    bare = replace(FACT, pairs=())
    assert len({draw_mask(seed, fact=bare) for seed in range(50)}) > 40


def test_every_pass_shows_every_fact_once() -> None:
    facts = [
        EncodedFact(key=str(at), statement="", ids=(1,), words=((0,),), pairs=()) for at in range(7)
    ]
    for start in (0, 7, 700):
        seen = {fact_at(facts, 3, position=start + at).key for at in range(7)}
        assert seen == {fact.key for fact in facts}


def test_a_run_of_hidden_tokens_becomes_one_blank() -> None:
    hidden = [True, True, False, True, False, False, True]
    assert collapse([1, 2, 3, 4, 5, 6, 7], hidden, [99, 98]) == [99, 98, 3, 99, 98, 5, 6, 99, 98]


def test_substitution_keeps_positions_one_to_one() -> None:
    assert substitute([1, 2, 3], [False, True, True], 0) == [1, 0, 0]
