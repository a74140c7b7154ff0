"""Find what a statement is about when nobody said so: names, titles, dates and numbers. Pure.

A rule of thumb for text in Latin script, and no more: whatever it misses is still masked token by
token and word by word. What a fact record names as its subject and object goes before, where the
statement has both.
"""

import re

INSIDE = r"(?:of|the|de|da|di|del|della|der|den|du|la|le|van|von|al|bin|ibn)"  #: never at the ends
MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
CAPITAL = r"[^\W\d_a-z](?:[\w'\u2019.-]*\w)?"
QUOTED = re.compile(r"[\"“«]([^\"”»]{2,})[\"”»]")
DATE = re.compile(rf"(?<!\w)((?:\d{{1,2}}\s+)?{MONTH}(?:\s+\d{{1,2}})?(?:,?\s+\d{{4}})?)(?!\w)")
CAPITALISED = re.compile(
    rf"(?<!\w)((?:{CAPITAL})(?:(?:\s+{INSIDE}){{0,2}}\s+(?:{CAPITAL}|\d+))*)(?!\w)"
)
NUMBER = re.compile(r"(?<![\w.])(\d(?:[\d.,:/-]*\d)?)(?!\w)")
#: Words that a sentence begins with; alone, or in front of a name, they are no part of one.
OPENERS = frozenset(
    re.split(
        r"\s+",
        "a an the this that these those it its he she his her they their we our i you your there "
        "here in on at by for from to of with as and but or if when while where after before since "
        "never always please then thus also both each every such only even although because "
        "until during under over about is was are were be has had have do does did not no all some "
        "many most known born what who which why how",
    )
)
#: Articles of other languages, which many names begin with (La Paz); alone they are none.
ARTICLES_ELSEWHERE = frozenset(
    re.split(r"\s+", "la le les el los las il lo gli der die das ein eine un una une den det de en")
)
#: A statement is asked about so many of its names: more would be a page, not a fact.
MOST_NAMES = 32
#: Words that lead from a name to what is said of it.
LINKS = frozenset(re.split(r"\s+", "is was are were be has had have who which that and as being"))


def find_pairs(statement: str) -> list[tuple[str, str]]:
    """Each of the first names with the longest stretch of the statement outside its mentions.

    The two together are the question that a probe asks either way round: which one is hidden.
    """
    pairs = []
    for name in find_names(statement)[:MOST_NAMES]:
        stretches = re.split(rf"(?<!\w){re.escape(name)}(?!\w)", statement)
        said = _without_links(max(stretches, key=len))
        if re.search(r"\w", said):
            pairs.append((name, said))
    return pairs


def _without_links(stretch: str) -> str:
    said = stretch.strip(' \t\n.,;:!?"“”«»')
    while (first := said.partition(" "))[0].lower() in LINKS:
        said = first[2].lstrip()
    while (last := said.rpartition(" "))[2].lower() in LINKS:
        said = last[0].rstrip()
    return said


def find_names(statement: str) -> list[str]:
    """Titles in quotation marks, dates, runs of capitalised words and numbers, in their order.

    None is there twice, and what lies inside an earlier kind is part of that one.
    """
    taken: list[tuple[int, int]] = []
    for kind in (QUOTED, DATE, CAPITALISED, NUMBER):
        for found in kind.finditer(statement):
            begin, end = found.span(1)
            if kind is CAPITALISED:
                begin = _after_openers(statement, begin, end)
            if begin < end and not any(begin < other and end > at for at, other in taken):
                taken.append((begin, end))
    names = [statement[begin:end].rstrip(" .,;:!?") for begin, end in sorted(taken)]
    return list(dict.fromkeys(filter(None, names)))


def _after_openers(statement: str, begin: int, end: int) -> int:
    """Where the name itself begins; the end where there is none."""
    for word in re.finditer(r"\S+", statement[begin:end]):
        plain = word.group().lower()
        if plain in OPENERS:
            continue
        is_alone = begin + word.end() == end
        is_none = plain.endswith(("ed", "ing", "ly")) or plain in ARTICLES_ELSEWHERE
        return end if is_alone and word.start() == 0 and is_none else begin + word.start()
    return end
