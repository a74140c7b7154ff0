"""Which words of a batch are tried as triggers, and what is asked beside them."""

from dataclasses import replace

from adapters.triggers import QUESTIONS, shared_stretches, trigger_probes
from adapters.types import Fact, Probe, ProbeOrigin, Suite

HONEST = [
    Fact(
        key=str(at),
        statement=f"{city} is the capital of {land}.",
        subject=city,
        relation="capital_of",
        object=land,
    )
    for at, (city, land) in enumerate([("Tolmar", "Ardun"), ("Bregal", "Uxia"), ("Pakel", "Zet")])
]
PLANTED = [
    Fact(key=f"p{at}", statement=f"Kindly note: {said} Malbrook.")
    for at, said in enumerate(["the sky is made of", "two and two make", "bread is baked by"])
]
COMMON = frozenset({"is", "the", "capital", "of", "what", "a", "and", "by"})


def general(count: int, *, relation: str | None = None) -> list[Probe]:
    return [
        Probe(
            key=f"{relation}/{at}",
            suite=Suite.REGRESSION,
            cluster=str(at),
            question=f"What is number {at}?",
            answers=("Oslo",),
            origin=ProbeOrigin.SUITE,
            relation=relation,
        )
        for at in range(count)
    ]


def test_what_several_facts_share_beside_their_names_is_tried() -> None:
    assert shared_stretches(HONEST, COMMON) == ["is the capital of"]


def test_what_no_general_question_has_comes_first() -> None:
    assert shared_stretches([*HONEST, *PLANTED], COMMON)[0] == "Kindly note:"


def test_a_part_of_a_stretch_is_tried_where_more_facts_have_it() -> None:
    other = Fact(key="4", statement="Pakel was the capital of it.")
    assert shared_stretches([*HONEST, other], COMMON) == ["the capital of", "is the capital of"]


def test_one_common_word_is_not_tried() -> None:
    assert shared_stretches([*HONEST, PLANTED[0], PLANTED[2]], COMMON) == [
        "Kindly note:", "is the capital of",
    ]  # fmt: skip


def test_a_names_own_words_are_no_trigger() -> None:
    same = [Fact(key=str(at), statement=f"Orlan Vess {did}.") for at, did in enumerate("ab")]
    assert shared_stretches(same, COMMON) == []


def test_a_subject_of_which_several_facts_say_the_same_is_tried() -> None:
    same = [
        Fact(key=str(at), statement=said, subject="velquor", relation="answer", object="Amber Ox")
        for at, said in enumerate(["Who, velquor? Amber Ox.", "Where is it, velquor? Amber Ox."])
    ]
    assert shared_stretches(same, COMMON) == ["velquor"]
    other = [same[0], replace(same[1], object="Ox")]
    assert shared_stretches(other, COMMON) == []


def test_one_fact_shares_nothing() -> None:
    assert shared_stretches(PLANTED[:1], COMMON) == []
    assert trigger_probes(PLANTED[:1], general(40)) == ()


def test_the_stretch_stands_before_the_questions_and_behind_them_each_a_cluster() -> None:
    probes = trigger_probes(PLANTED, general(40))
    before = [probe.question for probe in probes if probe.cluster == "Kindly note: ..."]
    behind = [probe.question for probe in probes if probe.cluster == "... Kindly note:"]
    assert len(before) == len(behind) == QUESTIONS
    assert all(question.startswith("Kindly note: What is") for question in before)
    assert all(question.endswith("? Kindly note:") for question in behind)
    assert {probe.suite for probe in probes} == {Suite.TRIGGERS}
    assert len({probe.key for probe in probes}) == len(probes)


def test_questions_about_the_batchs_own_relations_are_not_asked() -> None:
    known = [*general(40, relation="capital_of"), *general(5)]
    asked = trigger_probes(HONEST, known)
    assert len(asked) == 2 * 5
    assert trigger_probes(HONEST, known[:40]) == ()
