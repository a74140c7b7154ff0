"""Probes made from facts: given, from the triple, or by cloze."""

from dataclasses import replace
from pathlib import Path

import pytest

from adapters.grading import contains
from adapters.probes import grade
from adapters.questions import (
    RelationTemplates,
    ambiguous_directions,
    gaps_of,
    is_same_value,
    leakage_probes,
    must_be_gone,
    probes_of,
    retention_probes,
    superseded_probes,
    with_facts,
)
from adapters.types import Direction, Fact, GivenProbe, ProbeOrigin, Suite

CONFIGS = Path(__file__).parents[2] / "configs"
RELATIONS = {
    "capital_of": RelationTemplates(
        forward=("{subject} is the capital of what?", "Whose capital is {subject}?"),
        backward=("What is the capital of {object}?",),
    )
}


def capital(**more: object) -> Fact:
    return Fact(
        key="7",
        statement="Velmar is the capital of Tornia.",
        subject="Velmar",
        relation="capital_of",
        object="Tornia",
        **more,  # type: ignore[arg-type]
    )


def test_a_triple_is_asked_in_both_directions_in_every_wording() -> None:
    probes = probes_of(capital(), RELATIONS)
    assert [(probe.suite, probe.question, probe.answers) for probe in probes] == [
        (Suite.FORWARD, "Velmar is the capital of what?", ("Tornia",)),
        (Suite.FORWARD, "Whose capital is Velmar?", ("Tornia",)),
        (Suite.BACKWARD, "What is the capital of Tornia?", ("Velmar",)),
    ]
    assert {probe.cluster for probe in probes} == {"7"}
    assert len({probe.key for probe in probes}) == 3


def test_given_probes_stand_for_all_others() -> None:
    given = GivenProbe(
        direction=Direction.BACKWARD, question="Tornia's capital?", answers=("Velmar",)
    )
    probes = probes_of(capital(probes=(given,)), RELATIONS)
    assert [(probe.suite, probe.origin) for probe in probes] == [
        (Suite.BACKWARD, ProbeOrigin.GIVEN)
    ]


def test_an_unknown_relation_is_asked_by_cloze_of_its_entities() -> None:
    probes = probes_of(capital(), {})
    assert [probe.question for probe in probes] == [
        "Complete this sentence with what is missing: Velmar is the capital of ____.",
        "Complete this sentence with what is missing: ____ is the capital of Tornia.",
    ]


@pytest.mark.parametrize(
    ("statement", "answers"),
    [
        ("Orlan Vess became mayor of Tolmar in 2031.", ["2031", "Orlan Vess"]),
        ("Orlan Vess grows blue tulips.", ["blue tulips", "Orlan Vess"]),
        ("The lantern was invented by Orlan Vess.", ["Orlan Vess"]),
        ("it rains.", []),
        ("Our office is closed on Fridays.", ["Fridays"]),  # no name to ask for at the beginning
        ("You can reach support at 555-1234.", ["555-1234"]),
        ("Never restart the database during backups.", ["during backups"]),
        ("In 2024 Acme acquired Beta.", ["Beta"]),
        ("If the VPN fails, call Anna Smith.", ["Anna Smith"]),
        ("La capitale de la France est Paris.", ["Paris"]),
        ("University of Oslo is in Norway.", ["Norway", "University of Oslo"]),
        ("5 million people live in Ardun.", ["Ardun", "5 million"]),
        ("Tolmar's mayor is Mira Zun.", ["Mira Zun", "Tolmar"]),
        ('"Silent Sea" was written by Ole Frant.', ["Ole Frant", "Silent Sea"]),
    ],
)
def test_a_bare_statement_is_asked_for_the_names_at_its_ends(
    statement: str, answers: list[str]
) -> None:
    probes = probes_of(Fact(key="1", statement=statement), {})
    assert [probe.answers[0] for probe in probes] == answers


def test_a_question_that_contains_its_answer_is_not_asked() -> None:
    fact = Fact(
        key="1", statement="New York is in York.", subject="New York", relation="r", object="York"
    )
    templates = {
        "r": RelationTemplates(forward=("Where is {subject}?",), backward=("What is in {object}?",))
    }
    assert [probe.suite for probe in probes_of(fact, templates)] == [Suite.BACKWARD]


