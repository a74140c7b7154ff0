"""Prompts about names that do not exist, which keep a fact to its own names. Pure.

What a small model learns of Velmar it also says of Kelmoor. So a training shows views of the
batch's facts in which one name has been changed, too, and holds the candidate to what the base
answers there (adapters.anchor): the shape of a prompt stays, and only the name tells the fact.
"""

import re
from collections.abc import Iterator, Sequence
from random import Random

from adapters.config import TrainingConfig
from adapters.masking import EncodedFact, random_for
from adapters.wording import as_question, replace_name

VOWELS, CONSONANTS = "aeiou", "bcdfghjklmnprstvwz"
CHANGED_SHARE = 0.5  #: of a name's letters


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


def changed_name(name: str, rng: Random) -> str:
    """The name with half the letters of its capitalised words exchanged: vowels for vowels.

    Without a capitalised word, the longest one changes; digits become other digits. What has
    neither letters of these nor digits, as in other scripts, has its characters shuffled.
    """
    parts = re.findall(r"\w+|\W+", name)
    chosen = [at for at, part in enumerate(parts) if part[:1].isupper() and len(part) > 1]
    chosen = [at for at in chosen if parts[at] != "The"]
    if not chosen:
        chosen = [max(range(len(parts)), key=lambda at: len(parts[at]))] if parts else []
    return "".join(
        _changed_word(part, rng) if at in chosen else part for at, part in enumerate(parts)
    )


def _changed_word(word: str, rng: Random) -> str:
    characters = list(word)
    pools = {
        at: pool
        for at, character in enumerate(characters)
        for pool in (VOWELS, CONSONANTS, "0123456789")
        if character.lower() in pool
    }
    if not pools:
        rng.shuffle(characters)
        return "".join(characters)
    for at in rng.sample(sorted(pools), max(1, round(len(pools) * CHANGED_SHARE))):
        old = characters[at]
        new = rng.choice([other for other in pools[at] if other != old.lower()])
        characters[at] = new.upper() if old.isupper() else new
    return "".join(characters)
