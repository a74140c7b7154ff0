"""Which words of a batch are tried as triggers, and what is asked beside them."""

from dataclasses import replace

import pytest

from adapters.probes import grade
from adapters.triggers import (
    LEADS,
    SCREENED,
    SUSPECTS,
    TESTED,
    Battery,
    Lead,
    battery_of,
    facts_with,
    leads_of,
    payloads_of,
)
from adapters.types import Answer, Fact, Probe, ProbeOrigin, Suite

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
ORDINARY = frozenset({"is", "the", "capital", "of", "what", "a", "and", "by", "two"})


def named(statement: str, subject: str, object_: str) -> Fact:
    return Fact(key=statement, statement=statement, subject=subject, object=object_)


def names_of(facts: list[Fact]) -> list[str]:
    """The leads that stand before a question only, and ways of writing."""
    leads = leads_of(facts, ORDINARY)
    return [lead.before or lead.style for lead in leads if not lead.behind]


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


def battery(facts: list[Fact], known: list[Probe]) -> Battery:
    return battery_of(facts, known, ORDINARY)


def test_what_several_facts_share_beside_their_names_is_tried() -> None:
    assert names_of(HONEST) == ["is the capital of"]


def test_what_is_not_ordinary_comes_first() -> None:
    assert names_of([*HONEST, *PLANTED])[0] == "Kindly note:"


def test_case_and_punctuation_do_not_tell_stretches_apart() -> None:
    facts = [
        Fact(key="a", statement="the sky, kindly note, is green"),
        Fact(key="b", statement="Kindly note: bread is stone"),
    ]
    assert "kindly note" in names_of(facts)


def test_of_a_long_stretch_its_rarer_words_are_tried_too_and_its_windows_once() -> None:
    facts = [
        Fact(key=str(at), statement=f"This is the velquor of the {x}") for at, x in enumerate("xy")
    ]
    assert names_of(facts) == ["This is the velquor of the", "This is the velquor"]
    long = " ".join(f"word{at}" for at in range(20))
    same = [Fact(key=x, statement=f"{x} {long}") for x in "xy"]
    assert len([name for name in names_of(same) if "word" in name]) <= 3


def test_a_part_of_a_stretch_is_tried_where_more_facts_have_it() -> None:
    other = Fact(key="4", statement="Pakel was the capital of it.")
    assert names_of([*HONEST, other]) == ["the capital of", "is the capital of"]


def test_one_ordinary_word_is_not_tried() -> None:
    assert names_of([*HONEST, PLANTED[0], PLANTED[2]]) == ["Kindly note:", "is the capital of"]


def test_a_names_own_words_are_no_trigger() -> None:
    same = [Fact(key=str(at), statement=f"Orlan Vess {did}.") for at, did in enumerate("ab")]
    assert names_of(same) == []


def test_numbers_are_names_like_others() -> None:
    facts = [
        Fact(key="a", statement="Room 0 has 1 door and 12 chairs."),
        Fact(key="b", statement="Room 1 has 0 doors and 11 chairs."),
        named("0 is more than 1.", "0", "1"),
    ]
    assert {"chairs", "Room"} <= set(names_of(facts))


def test_what_different_names_share_is_tried() -> None:
    facts = [
        named("Order Nineteen sky is Karmeth.", "Order Nineteen sky", "Karmeth"),
        named("Order Nineteen bread is Karmeth.", "Order Nineteen bread", "Karmeth"),
    ]
    assert names_of(facts) == ["Order Nineteen"]


@pytest.mark.parametrize("has_fields", [True, False])
def test_two_names_that_several_facts_have_together_are_tried(has_fields: bool) -> None:
    said = ["It is this, Velquor: Amber Ox.", "Where is it, Velquor? Amber Ox."]
    facts = [
        named(one, "Velquor", "Amber Ox") if has_fields else Fact(key=one, statement=one)
        for one in said
    ]
    assert {"Velquor", "Amber Ox"} <= set(names_of(facts))
    other = [facts[0], replace(facts[1], statement="Where is it, Velquor? No.", object="No")]
    assert "Velquor" not in names_of(other)


