"""Other names in a statement, names that do not exist, and statements as questions. Pure."""

import re
from collections.abc import Collection
from random import Random

from adapters.grading import UNSPACED

VOWELS, CONSONANTS = "aeiou", "bcdfghjklmnpqrstvwxyz"
CHANGED_SHARE = 0.5  #: of a name's letters
TRIES = 8  #: to change a name into one that is not taken


def replace_name(statement: str, name: str, by: str) -> str:
    """Every mention of the name that is not part of a longer word.

    Whatever its case, but for names in capitals: WHO is not "who". Scripts without blanks between
    words tell no word from a part of one.
    """
    case = 0 if name.isupper() else re.IGNORECASE
    before = "" if re.match(rf"[{UNSPACED}]", name) else r"(?<!\w)"
    behind = "" if re.search(rf"[{UNSPACED}]$", name) else r"(?!\w)"
    mention = re.compile(rf"{before}{re.escape(name)}{behind}", case)
    return mention.sub(lambda _: by, statement)


def as_question(statement: str) -> str:
    """The statement with a capital letter in front and a question mark for its full stop."""
    asked = statement.rstrip().removesuffix(".")
    return f"{asked[:1].upper()}{asked[1:]}?"


def changed_name(name: str, rng: Random, *, taken: Collection[str] = ()) -> str | None:
    """The name with half the letters of its capitalised words exchanged: vowels for vowels.

    So are half of a number's digits. With neither, the longest word changes. What has
    neither letters of these nor digits, as in other scripts, has its characters shuffled. None
    where nothing comes of it but the name itself or, whatever their case, those that are `taken`.
    """
    not_these = {name.casefold(), *(other.casefold() for other in taken)}
    parts = re.findall(r"\w+|\W+", name)
    chosen = [
        at
        for at, part in enumerate(parts)
        if (part[:1].isupper() and part != "The") or part.isdigit()
    ]
    if not chosen and parts:
        chosen = [max(range(len(parts)), key=lambda at: len(parts[at]))]
    for _ in range(TRIES):
        changed = "".join(
            _changed_word(part, rng) if at in chosen else part for at, part in enumerate(parts)
        )
        if changed.casefold() not in not_these:
            return changed
    return None


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