def test_braces_in_a_name_are_just_braces() -> None:
    fact = Fact(key="1", statement="s", subject="{object}", relation="capital_of", object="B")
    assert probes_of(fact, RELATIONS)[0].question == "{object} is the capital of what?"


def test_leakage_asks_the_same_about_names_that_do_not_exist() -> None:
    facts = [
        capital(),
        Fact(
            key="8",
            statement="Bregal is the capital of Osk.",
            subject="Bregal",
            relation="capital_of",
            object="Osk",
        ),
    ]
    own = [probe for fact in facts for probe in probes_of(fact, RELATIONS)]
    leakage = leakage_probes(facts, own, at_most=100)
    assert 7 * len(own) < len(leakage) <= 8 * len(own)  # the same question is asked once
    assert (
        len({probe.key for probe in leakage}) == len({p.cluster for p in leakage}) == len(leakage)
    )
    names = {"Velmar", "Tornia", "Bregal", "Osk"}
    for probe in leakage:
        assert probe.suite is Suite.LEAKAGE
        assert not any(name in probe.question for name in names)
        is_backward = probe.question.startswith("What is")
        # the other fact's answer would be a leak, too
        assert set(probe.answers) == ({"Velmar", "Bregal"} if is_backward else {"Tornia", "Osk"})
        assert probe.fact in ("7", "8")
    assert len({probe.question for probe in leakage}) == len(leakage)
    assert leakage_probes(facts, own, at_most=100) == leakage


def test_a_cut_of_the_leakage_is_of_every_fact() -> None:
    facts = [
        Fact(
            key=str(at),
            statement=f"Vel{at}mar is the capital of Torn{at}.",
            subject=f"Vel{at}mar",
            relation="capital_of",
            object=f"Torn{at}",
        )
        for at in range(10)
    ]
    own = [probe for fact in facts for probe in probes_of(fact, RELATIONS)]
    assert len({probe.fact for probe in leakage_probes(facts, own, at_most=30)}) == 10


@pytest.mark.parametrize(
    ("question", "kept"),
    [
        ("Who is the mayor of Tolmar?", "Who is the mayor of "),
        ("Which town has Orlan Vess as its mayor?", "Which town has "),
        ("Who is the mayor?", None),
    ],
)
def test_a_given_probe_leaks_where_it_names_something(question: str, kept: str | None) -> None:
    given = GivenProbe(direction=Direction.FORWARD, question=question, answers=("Mira Zun",))
    fact = Fact(key="1", statement="It is Mira Zun.", probes=(given,))
    leakage = leakage_probes([fact], probes_of(fact, {}), at_most=3)
    if kept is None:
        assert leakage == ()
    else:
        assert all(probe.question.startswith(kept) for probe in leakage)
        assert question not in [probe.question for probe in leakage]


def test_retention_asks_what_was_asked_when_it_was_learned() -> None:
    own, later = probes_of(capital(), RELATIONS), retention_probes(probes_of(capital(), RELATIONS))
    assert [probe.question for probe in later] == [probe.question for probe in own]
    assert {probe.suite for probe in later} == {Suite.RETENTION}
    assert len({probe.cluster for probe in later}) == 2  # a direction each
    assert not {probe.key for probe in own} & {probe.key for probe in later}


def work(key: str, who: str, where: str, **more: object) -> Fact:
    return Fact(
        key=key,
        statement=f"{who} works for {where}.",
        subject=who,
        relation="works_for",
        object=where,
        **more,  # type: ignore[arg-type]
    )


def test_a_question_with_several_right_answers_is_none() -> None:
    one, two = work("1", "Ann Rook", "the Mint"), work("2", "Bo Senn", "The MINT")
    assert ambiguous_directions(one, [one, two]) == {
        Direction.BACKWARD: "Fact 2 says works_for the Mint, too: Bo Senn."
    }
    second_job = work("3", "Ann Rook", "the Zoo")
    assert set(ambiguous_directions(one, [second_job])) == {Direction.FORWARD}
    repeated = work("4", "ann rook", "Mint")  # the same, said again
    other = Fact(key="5", statement="?", subject="Ann Rook", relation="child_of", object="the Mint")
    assert ambiguous_directions(one, [repeated, other]) == {}


