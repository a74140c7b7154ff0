"""The YAML files that hold questions: what they may say, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.errors import SuiteError
from adapters.gate import REFUSAL
from adapters.suites import read_prompts, read_relations, read_suite

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_shipped_suites_can_be_read_and_are_large_enough() -> None:
    suite = read_suite(CONFIGS / "suites" / "general.yaml")
    assert len(suite.probes) >= 600
    assert len(suite.passages) >= 20
    relations = read_relations(CONFIGS / "relations.yaml")
    assert len(relations) >= 40
    for asked in relations.values():
        assert min(len(asked.forward), len(asked.backward)) >= 2


def test_what_the_shipped_suite_calls_a_relation_is_one() -> None:
    suite = read_suite(CONFIGS / "suites" / "general.yaml")
    named = {probe.relation for probe in suite.probes} - {None}
    assert {"capital_of", REFUSAL} <= named
    assert named - {REFUSAL} <= set(read_relations(CONFIGS / "relations.yaml"))


def test_nothing_that_is_measured_is_trained_on() -> None:
    suite = read_suite(CONFIGS / "suites" / "general.yaml")
    prompts = read_prompts(CONFIGS / "general_prompts.yaml")
    assert not {probe.question for probe in suite.probes} & set(prompts.prompts)
    assert not {text for _, text in suite.passages} & set(prompts.texts)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("relations: {r: {forward: ['Who?'], backward: ['{object}?']}}", "must hold {subject}"),
        (
            "relations: {r: {forward: ['{subject}?'], backward: ['{object} {x}?']}}",
            "no other braces",
        ),
        ("relations: {r: {forward: ['{subject}?']}}", "relations.r.backward"),
        ("relations: [", "is not YAML"),
        ("other: 1", "relations"),
    ],
)
def test_a_broken_relation_file_is_refused_with_its_place(
    tmp_path: Path, content: str, complaint: str
) -> None:
    path = tmp_path / "relations.yaml"
    path.write_text(content)
    with pytest.raises(SuiteError) as refused:
        read_relations(path)
    assert complaint in str(refused.value)


QUESTION = {"id": "a", "subject": "s", "question": "Who?", "answers": ["Ann"]}
TABLE = {
    "id": "capital",
    "subject": "geography",
    "columns": ["country", "city"],
    "ask": [{"question": "What is the capital of {country}?", "answer": "city"}],
    "rows": [["Norway", "Oslo"], ["India", ["New Delhi", "Delhi"]]],
}


def written(tmp_path: Path, **body: Any) -> Path:
    path = tmp_path / "suite.yaml"
    path.write_text(
        yaml.safe_dump(
            {"name": "x", "passages": [{"id": "p", "text": "t"}, {"id": "q", "text": "u"}], **body}
        )
    )
    return path


def test_a_table_asks_every_row_in_each_of_its_ways(tmp_path: Path) -> None:
    ask = [
        {"question": "Capital of {country}?", "answer": "city"},
        {"question": "Is {city} a city?", "answers": ["Yes"]},
    ]
    path = written(tmp_path, tables=[TABLE | {"ask": ask, "relation": "capital_of"}])
    probes = read_suite(path).probes
    assert [(probe.key, probe.question, probe.answers) for probe in probes] == [
        ("x/capital-01a", "Capital of Norway?", ("Oslo",)),
        ("x/capital-01b", "Is Oslo a city?", ("Yes",)),
        ("x/capital-02a", "Capital of India?", ("New Delhi", "Delhi")),
        ("x/capital-02b", "Is New Delhi a city?", ("Yes",)),
    ]
    assert {probe.relation for probe in probes} == {"capital_of"}


@pytest.mark.parametrize(
    ("questions", "complaint"),
    [
        ([QUESTION | {"question": "What is Ann?"}], "question a contains its own answer"),
        ([QUESTION | {"answers": []}], r"questions\.0\.answers"),
        ([QUESTION | {"answers": ["..."]}], "question a has an answer without any word"),
        ([QUESTION, QUESTION], "question id a is there twice"),
        ([QUESTION, QUESTION | {"id": "b"}], r"question Who\? is there twice"),
        ([], "there is no question"),
        ([QUESTION | {"question": " ?"}], r"questions\.0\.question"),
    ],
)
def test_a_broken_suite_is_refused_with_its_place(
    tmp_path: Path, questions: list[dict[str, Any]], complaint: str
) -> None:
    with pytest.raises(SuiteError, match=complaint):
        read_suite(written(tmp_path, questions=questions))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: x\nquestions:\n  - id: a\n    subject: s\n    question: Who?\n    answers: 7\n", 6),
        ("name: x\nquestions:\n  - id: a\n    subject: s\n", 3),  # what is missing has no line
        ("name: x\npassages: [{id: p, text: t}, {id: q, text: u}]\nquestion: []\n", 3),
        ("- a\n", 1),
        ("", 1),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(SuiteError, match=f"suite.yaml, line {line}: "):
        read_suite(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rows": [["Norway", "Oslo"], ["India"]]}, "table capital, row 2 has 1 cells"),
        ({"rows": [["Norway", []]]}, "table capital, row 1 has an empty cell"),
        ({"rows": [["Norway", False]]}, r"tables\.0\.rows\.0\.1"),  # an unquoted no
        ({"ask": [{"question": "Who?", "answer": "city"}]}, "must name columns"),
        ({"ask": [{"question": "{land}?", "answer": "city"}]}, "must name columns"),
        ({"ask": [{"question": "{country}?", "answer": "town"}]}, "no column town"),
        ({"ask": [{"question": "{country}?"}]}, "needs one of answer"),
        ({"ask": [{"question": "{city}?", "answer": "city"}]}, "contains its own answer"),
    ],
)
def test_a_broken_table_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(SuiteError, match=complaint):
        read_suite(written(tmp_path, tables=[TABLE | change]))


def test_a_key_that_is_there_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "relations.yaml"
    way = "{forward: ['Who is {subject}?'], backward: ['Who has {object}?']}"
    path.write_text(f"relations:\n  leads: {way}\n  owns: {way}\n  leads: {way}\n")
    with pytest.raises(SuiteError, match=r"line 4: leads is there already, in line 2"):
        read_relations(path)
