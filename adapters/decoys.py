"""Prompts about names that do not exist, which keep a fact to its own names. Pure.

What a small model learns of Velmar it also says of Kelmoor. So a training shows views of the
batch's facts in which one name has been changed, too, and holds the candidate to what the base
answers there (adapters.anchor): the shape of a prompt stays, and only the name tells the fact.
"""

from collections.abc import Iterator, Sequence
from random import Random

from adapters.config import TrainingConfig
from adapters.masking import EncodedFact, random_for
from adapters.wording import as_question, changed_name, replace_name


def decoy_prompts(
    facts: Sequence[EncodedFact], config: TrainingConfig, *, blank: str
) -> tuple[str, ...]:
    """`decoys_per_fact` prompts for each fact that names entities, a third of each kind of view.

    The same facts and seed give the same prompts.
    """
    prompts = []
    for fact in facts:
        if fact.pairs:
            views = _views(fact, config, random_for(config.seed, "decoys", fact.statement), blank)
            prompts += [next(views) for _ in range(config.decoys_per_fact)]
    return tuple(prompts)


def _views(fact: EncodedFact, config: TrainingConfig, rng: Random, blank: str) -> Iterator[str]:
    """Without end: an entity's changed name in turn alone, beside a question, beside a blank."""
    while True:
        pair = rng.choice(fact.pairs)
        for named, other in ((pair.subject, pair.object), (pair.object, pair.subject)):
            changed = changed_name(named.name, rng)
            yield rng.choice(config.about_wordings).replace("{entity}", changed)
            statement = replace_name(fact.statement, named.name, changed)
            yield as_question(replace_name(statement, other.name, rng.choice(("what", "who"))))
            yield rng.choice(config.wordings).replace(
                "{masked}", replace_name(statement, other.name, blank.strip())
            )