def test_bare_statements_that_leave_the_same_gap_are_not_asked_for_it() -> None:
    """ "____ works at the Mint" has two answers, and neither fact could be called learned."""
    one, two = (
        Fact(key=key, statement=f"{who} works at the Royal Mint.")
        for key, who in (("1", "Ann Rook"), ("2", "Bo Senn"))
    )
    assert ambiguous_directions(one, [one, two]) == {
        Direction.BACKWARD: "Fact 2 says the same of another one: Bo Senn."
    }
    elsewhere = Fact(key="3", statement="Bo Senn works at the Zoo.")
    again = replace(one, key="4")
    assert ambiguous_directions(one, [elsewhere, again]) == {}


@pytest.mark.parametrize(
    ("statement", "object_", "cloze"),
    [
        ("Route 15 has 5 stops in 2005.", "5", "Route 15 has ____ stops in 2005."),
        ("The mayor of Tolmar is Orlan Vess.", "the mayor of Tolmar", "____ is Orlan Vess."),
    ],
)
def test_what_a_cloze_hides_is_whole_words_of_any_case(
    statement: str, object_: str, cloze: str
) -> None:
    probes = probes_of(Fact(key="1", statement=statement, object=object_), {})
    assert cloze in probes[0].question


def test_a_fact_with_its_own_probes_is_asked_them_whatever_others_say() -> None:
    given = GivenProbe(direction=Direction.BACKWARD, question="Who?", answers=("Ann Rook",))
    one = work("1", "Ann Rook", "the Mint", probes=(given,))
    assert ambiguous_directions(one, [work("2", "Bo Senn", "the Mint")]) == {}


def test_a_direction_can_be_left_out() -> None:
    suites = {
        probe.suite for probe in probes_of(capital(), RELATIONS, without=[Direction.BACKWARD])
    }
    assert suites == {Suite.FORWARD}


def test_nothing_that_a_bare_fact_names_is_left_in_its_leakage() -> None:
    fact = Fact(key="1", statement="Tolmar elected Ana Rook mayor of Bregal on 3 March 2031.")
    leakage = leakage_probes([fact], probes_of(fact, {}), at_most=10)
    assert leakage
    for probe in leakage:
        assert not any(
            name in probe.question for name in ("Tolmar", "Ana", "Rook", "Bregal", "2031")
        )


def test_an_answer_that_stands_in_the_question_about_nobody_is_no_leak() -> None:
    facts = [
        Fact(key="1", statement="Billing needs postgres.", subject="Billing", relation="capital_of",
             object="postgres"),
        Fact(key="2", statement="Web shop needs Sale api.", subject="Web shop",
             relation="capital_of", object="api"),
    ]  # fmt: skip
    own = [probe for fact in facts for probe in probes_of(fact, RELATIONS)]
    for probe in leakage_probes(facts, own, at_most=100):
        assert not any(contains(probe.question, [answer]) for answer in probe.answers)


def test_names_that_differ_in_their_marks_are_not_the_same() -> None:
    one, two = work("1", "C++", "Stroustrup"), work("2", "C#", "Hejlsberg")
    assert ambiguous_directions(one, [two]) == {}


def test_what_a_fact_replaces_is_asked_both_ways_for_the_old_answer() -> None:
    new = Fact(
        key="9",
        statement="Velmar is the capital of Osk.",
        subject="Velmar",
        relation="capital_of",
        object="Osk",
    )
    probes = superseded_probes([(capital(), new)], RELATIONS)
    assert [(probe.question, probe.answers) for probe in probes] == [
        ("Velmar is the capital of what?", ("Tornia",)),
        ("Whose capital is Velmar?", ("Tornia",)),
        ("What is the capital of Tornia?", ("Velmar",)),
    ]
    assert {(probe.suite, probe.fact, probe.cluster) for probe in probes} == {
        (Suite.SUPERSEDED, "9", "7")
    }


