"""Make the probes of a fact: given with it, from its triple, or by cloze. Pure.

A fact's own probes come first. Else its relation's templates, where it names subject, relation and
object. Else, from the bare statement, a cloze that hides the object or the subject, where the fact
says what they are. A fact for which nothing can be made gets no probes: it can be trained, but
never counted as learned.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from adapters.grading import contains, words
from adapters.types import Direction, Fact, Probe, ProbeOrigin, Suite

SUITE_OF = {Direction.FORWARD: Suite.FORWARD, Direction.BACKWARD: Suite.BACKWARD}
CLOZE = "Complete this sentence with what is missing: {cloze}"
BLANK = "____"

Asked = tuple[Direction, str, tuple[str, ...]]  #: direction, question, accepted answers


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationTemplates:
    """Wordings that ask for the object by {subject}, and for the subject by {object}."""

    forward: tuple[str, ...]
    backward: tuple[str, ...]


def probes_of(fact: Fact, relations: Mapping[str, RelationTemplates]) -> tuple[Probe, ...]:
    """All probes of a fact, every wording of one direction in the fact's own cluster.

    A question that contains one of its own answers would be right by echo, and is left out.
    """
    templates = relations.get(fact.relation or "")
    if fact.probes:
        asked = [(given.direction, given.question, given.answers) for given in fact.probes]
        return tuple(_probes(fact, asked, ProbeOrigin.GIVEN))
    if templates and fact.subject and fact.object:
        return tuple(_probes(fact, _from_triple(fact, templates), ProbeOrigin.RELATION))
    return tuple(_probes(fact, _from_cloze(fact), ProbeOrigin.CLOZE))


def _probes(fact: Fact, asked: list[Asked], origin: ProbeOrigin) -> Iterator[Probe]:
    for at, (direction, question, answers) in enumerate(asked):
        if not contains(question, answers):
            yield Probe(
                key=f"{fact.key}/{direction}/{at}",
                suite=SUITE_OF[direction],
                cluster=fact.key,
                question=question,
                answers=answers,
                origin=origin,
            )


def _from_triple(fact: Fact, templates: RelationTemplates) -> list[Asked]:
    subject, object_ = str(fact.subject), str(fact.object)
    # str.replace, not str.format: a brace in a name is a brace.
    forward: list[Asked] = [
        (Direction.FORWARD, template.replace("{subject}", subject), (object_,))
        for template in templates.forward
    ]
    backward: list[Asked] = [
        (Direction.BACKWARD, template.replace("{object}", object_), (subject,))
        for template in templates.backward
    ]
    return forward + backward


def _from_cloze(fact: Fact) -> list[Asked]:
    first, last = _ends(fact.statement)
    asked: list[Asked] = []
    for direction, hidden in (
        (Direction.FORWARD, fact.object or last),
        (Direction.BACKWARD, fact.subject or first),
    ):
        if hidden and words(hidden) and hidden in fact.statement:
            cloze = fact.statement.replace(hidden, BLANK)
            asked.append((direction, CLOZE.replace("{cloze}", cloze), (hidden,)))
    return asked


def _ends(statement: str) -> tuple[str | None, str | None]:
    """The names that a bare statement begins and ends with: runs of capitalised words or numbers.

    A statement that ends without a name gives its last two words; one that begins without a name
    gives nothing, since its first words could stand in front of anything.
    """
    tokens = statement.strip().rstrip(".!?").split()
    named = [token[:1].isupper() or token[:1].isdigit() for token in tokens]
    if len(tokens) < 4 or all(named):
        return None, None
    lead = named.index(False)
    tail = len(tokens) - named[::-1].index(False)
    first = " ".join(tokens[:lead])
    return (
        first if lead and first.casefold() not in {"the", "a", "an"} else None,
        " ".join(tokens[tail:] or tokens[-2:]),
    )
