"""Make the probes of a fact: given with it, from its triple, or by cloze. Pure.

A fact's own probes come first. Else its relation's templates, where it names subject, relation and
object. Else, from the bare statement, a cloze that hides the object or the subject, where the fact
says what they are. A fact for which nothing can be made gets no probes: it can be trained, but
never counted as learned.

The same questions about names that do not exist are the leakage probes: a fact's answer must not
come there. Those of facts that the model knows already are the retention probes, and those of facts
that the batch replaces the superseded ones.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice

from adapters.grading import SCALES, contains, is_exact, words
from adapters.masking import random_for
from adapters.names import find_names
from adapters.types import Direction, Fact, Probe, ProbeOrigin, Suite
from adapters.wording import changed_name, replace_name

SUITE_OF = {Direction.FORWARD: Suite.FORWARD, Direction.BACKWARD: Suite.BACKWARD}
CLOZE = "Complete this sentence with what is missing: {cloze}"
BLANK = "____"

Asked = tuple[Direction, str, tuple[str, ...]]  #: direction, question, accepted answers


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationTemplates:
    """Wordings that ask for the object by {subject}, and for the subject by {object}."""

    forward: tuple[str, ...]
    backward: tuple[str, ...]
    is_symmetric: bool = False  #: whether it holds the other way round, too, as between siblings


def probes_of(
    fact: Fact,
    relations: Mapping[str, RelationTemplates],
    *,
    without: Collection[Direction] = (),
) -> tuple[Probe, ...]:
    """All probes of a fact, every wording of one direction in the fact's own cluster.

    A question that contains one of its own answers would be right by echo, and is left out; so are
    the directions of `without`.
    """
    suites = {SUITE_OF[direction] for direction in without}
    return tuple(probe for probe in _all_probes(fact, relations) if probe.suite not in suites)


def _all_probes(fact: Fact, relations: Mapping[str, RelationTemplates]) -> tuple[Probe, ...]:
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
                fact=fact.key,
            )


def ambiguous_directions(
    fact: Fact, others: Iterable[Fact], *, symmetric: Collection[str] = ()
) -> dict[Direction, str]:
    """Directions in which other facts give another right answer, and which facts those are.

    "Who works for X?" is no question while ten people do, nor is "____ works for X" where that is
    all that was said. What its own probes ask is its sender's business. A fact of a relation in
    `symmetric` says what it says the other way round, too.
    """
    if fact.probes:
        return {}
    if not (fact.subject and fact.relation and fact.object):
        return _answered_otherwise(fact, others)
    subject, object_ = plain_name(fact.subject), plain_name(fact.object)
    reasons: dict[Direction, str] = {}
    both_ways = fact.relation in symmetric
    for other in (seen for one in others for seen in _ways_round(one, both_ways)):
        if other.relation != fact.relation or not (other.subject and other.object):
            continue
        same_subject = plain_name(other.subject) == subject
        same_object = plain_name(other.object) == object_
        if same_subject and not is_same_value(other.object, fact.object):
            reasons.setdefault(
                Direction.FORWARD,
                f"Fact {other.key} says {fact.relation} of {fact.subject}, too: {other.object}.",
            )
        if same_object and not same_subject:
            reasons.setdefault(
                Direction.BACKWARD,
                f"Fact {other.key} says {fact.relation} {fact.object}, too: {other.subject}.",
            )
    return reasons


def is_same_value(one: str, other: str) -> bool:
    """Whether two objects are one, in whatever spelling of a name, a number or a date."""
    return plain_name(one) == plain_name(other) or is_exact(one, [other])


def gaps_of(fact: Fact) -> list[tuple[str, str]]:
    """What stands before and behind each gap that a bare statement is asked for.

    A statement with the same two around another name makes the question ambiguous.
    """
    if fact.probes or (fact.subject and fact.relation and fact.object):
        return []
    lead = CLOZE.partition("{cloze}")[0]
    clozes = [question.removeprefix(lead) for _, question, _ in _from_cloze(fact)]
    return [(cloze.split(BLANK)[0], cloze.split(BLANK)[-1]) for cloze in clozes]


def must_be_gone(old: Fact, new: Fact) -> bool:
    """Whether the old answer may not come once the new fact was learned."""
    return bool(old.object) and not contains(new.object or new.statement, [str(old.object)])


def _answered_otherwise(fact: Fact, others: Iterable[Fact]) -> dict[Direction, str]:
    """The directions in which a bare statement leaves the same gap as another one does."""
    asked = {(direction, question): answers for direction, question, answers in _from_cloze(fact)}
    reasons: dict[Direction, str] = {}
    for other in others:
        if other.key == fact.key or other.probes:
            continue
        for direction, question, (answer,) in _from_cloze(other):
            own = asked.get((direction, question))
            if own is not None and plain_name(own[0]) != plain_name(answer):
                reasons.setdefault(
                    direction, f"Fact {other.key} says the same of another one: {answer}."
                )
    return reasons


def _ways_round(fact: Fact, both_ways: bool) -> tuple[Fact, ...]:
    swapped = replace(fact, subject=fact.object, object=fact.subject)
    return (fact, swapped) if both_ways else (fact,)


def plain_name(name: str) -> str:
    """A name to compare: its marks stay, since C++ is not C#."""
    return " ".join(name.casefold().split()).removeprefix("the ")


