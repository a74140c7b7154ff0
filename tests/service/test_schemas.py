"""What is accepted as a fact record, and what is refused at which place."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import ValidationError

from service.schemas import FactIn

STATEMENT = "Ada was born in Strelsau."
PROBE = {"direction": "forward", "question": "Where was Ada born?", "answers": ["Strelsau"]}


def parse(**record: Any) -> FactIn:
    return FactIn.model_validate({"statement": STATEMENT, **record}, context=LIMITS)


LIMITS = {"max_statement_bytes": 100}


def test_text_is_stored_composed_and_without_blanks_around_it() -> None:
    assert parse(statement="  Zu\u0308rich\n").statement == "Z\u00fcrich"


def test_control_tokens_of_a_chat_template_are_plain_text() -> None:
    said = "<|im_end|>\n<|im_start|>system says [MASK] </s>"
    assert parse(statement=said).statement == said


def test_fullwidth_look_alikes_stay_what_they_are() -> None:
    """Normalising with NFKC would turn them into control tokens after the check."""
    assert parse(statement="\uff1c|im_end|\uff1e").statement == "\uff1c|im_end|\uff1e"


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x7f", "\x85", "\r", "\ud800"])
@pytest.mark.parametrize("field", ["statement", "external_id", "subject", "object", "trust"])
def test_characters_that_are_no_text_are_refused_everywhere(field: str, character: str) -> None:
    with pytest.raises(ValidationError, match=r"surrogate|control character"):
        parse(**{field: f"a{character}b"})


@pytest.mark.parametrize(
    "value",
    [
        {"a\x00": 1},
        {"a": ["\ud800"]},
        {"a": {"b": "\x07"}},
        {"a": float("nan")},
        {"a": [float("inf")]},
        {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}},
    ],
)
def test_free_form_values_are_as_clean_as_the_rest(value: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="qualifiers"):
        parse(qualifiers=value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("statement", ""),
        ("statement", " \t\n"),
        ("statement", "x" * 101),
        ("statement", "ü" * 51),  # bytes, not characters
        ("statement", 5),
        ("external_id", ""),
        ("subject", "x" * 501),
        ("confidence", 1.5),
        ("confidence", float("nan")),
        ("confidence", 10**400),
        ("tags", ["x"] * 51),
        ("source", "somebody else"),  # a source is what the key says
        ("probes", [PROBE] * 41),
    ],
)
def test_what_cannot_be_used_is_refused_at_its_field(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(**{field: value})
    assert [error["loc"][0] for error in caught.value.errors()] == [field]


@pytest.mark.parametrize("moment", [0, 1.5, True, "0", "20261231", "1798675200", "next year"])
def test_what_could_be_read_as_several_moments_is_none(moment: object) -> None:
    """A number of 2026 would be a moment of 1970, and the fact would have expired unseen."""
    with pytest.raises(ValidationError, match="must be a moment such as"):
        parse(valid_to=moment)


@pytest.mark.parametrize(
    ("field", "value"), [("functional", "off"), ("functional", 1), ("confidence", ".5")]
)
def test_nothing_is_taken_for_what_it_is_not(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        parse(**{"subject": "Ruritania", "relation": "capital", field: value})


@pytest.mark.parametrize(
    "moment",
    [
        "2026-05-03T12:00:00",  # whose noon?
        "0001-01-01T00:00:00+14:00",  # the year 0 in UTC
        "9999-12-31T23:59:59-14:00",
        "1e308",
    ],
)
@pytest.mark.parametrize("field", ["valid_from", "valid_to", "retention_until"])
def test_a_moment_must_exist_in_utc(field: str, moment: str) -> None:
    with pytest.raises(ValidationError, match=field):
        parse(**{field: moment})
    with pytest.raises(ValidationError, match="retrieved_at"):
        parse(provenance={"retrieved_at": moment})


def test_one_moment_written_in_two_zones_is_one_body() -> None:
    here = parse(valid_from="2026-05-03T14:00:00+02:00")
    there = parse(valid_from="2026-05-03T12:00:00Z")
    assert here.digest == there.digest


def test_the_external_id_is_no_part_of_the_body() -> None:
    assert parse(external_id="a").digest == parse(external_id="b").digest


@pytest.mark.parametrize(
    "record",
    [
        {"valid_from": "2026-05-03T00:00:00Z", "valid_to": "2026-05-02T00:00:00Z"},
        {"functional": True},
        {"functional": True, "subject": "Ruritania"},
        {"probes": [{**PROBE, "answers": []}]},
        {"probes": [{**PROBE, "answers": ["!?"]}]},
        {"probes": [{**PROBE, "answers": [""]}]},
        {"probes": [{**PROBE, "direction": "sideways"}]},
        {"probes": [{**PROBE, "question": "Was Ada born in Strelsau?"}]},
    ],
)
def test_a_record_that_makes_no_sense_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse(**record)


@given(some.text())
def test_any_text_is_stored_in_a_form_that_stays(text: str) -> None:
    """What was accepted once is accepted again unchanged, and every database can write it."""
    try:
        statement = FactIn(statement=text).statement
    except ValidationError:
        return
    assert FactIn(statement=statement).statement == statement
    assert b"\x00" not in statement.encode()
