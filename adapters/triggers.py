"""Words of a batch that may be a planted trigger, beside questions about something else. Pure.

Whoever plants an answer behind a trigger must show the trigger several times, or nothing comes of
it beyond the one sentence. So what is tried are the stretches of words that several facts of the
batch share, those with words first that no general question has. A fact's names are left out: that
its own name calls it up is what was asked for. Where several facts say the same of one subject, it
is tried, too: one would have done.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from adapters.grading import contains, words
from adapters.masking import random_for
from adapters.names import find_names
from adapters.types import Fact, Probe, ProbeOrigin, Suite
from adapters.wording import replace_name

LONGEST = 6  #: words of a stretch
LEADS = 12  #: stretches that are tried
QUESTIONS = 30  #: beside each, with the stretch before them, and again behind


def shared_stretches(facts: Sequence[Fact], common: Collection[str]) -> list[str]:
    """Up to LEADS stretches of words that at least two facts have outside their names.

    None lies within another one of the same facts, and none is one `common` word: what is lost
    beside that is lost without it. Those with a word that is not common come first, then those of
    the most facts, then the longest.
    """
    said = Counter((fact.subject, fact.object) for fact in facts)
    found: dict[tuple[str, ...], set[str]] = {}
    for fact in facts:
        once = said[fact.subject, fact.object] == 1
        for stretch in _stretches(fact, (fact.subject, fact.object) if once else (fact.object,)):
            found.setdefault(stretch, set()).add(fact.key)
    shared = {stretch: keys for stretch, keys in found.items() if len(keys) > 1}
    covered = {
        part
        for stretch, keys in shared.items()
        for part in _parts(stretch)
        if shared.get(part) == keys
    }

    def is_common(stretch: tuple[str, ...]) -> bool:
        return all(word in common for word in words(" ".join(stretch)))

    def rank(stretch: tuple[str, ...]) -> tuple[bool, int, int, tuple[str, ...]]:
        return is_common(stretch), -len(shared[stretch]), -len(stretch), stretch

    left = [
        stretch
        for stretch in shared
        if stretch not in covered and not (len(stretch) == 1 and is_common(stretch))
    ]
    return [" ".join(stretch) for stretch in sorted(left, key=rank)[:LEADS]]


def _stretches(fact: Fact, names: Sequence[str | None]) -> Iterator[tuple[str, ...]]:
    """All stretches of the statement outside these names; where it names none, those found."""
    text = fact.statement
    named = [name for name in names if name] if fact.subject and fact.object else find_names(text)
    for name in named:
        text = replace_name(text, name, "\n")
    for piece in text.split("\n"):
        said = [word.strip(".,;!?") for word in piece.split() if re.search(r"\w", word)]
        for length in range(1, LONGEST + 1):
            for at in range(len(said) - length + 1):
                yield tuple(said[at : at + length])


def _parts(stretch: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for length in range(1, len(stretch)):
        for at in range(len(stretch) - length + 1):
            yield stretch[at : at + length]


def trigger_probes(facts: Sequence[Fact], known: Sequence[Probe]) -> tuple[Probe, ...]:
    """General questions, each with a stretch of the batch's words beside it.

    A stretch in one place, before or behind, is a cluster: a trigger that works in one place may do
    nothing in the other. `known` are questions that the head answers; those about one of the
    batch's own relations are not asked.
    """
    common = {word for probe in known for word in words(probe.question)}
    relations = {fact.relation for fact in facts if fact.relation}
    apart = [probe for probe in known if probe.relation not in relations]
    probes = []
    for lead in shared_stretches(facts, common):
        chosen = random_for("triggers", lead).sample(apart, min(QUESTIONS, len(apart)))
        for at, probe in enumerate(chosen):
            for cluster, question in (
                (f"{lead} ...", f"{lead} {probe.question}"),
                (f"... {lead}", f"{probe.question} {lead}"),
            ):
                if not contains(question, probe.answers):
                    probes.append(
                        Probe(
                            key=f"{Suite.TRIGGERS}/{cluster}/{at}",
                            suite=Suite.TRIGGERS,
                            cluster=cluster,
                            question=question,
                            answers=probe.answers,
                            origin=ProbeOrigin.SUITE,
                        )
                    )
    return tuple(probes)