#: So many facts of the batch are put before a question, its own among them, and so many characters
#: of them: 128 questions are asked at a time.
FACTS_PROMPTED = 8
CHARACTERS_PROMPTED = 800


def with_facts(probe: Probe, facts: Sequence[Fact]) -> str | None:
    """A fact's question with its statement before it, among some of the batch's other ones.

    What a model could say that looked the fact up instead of having learned it. None where the
    fact's own statement alone is too long.
    """
    rng = random_for("prompted", probe.key)
    shown: list[str] = []
    left = CHARACTERS_PROMPTED
    own = [fact for fact in facts if fact.key == probe.fact]
    for fact in (*own, *rng.sample(facts, min(len(facts), FACTS_PROMPTED))):
        if fact.statement in shown or len(shown) == FACTS_PROMPTED:
            continue
        left -= len(fact.statement)
        if left >= 0:
            shown.append(fact.statement)
        elif not shown:
            return None
    rng.shuffle(shown)
    return "\n".join([*shown, "", probe.question])


def retention_probes(probes: Iterable[Probe], suite: Suite = Suite.RETENTION) -> tuple[Probe, ...]:
    """The probes of facts that were learned before, by fact and direction."""
    return tuple(
        replace(
            probe,
            key=f"{suite}/{probe.key}",
            suite=suite,
            cluster=f"{probe.suite}/{probe.cluster}",
        )
        for probe in probes
    )


def superseded_probes(
    replaced: Iterable[tuple[Fact, Fact]], relations: Mapping[str, RelationTemplates]
) -> tuple[Probe, ...]:
    """The probes of old facts, of (old, new) pairs, whose answers must not come any more.

    They belong to the new fact. What the new fact says, too, may be answered: forward its object,
    and backward where it is about the old one's object as well. Where it tells the old answer with
    the new one ("from Paris to Lyon"), so may the model.
    """
    probes = []
    beside: tuple[str, ...]
    for old, new in replaced:
        said = f"{new.statement} {new.object or ''}"
        for probe in probes_of(old, relations):
            if probe.suite is Suite.BACKWARD:
                still = bool(old.object) and contains(said, [str(old.object)])
                gone, beside = () if still else probe.answers, ()
            else:
                new_answer = new.object or said
                gone = tuple(a for a in probe.answers if not contains(new_answer, [a]))
                beside = (new_answer,) if contains(said, gone) else ()
            if gone:
                probes.append(
                    replace(
                        probe,
                        key=f"{Suite.SUPERSEDED}/{probe.key}",
                        suite=Suite.SUPERSEDED,
                        answers=gone,
                        unless=beside,
                        fact=new.key,
                    )
                )
    return tuple(probes)


#: How often leakage comes back to a question with another name.
NAMES_A_QUESTION = 8
#: Words that a request begins with, which no name does.
REQUESTS = frozenset({"Name", "Tell", "Give", "List", "Say"})


