"""Which tokens of a statement are hidden, and how the hidden ones look in the prompt. Pure.

Every draw is a function of the seed and a row's position in the run alone, so the masks are the
same whatever the minibatch size, the number of processes or the point at which a training was
resumed. Token masks: arXiv 2510.09885, with one ratio t per sequence. Entity masks hide one whole
entity and leave the other one standing, which is what a question about the fact does.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """What a fact names: as the statement has it, and all tokens that hold it."""

    name: str
    tokens: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two entities of a fact, either of which can be asked for while the other is shown."""

    subject: Entity
    object: Entity


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFact:
    """A statement as plain token ids, its words, and the pairs of entities that it names."""

    key: str
    statement: str
    ids: tuple[int, ...]
    words: tuple[tuple[int, ...], ...]  #: the tokens of each word
    pairs: tuple[Pair, ...]  #: one where the record says them, any number found in bare text


def random_for(*parts: int | str) -> Random:
    """A generator that depends on nothing but its arguments, the same on every platform."""
    return Random("/".join(map(str, parts)))


def hide_units(rng: Random, units: Sequence[Collection[int]], *, ratio: float) -> tuple[bool, ...]:
    """Each unit (a token, or a word's tokens) hidden independently with probability `ratio`."""
    hidden = {at for unit in units if rng.random() < ratio for at in unit}
    return tuple(at in hidden for at in range(sum(map(len, units))))


def hide_some(rng: Random, units: Sequence[Collection[int]], *, ratio: float) -> tuple[bool, ...]:
    """Like `hide_units`, and at least one unit."""
    hidden = hide_units(rng, units, ratio=ratio)
    if any(hidden):
        return hidden
    chosen = rng.choice(units)
    return tuple(at in chosen for at in range(len(hidden)))


def hide_entity(
    rng: Random,
    length: int,
    *,
    entity: Collection[int],
    shown: Collection[int],
    most_of_rest: float,
) -> tuple[bool, ...]:
    """All of `entity` hidden, nothing of `shown`, of the rest a part drawn up to `most_of_rest`."""
    ratio = rng.uniform(0.0, most_of_rest)
    return tuple(at in entity or (at not in shown and rng.random() < ratio) for at in range(length))


def draw_hidden(
    rng: Random,
    fact: EncodedFact,
    *,
    entity_share: float,
    most_of_rest: float,
    backward_share: float,
    word_share: float,
    ratio_range: tuple[float, float],
) -> tuple[bool, ...]:
    """The hidden tokens of one view: with `entity_share` a whole entity, else tokens or words.

    Of the former, `backward_share` hide the subject and show the object; of the latter,
    `word_share` hide whole words.
    """
    if fact.pairs and rng.random() < entity_share:
        asked_for, shown = draw_asked(rng, fact, backward_share=backward_share)
        return hide_entity(
            rng,
            len(fact.ids),
            entity=asked_for.tokens,
            shown=shown.tokens,
            most_of_rest=most_of_rest,
        )
    by_word = rng.random() < word_share
    units = fact.words if by_word else [(at,) for at in range(len(fact.ids))]
    return hide_some(rng, units, ratio=rng.uniform(*ratio_range))


def draw_asked(rng: Random, fact: EncodedFact, *, backward_share: float) -> tuple[Entity, Entity]:
    """The entity to be asked for, and the one to be shown: backward, the subject is asked for."""
    pair = rng.choice(fact.pairs)
    is_backward = rng.random() < backward_share
    return (pair.subject, pair.object) if is_backward else (pair.object, pair.subject)


def fact_at(facts: Sequence[EncodedFact], *stream: int | str, position: int) -> EncodedFact:
    """The fact shown at a row's position in a stream of rows: every pass shuffles anew."""
    passed, at = divmod(position, len(facts))
    order = list(range(len(facts)))
    random_for(*stream, "order", passed).shuffle(order)
    return facts[order[at]]


def collapse(ids: Sequence[int], hidden: Sequence[bool], blank: Sequence[int]) -> list[int]:
    """The natural cloze: every run of hidden tokens becomes one blank."""
    shown: list[int] = []
    for at, token in enumerate(ids):
        if not hidden[at]:
            shown.append(token)
        elif at == 0 or not hidden[at - 1]:
            shown.extend(blank)
    return shown


def substitute(ids: Sequence[int], hidden: Sequence[bool], mask: int) -> list[int]:
    """The paper's form: every hidden token becomes the mask token, positions stay one to one."""
    return [mask if is_hidden else token for token, is_hidden in zip(ids, hidden, strict=True)]
