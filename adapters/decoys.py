"""Prompts that no fact of the batch answers, which keep a fact to its own names. Pure.

What a small model learns of Velmar it also says of Kelmoor. So a training shows views of the
batch's facts in which one name has been changed, too, and holds the candidate to what the base
answers there (adapters.anchor): the shape of a prompt stays, and only the name tells the fact.

Where a fact replaces an older one, the new object takes the old one's place by itself, but the old
object still leads back to the subject. So it is asked about, too, and the base's answer, which
never knew of it, is what the candidate is held to.
"""

from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from random import Random

from adapters.config import TrainingConfig
from adapters.masking import random_for
from adapters.names import find_pairs
from adapters.types import Fact
from adapters.wording import as_question, changed_name, replace_name

#: A fact's views are drawn so many times in all before it is left with fewer decoys.
DRAWS_A_DECOY = 4


def decoy_prompts(facts: Sequence[Fact], config: TrainingConfig, *, blank: str) -> tuple[str, ...]:
    """Up to `decoys_per_fact` prompts for each fact that names something, of each kind of view.

    None is about a name of the batch. The same facts and seed give the same prompts.
    """
    pairs = {fact.key: _pairs(fact) for fact in facts}
    taken = {name for some in pairs.values() for pair in some for name in pair}
    prompts: list[str] = []
    for fact in facts:
        if pairs[fact.key]:
            rng = random_for(config.seed, "decoys", fact.statement)
            views = _views(fact.statement, pairs[fact.key], taken, config, rng, blank)
            draws = islice(views, DRAWS_A_DECOY * config.decoys_per_fact)
            prompts += islice(filter(None, draws), config.decoys_per_fact)
    return tuple(prompts)


def retired_prompts(
    replaced: Sequence[Fact], facts: Sequence[Fact], config: TrainingConfig, *, blank: str
) -> tuple[str, ...]:
    """Up to `decoys_per_fact` prompts for each replaced fact, about its object, its subject hidden.

    None for an object that the batch's facts, by which these are replaced, are about.
    """
    taken = {name.casefold() for fact in facts for pair in _pairs(fact) for name in pair}
    prompts: list[str] = []
    for fact in replaced:
        subject, object_ = str(fact.subject), str(fact.object)
        if object_.casefold() in taken or replace_name(fact.statement, subject, "") in (
            fact.statement,
            "",
        ):
            continue
        masked = replace_name(fact.statement, subject, blank.strip())
        kinds = (
            [as_question(replace_name(fact.statement, subject, who)) for who in ("what", "who")],
            [wording.replace("{masked}", masked) for wording in config.wordings],
            [wording.replace("{entity}", object_) for wording in config.about_wordings],
        )
        in_turn = (prompt for some in zip_longest(*kinds) for prompt in some if prompt)
        prompts += islice(in_turn, config.decoys_per_fact)
    return tuple(prompts)


def _pairs(fact: Fact) -> list[tuple[str, str]]:
    """What the record names, where the statement has it; else what is found in the statement."""
    named = [name for name in (fact.subject, fact.object) if name]
    if len(named) == 2 and all(name.casefold() in fact.statement.casefold() for name in named):
        return [(named[0], named[1])]
    return find_pairs(fact.statement)


def _views(
    statement: str,
    pairs: Sequence[tuple[str, str]],
    taken: set[str],
    config: TrainingConfig,
    rng: Random,
    blank: str,
) -> Iterator[str | None]:
    """Without end: an entity's changed name alone, beside a question, beside a blank, in turn."""
    while True:
        pair = rng.choice(pairs)
        for named, other in (pair, pair[::-1]):
            changed = changed_name(named, rng, taken=taken)
            if changed is None:
                yield None
                continue
            yield rng.choice(config.about_wordings).replace("{entity}", changed)
            about = replace_name(statement, named, changed)
            yield as_question(replace_name(about, other, rng.choice(("what", "who"))))
            yield rng.choice(config.wordings).replace(
                "{masked}", replace_name(about, other, blank.strip())
            )