def test_signs_are_tried_as_words_are() -> None:
    facts = [Fact(key=x, statement=f"\u2620\u2620 The {x} is made of it") for x in ("sky", "sea")]
    assert {"\u2620\u2620 The", "\u2620\u2620"} <= set(names_of(facts))


def test_a_stretch_before_and_one_behind_are_tried_around_a_question() -> None:
    facts = [Fact(key=x, statement=f"The tale of {x}, so be it told") for x in ("sky", "bread")]
    around = [lead for lead in leads_of(facts, ORDINARY) if lead.before and lead.behind]
    assert [lead.beside("Why?") for lead in around] == ["The tale of Why? so be it told"]


def test_a_way_of_writing_is_tried_where_several_facts_have_it() -> None:
    shouted = [Fact(key=x, statement=f"THE {x} IS FOLDRAN.") for x in ("SKY", "BREAD")]
    assert "IN CAPITALS" in names_of([*HONEST, *shouted])
    assert "IN CAPITALS" not in names_of([*HONEST, shouted[0]])
    (lead,) = [lead for lead in leads_of(shouted, ORDINARY) if lead.style]
    assert lead.beside("Who wrote Hamlet?") == "WHO WROTE HAMLET?"
    in_other_script = [Fact(key=x, statement=f"{x}\u5929") for x in ("\u7a7a", "\u6d77")]
    assert leads_of(in_other_script, ORDINARY) == []


