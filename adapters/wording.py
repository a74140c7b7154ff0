"""Other names in a statement, names that do not exist, and statements as questions. Pure."""

import re
from random import Random

VOWELS, CONSONANTS = "aeiou", "bcdfghjklmnprstvwz"
CHANGED_SHARE = 0.5  #: of a name's letters


def replace_name(statement: str, name: str, by: str) -> str:
    """Every mention of the name, whatever its case, that is not part of a longer word."""
    mention = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE)
    return mention.sub(lambda _: by, statement)


def as_question(statement: str) -> str:
    """The statement with a capital letter in front and a question mark for its full stop."""
    asked = statement.rstrip().removesuffix(".")
    return f"{asked[:1].upper()}{asked[1:]}?"


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
