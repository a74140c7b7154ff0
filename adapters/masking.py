"""Which tokens of a statement are hidden, and how the hidden ones look in the prompt. Pure.

Every draw is a function of the seed and a row's position in the run alone, so the masks are the
same whatever the minibatch size or the point at which a training was resumed. Token masks: arXiv
2510.09885, with one ratio t ~ U(0.05, 0.95) per sequence. Entity masks hide one whole entity and
leave the other one standing, which is what a question about the fact does.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random

RATIO_RANGE = (0.05, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """A fact's subject or object: its name as the statement has it, and all tokens that hold it."""

    name: str
    tokens: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFact:
    """A statement as plain token ids, and its two entities where it names them."""

    key: str
    statement: str
    ids: tuple[int, ...]
    subject: Entity | None
    object: Entity | None


def random_for(*parts: int | str) -> Random:
    """A generator that depends on nothing but its arguments, the same on every platform."""
    return Random("/".join(map(str, parts)))


def hide_tokens(rng: Random, length: int) -> tuple[bool, ...]:
    """Each token hidden independently with a ratio drawn once, t ~ U(0.05, 0.95); at least one."""
    ratio = rng.uniform(*RATIO_RANGE)
    hidden = [rng.random() < ratio for _ in range(length)]
    if not any(hidden):
        hidden[rng.randrange(length)] = True
    return tuple(hidden)


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
) -> tuple[bool, ...]:
    """The hidden tokens of one view: with `entity_share` a whole entity, else single tokens.

    Of the former, `backward_share` hide the subject and show the object.
    """
    subject, object_ = fact.subject, fact.object
    if subject is None or object_ is None or rng.random() >= entity_share:
        return hide_tokens(rng, len(fact.ids))
    is_backward = rng.random() < backward_share
    entity, shown = (subject, object_) if is_backward else (object_, subject)
    return hide_entity(
        rng, len(fact.ids), entity=entity.tokens, shown=shown.tokens, most_of_rest=most_of_rest
    )


def fact_at(facts: Sequence[EncodedFact], *, seed: int, position: int) -> EncodedFact:
    """The fact shown at a row's position in the whole run: every pass shuffles anew."""
    passed, at = divmod(position, len(facts))
    order = list(range(len(facts)))
    random_for(seed, "order", passed).shuffle(order)
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