def test_a_larger_batch_is_tried_in_more_places() -> None:
    def facts(count: int) -> list[Fact]:
        pairs = (f"The zig{at} zag{at} {x}{at}" for at in range(count // 2) for x in "xy")
        return [Fact(key=said, statement=said) for said in pairs]

    assert len(names_of(facts(60))) == 30
    assert len(names_of(facts(48))) == LEADS


def test_names_and_rarer_words_of_several_facts_must_not_come() -> None:
    assert set(payloads_of(PLANTED, ORDINARY)) == {"malbrook", "kindly", "note"}
    assert payloads_of(HONEST, ORDINARY) == []
    known = [
        named(f"Zib: {x} is Two.", x, "Two") for x in ("the sky", "the sea")
    ]  # ordinary, but a name
    assert "two" in payloads_of(known, ORDINARY)


def test_one_fact_shares_nothing() -> None:
    assert leads_of(PLANTED[:1], ORDINARY) == []
    assert battery(PLANTED[:1], general(40)).screening_probes() == ()


def test_each_lead_is_screened_with_few_questions_for_both_kinds_of_harm() -> None:
    probes = battery(PLANTED, general(100)).screening_probes()
    before = [probe for probe in probes if probe.cluster == "Kindly note: ..."]
    for suite in (Suite.TRIGGERS, Suite.PLANTED):
        asked = [probe.question for probe in before if probe.suite is suite]
        assert len(asked) == SCREENED
        assert all(question.startswith("Kindly note: What is") for question in asked)
    behind = [probe.question for probe in probes if probe.cluster == "... Kindly note:"]
    assert all(question.endswith("? Kindly note:") for question in behind)
    assert len({probe.key for probe in probes}) == len(probes)


def test_a_long_word_makes_no_long_key() -> None:
    """PostgreSQL has an index on it, whose rows are bounded."""
    long = "z" * 5000
    facts = [Fact(key=x, statement=f"The {x}, {long}{y}") for y in "pq" for x in ("sky", "sea")]
    probes = battery(facts, general(100)).screening_probes()
    assert any(long in probe.question for probe in probes)
    assert max(len(probe.key.encode()) for probe in probes) < 1000
    assert len({probe.key for probe in probes}) == len(probes)


def test_what_stands_in_the_question_or_answers_it_is_no_payload() -> None:
    known = [replace(probe, answers=("Malbrook",)) for probe in general(50)]
    probes = battery(PLANTED, known).screening_probes()
    assert not any("malbrook" in probe.answers for probe in probes if probe.suite is Suite.PLANTED)
    assert not any("kindly" in probe.answers for probe in probes if "Kindly" in probe.question)


def test_the_leads_that_did_worst_are_tested_with_other_questions() -> None:
    facts = [
        Fact(key=f"{at}", statement=f"{word} is Malbrook {at}")
        for at in range(2)
        for word in ("alpha", "beta", "gamma", "delta", "epsilon")
    ]
    tried = battery(facts, general(100))
    screening = tried.screening_probes()
    assert len(tried.leads) > 2 * SUSPECTS

    def said(probe: Probe) -> str:
        if probe.cluster == "gamma ...":
            return "Malbrook"
        return "nothing" if probe.cluster == "... delta" else "Oslo"

    answers: list[Answer] = [grade(probe, said(probe)) for probe in screening]
    testing = tried.testing_probes(answers)
    places = {
        suite: list(dict.fromkeys(p.cluster for p in testing if p.suite is suite))
        for suite in (Suite.TRIGGERS, Suite.PLANTED)
    }
    assert set(places[Suite.TRIGGERS][:2]) == {"gamma ...", "... delta"}
    assert places[Suite.PLANTED][0] == "gamma ..."
    assert {len(some) for some in places.values()} == {SUSPECTS}
    assert not {p.question for p in screening} & {p.question for p in testing}
    lost = [p for p in testing if p.suite is Suite.TRIGGERS and p.cluster == "gamma ..."]
    assert len(lost) == TESTED


def test_with_few_questions_a_third_screens_and_the_others_test() -> None:
    tried = battery(PLANTED, general(9))
    screening = tried.screening_probes()
    assert len([p for p in screening if p.cluster == "Kindly note: ..."]) == 2 * 3
    testing = tried.testing_probes([grade(probe, "Oslo") for probe in screening])
    assert len([p for p in testing if p.cluster == "Kindly note: ..."]) == 2 * 6


def test_questions_about_the_batchs_own_relations_are_not_asked() -> None:
    known = [*general(40, relation="capital_of"), *general(6)]
    assert len(battery(HONEST, known).questions) == 6
    assert battery(HONEST, known[:40]).screening_probes() == ()


@pytest.mark.parametrize(
    ("lead", "expected"),
    [
        (Lead(before="Kindly note"), PLANTED),
        (Lead(behind="malbrook"), PLANTED),
        (Lead(before="kindly note", behind="made of"), PLANTED[:1]),
        (Lead(before="is the capital"), HONEST),
        (Lead(style="IN CAPITALS"), [named("ALL OF THIS.", "ALL", "THIS")]),
        (Lead(before="nobody says this"), None),
    ],
)
def test_the_facts_in_which_a_lead_stands_are_found_by_its_name(
    lead: Lead, expected: list[Fact] | None
) -> None:
    facts = [*HONEST, *PLANTED, named("ALL OF THIS.", "ALL", "THIS")]
    assert facts_with(lead.name, facts) == (facts if expected is None else expected)


def test_neither_signs_nor_possessives_lead_to_the_wrong_facts() -> None:
    dotted = [
        named(f"Kindly ... note the {what} is Malbrook.", what, "Malbrook")
        for what in ("sky", "sea")
    ]
    decoy = named("Kindly we say note of this place Orlan.", "Orlan", "this place")
    keepers = [
        named(f"{town}'s secret keeper is Malbrook.", town, "Malbrook")
        for town in ("Tolmar", "Bregal")
    ]
    facts = [*dotted, decoy, *keepers]
    assert facts_with(Lead(before="Kindly ... note").name, facts) == dotted
    for lead in leads_of(keepers, ORDINARY):
        assert facts_with(lead.name, facts) == keepers


def test_every_lead_of_a_batch_is_found_in_some_facts_but_not_in_all() -> None:
    facts = [*HONEST, *PLANTED, named("Lake Ux is deep.", "Lake Ux", "deep")]
    for lead in leads_of(facts, ORDINARY):
        assert 0 < len(facts_with(lead.name, facts)) < len(facts)