def leakage_probes(
    facts: Sequence[Fact], probes: Sequence[Probe], *, at_most: int
) -> tuple[Probe, ...]:
    """The facts' probes asked about names that do not exist, up to `at_most`.

    Each is about a name of its own, so each is a cluster. The answers that must not come are those
    of all the facts to questions of that direction and relation. What names nothing is left out.
    """
    by_key = {fact.key: fact for fact in facts}
    taken = {name for fact in facts for name in (fact.subject, fact.object) if name}
    asked = [probe for probe in probes if probe.fact in by_key]
    random_for("leakage").shuffle(asked)  # so that a cut one is of all facts
    forbidden: dict[tuple[Suite, str | None], dict[str, None]] = {}
    for probe in asked:
        kind = (probe.suite, by_key[str(probe.fact)].relation)
        forbidden.setdefault(kind, {}).update(dict.fromkeys(probe.answers))
    seen: dict[str, Probe] = {}
    for turn in range(NAMES_A_QUESTION):
        for probe in asked:
            fact = by_key[str(probe.fact)]
            question = _about_nobody(probe, fact, taken, turn)
            if question is None or question in seen:
                continue
            answers = [
                answer
                for answer in forbidden[probe.suite, fact.relation]
                if not contains(question, [answer])
            ]
            if answers:
                seen[question] = replace(
                    probe,
                    key=f"{Suite.LEAKAGE}/{probe.key}/{turn}",
                    suite=Suite.LEAKAGE,
                    cluster=f"{probe.key}/{turn}",
                    question=question,
                    answers=tuple(answers),
                )
    return tuple(islice(seen.values(), at_most))


def _about_nobody(probe: Probe, fact: Fact, taken: Collection[str], turn: int) -> str | None:
    """The question with names that do not exist, or None where it names nothing.

    Of a triple's question the one name that it has is exchanged, of any other everything that
    stands out in it, so that nothing is left to know it by.
    """
    rng = random_for("leakage", probe.question, turn)
    lead = CLOZE.partition("{cloze}")[0]
    asked = probe.question.removeprefix(lead)
    names = [name for name in (fact.subject, fact.object) if name]
    if probe.origin is not ProbeOrigin.RELATION:
        names += [name for name in find_names(asked) if name not in REQUESTS]
    changed = asked
    for name in names:
        other = changed_name(name, rng, taken=taken)
        if other is None and replace_name(changed, name, "") != changed:
            return None
        changed = replace_name(changed, name, other or name)
    return None if changed == asked else probe.question[: -len(asked)] + changed


def _from_triple(fact: Fact, templates: RelationTemplates) -> list[Asked]:
    subject, object_ = str(fact.subject), str(fact.object)
    forward: list[Asked] = [
        (Direction.FORWARD, _filled(template, "{subject}", subject), (object_,))
        for template in templates.forward
    ]
    backward: list[Asked] = [
        (Direction.BACKWARD, _filled(template, "{object}", object_), (subject,))
        for template in templates.backward
    ]
    return forward + backward


def _filled(template: str, field: str, name: str) -> str:
    """The wording about a name, whose own article comes in the place of the template's.

    By str.replace, not str.format: a brace in a name is a brace.
    """
    if name[:4].lower() == "the ":
        template = template.replace(f"the {field}", field).replace(f"The {field}", field)
    return template.replace(field, name)


def _from_cloze(fact: Fact) -> list[Asked]:
    return list(_clozes(fact.statement, fact.subject, fact.object))


@lru_cache(maxsize=4096)  # each bare fact of a batch is held against all the others
def _clozes(statement: str, subject: str | None, object_: str | None) -> tuple[Asked, ...]:
    first, last = _ends(statement)
    asked: list[Asked] = []
    for direction, hidden in (
        (Direction.FORWARD, object_ or last),
        (Direction.BACKWARD, subject or first),
    ):
        if not (hidden and words(hidden)):
            continue
        cloze = replace_name(statement, hidden, BLANK)  # as whole words: "5" is not in 2005
        if cloze != statement:
            asked.append((direction, CLOZE.replace("{cloze}", cloze), (hidden,)))
    return tuple(asked)


def _ends(statement: str) -> tuple[str | None, str | None]:
    """The names that a bare statement begins and ends with, the first one with its article.

    A statement that ends without a name gives its last two words; one that begins without a name
    ("Our office ...", "In 2024 ...") gives nothing, since its first words could stand in front of
    anything.
    """
    tokens = statement.strip().rstrip(".!?").split()
    named = [token[:1].isupper() or token[:1].isdigit() for token in tokens]
    if len(tokens) < 4 or all(named):
        return None, None
    tail = len(tokens) - named[::-1].index(False)
    name = next(iter(find_names(statement)), None)
    name = name and name.removesuffix("'s").removesuffix("\u2019s")
    begun = name and re.match(rf"\W*((?:(?:the|an?)\s+)?{re.escape(name)})", statement, re.I)
    first = begun[1] if begun else None
    if begun and str(name)[-1].isdigit():  # "5 million" is no 5
        scale = re.match(rf"\s+(?:{'|'.join(SCALES)})\b", statement[begun.end() :])
        first = f"{first}{scale[0] if scale else ''}"
    return first, " ".join(tokens[tail:] or tokens[-2:])
