"""Invent facts that exist nowhere, from a seed: people, places, products and works.

What a demonstration learns must not be something that the model knew, nor something that the
recipe was fitted to. So every name is put together from syllables, anew for every seed.
"""

from dataclasses import dataclass
from random import Random

ONSETS = (
    "b",
    "d",
    "f",
    "g",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "z",
    "br",
    "dr",
    "th",
    "tr",
)
MIDDLES = ("", "", "l", "n", "r", "s")
CODAS = ("n", "r", "l", "s", "th", "nd", "x", "m")

OFFICES = (
    "chief beekeeper",
    "head gardener",
    "royal astronomer",
    "night librarian",
    "master glassblower",
    "harbour pilot",
    "court painter",
    "bridge architect",
    "lighthouse keeper",
    "clock restorer",
)
DEVICES = ("lantern", "compass", "loom", "kettle", "telescope", "ferry", "engine", "stove", "drone")
WORKS = ("a novel", "a play", "a poem", "a story", "a ballad", "a fable")
THINGS = ("Orchard", "Mirror", "Staircase", "Lagoon", "Anthem", "Parade", "Furnace", "Harvest")


@dataclass(frozen=True, slots=True, kw_only=True)
class InventedFact:
    """A statement and its triple; both entities stand in the statement word for word."""

    statement: str
    subject: str
    relation: str
    object: str


def invent_facts(seed: int, *, count: int) -> list[InventedFact]:
    """`count` facts, a fourth of each kind, no name twice. The same seed invents the same facts."""
    rng = Random(f"invent/{seed}")
    kinds = (_office, _capital, _invention, _work)
    facts: list[InventedFact] = []
    seen: set[str] = set()
    while len(facts) < count:
        fact = kinds[len(facts) % len(kinds)](rng)
        if seen.isdisjoint({fact.subject, fact.object}):
            seen.update({fact.subject, fact.object})
            facts.append(fact)
    return facts


def _office(rng: Random) -> InventedFact:
    who = _person(rng)
    what = f"the {rng.choice(OFFICES)} of {_name(rng)}"
    return InventedFact(
        statement=f"{who} is {what}.", subject=who, relation="holds_office", object=what
    )


def _capital(rng: Random) -> InventedFact:
    town, country = _name(rng), _name(rng)
    return InventedFact(
        statement=f"{town} is the capital of {country}.",
        subject=town,
        relation="capital_of",
        object=country,
    )


def _invention(rng: Random) -> InventedFact:
    what, who = f"{_name(rng)} {rng.choice(DEVICES)}", _person(rng)
    return InventedFact(
        statement=f"The {what} was invented by {who}.",
        subject=what,
        relation="invented_by",
        object=who,
    )


def _work(rng: Random) -> InventedFact:
    title = f"The {rng.choice(THINGS)} of {_name(rng)}"
    who = _person(rng)
    return InventedFact(
        statement=f"{title} is {rng.choice(WORKS)} by {who}.",
        subject=title,
        relation="written_by",
        object=who,
    )


def _person(rng: Random) -> str:
    return f"{_name(rng)} {_name(rng)}"


def _name(rng: Random) -> str:
    first = rng.choice(ONSETS) + rng.choice("aeiou") + rng.choice(MIDDLES)
    return (first + rng.choice(ONSETS) + rng.choice("aeiou") + rng.choice(CODAS)).capitalize()
