"""Masks: what is hidden, and that nothing but (seed, step, row) decides it."""

from collections import Counter

from adapters.masking import (
    EncodedFact,
    collapse,
    draw_hidden,
    fact_at,
    hide_entity,
    hide_tokens,
    random_for,
    substitute,
)

FACT = EncodedFact(key="1", ids=tuple(range(10, 22)), subject=range(0, 4), object=range(7, 11))


def test_a_view_depends_on_seed_step_and_row_alone() -> None:
    def draw(*parts: int) -> tuple[bool, ...]:
        return draw_hidden(random_for(*parts), FACT, entity_share=0.5, most_of_rest=0.5)

    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(1, step, row) for step in range(5) for row in range(5)}) > 15


def test_a_token_mask_hides_half_of_the_tokens_on_average_and_always_one() -> None:
    masks = [hide_tokens(random_for(seed), 12) for seed in range(4000)]
    assert all(any(mask) for mask in masks)
    share = sum(sum(mask) for mask in masks) / (12 * len(masks))
    assert abs(share - 0.5) < 0.02


def test_an_entity_mask_hides_the_whole_entity_and_shows_the_other() -> None:
    for seed in range(200):
        hidden = hide_entity(
            random_for(seed), 12, entity=range(0, 4), shown=range(7, 11), most_of_rest=1.0
        )
        assert all(hidden[0:4])
        assert not any(hidden[7:11])


def test_both_entities_are_hidden_equally_often() -> None:
    counts: Counter[str] = Counter()
    for seed in range(2000):
        hidden = draw_hidden(random_for(seed), FACT, entity_share=1.0, most_of_rest=0.0)
        counts["subject" if hidden[0] else "object"] += 1
    assert abs(counts["subject"] - 1000) < 120


def test_a_bare_statement_gets_token_masks_only() -> None:
    bare = EncodedFact(key="1", ids=FACT.ids, subject=None, object=None)
    hidden = {
        draw_hidden(random_for(seed), bare, entity_share=1.0, most_of_rest=0.0)
        for seed in range(50)
    }
    assert len(hidden) > 40


def test_every_pass_shows_every_fact_once() -> None:
    facts = [EncodedFact(key=str(at), ids=(1,), subject=None, object=None) for at in range(7)]
    for start in (0, 7, 700):
        seen = {fact_at(facts, seed=3, position=start + at).key for at in range(7)}
        assert seen == {fact.key for fact in facts}


def test_a_run_of_hidden_tokens_becomes_one_blank() -> None:
    hidden = [True, True, False, True, False, False, True]
    assert collapse([1, 2, 3, 4, 5, 6, 7], hidden, [99, 98]) == [99, 98, 3, 99, 98, 5, 6, 99, 98]


def test_substitution_keeps_positions_one_to_one() -> None:
    assert substitute([1, 2, 3], [False, True, True], 0) == [1, 0, 0]
