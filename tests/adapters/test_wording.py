"""Statements with another name in them, and as questions."""

import pytest

from adapters.wording import as_question, replace_name


@pytest.mark.parametrize(
    ("statement", "name", "by", "expected"),
    [
        ("Ann met Annabel. ANN left.", "Ann", "who", "who met Annabel. who left."),
        ("C++ (1985) is a language.", "C++", "what", "what (1985) is a language."),
        ("A.B is not AxB.", "A.B", r"\1", r"\1 is not AxB."),
        ("Who leads WHO?", "WHO", "HHE", "Who leads HHE?"),
        ("No name here.", "Zoe", "who", "No name here."),
        ("\u6771\u4eac\u306f\u90fd", "\u6771\u4eac", "____", "____\u306f\u90fd"),  # no blanks there
    ],
)
def test_a_name_is_replaced_wherever_it_stands_alone(
    statement: str, name: str, by: str, expected: str
) -> None:
    assert replace_name(statement, name, by) == expected


@pytest.mark.parametrize(
    ("statement", "question"),
    [
        ("who is the mayor of Tolmar.", "Who is the mayor of Tolmar?"),
        ("Tolmar is where", "Tolmar is where?"),
        ("", "?"),
    ],
)
def test_a_statement_becomes_a_question(statement: str, question: str) -> None:
    assert as_question(statement) == question