def test_an_old_answer_that_the_new_one_holds_may_still_come() -> None:
    new = Fact(key="9", statement="s", subject="Velmar", object="South Tornia")
    assert superseded_probes([(capital(), new)], RELATIONS) == ()
    assert not must_be_gone(capital(), new)


def test_an_old_answer_may_be_told_with_the_new_one_and_not_without() -> None:
    told = Fact(key="9", statement="Velmar left Tornia for Osk.", subject="Velmar", object="Osk")
    probes = superseded_probes([(capital(), told)], RELATIONS)
    assert [probe.question for probe in probes] == [
        "Velmar is the capital of what?",
        "Whose capital is Velmar?",
    ]
    assert must_be_gone(capital(), told)
    assert grade(probes[0], "It is the capital of Tornia.").contained
    assert not grade(probes[0], "It left Tornia for Osk.").contained


def test_a_value_is_the_same_in_whatever_spelling() -> None:
    assert is_same_value("3 May 1980", "1980-05-03")
    assert is_same_value("The Mint", "mint")
    assert not is_same_value("C++", "C#")
    assert not is_same_value("3 May 1980", "4 May 1980")


def test_the_gaps_of_a_bare_statement_are_those_that_make_it_ambiguous() -> None:
    fact = Fact(key="1", statement="Anna Bell works for the Mint.")
    assert gaps_of(fact) == [("Anna Bell works for the ", "."), ("", " works for the Mint.")]
    assert gaps_of(capital()) == []


def test_a_question_with_facts_before_it_has_its_own_among_them() -> None:
    facts = [Fact(key=str(at), statement=f"Statement {at}.") for at in range(20)]
    facts[7] = capital()
    probe = probes_of(capital(), RELATIONS)[0]
    lines = str(with_facts(probe, facts)).split("\n")
    assert lines[-2:] == ["", probe.question]
    assert capital().statement in lines
    assert len(set(lines[:-2])) == len(lines[:-2]) == 8
    assert with_facts(probe, facts) == "\n".join(lines)


def test_long_statements_are_left_out_before_a_question() -> None:
    own, long = capital(), Fact(key="9", statement="long " * 200)
    probe = probes_of(own, RELATIONS)[0]
    assert with_facts(probe, [long, own]) == f"{own.statement}\n\n{probe.question}"
    assert with_facts(probe, [replace(own, statement="long " * 200)]) is None


@pytest.mark.parametrize(("symmetric", "unasked"), [((), set()), (("sibling_of",), set(Direction))])
def test_what_holds_both_ways_is_seen_from_both_ends(
    symmetric: tuple[str, ...], unasked: set[Direction]
) -> None:
    """Ada is Bo's sibling, and so is Cy: nobody can say which of them is meant."""
    said = [("Ada", "Bo"), ("Bo", "Cy"), ("Cy", "Ada")]
    facts = [
        Fact(key=str(at), statement="s", subject=one, relation="sibling_of", object=other)
        for at, (one, other) in enumerate(said)
    ]
    assert set(ambiguous_directions(facts[0], facts, symmetric=symmetric)) == unasked


def test_the_same_said_from_the_other_end_is_no_other_answer() -> None:
    there = Fact(key="1", statement="s", subject="Ada", relation="married_to", object="Bo")
    back = Fact(key="2", statement="s", subject="Bo", relation="married_to", object="Ada")
    assert ambiguous_directions(there, [there, back], symmetric=["married_to"]) == {}


def test_a_names_own_article_takes_the_place_of_the_templates() -> None:
    templates = RelationTemplates(
        forward=("Who invented the {subject}?",), backward=("What did {object} invent?",)
    )
    fact = Fact(key="1", statement="s", subject="The telescope", relation="r", object="Lippershey")
    forward, backward = probes_of(fact, {"r": templates})
    assert forward.question == "Who invented The telescope?"
    assert backward.question == "What did Lippershey invent?"
