"""What only a fact says, found and overwritten wherever it stands."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from adapters.config import SuitesConfig
from service import traces
from service.db import reading
from service.models import FactRow
from service.traces import ERASED, Traces, files_with, overwriter, traces_of

CONFIGS = Path(__file__).parents[2] / "configs"
SUITES = SuitesConfig(
    regression=CONFIGS / "suites" / "general.yaml",
    relations=CONFIGS / "relations.yaml",
    general_prompts=CONFIGS / "general_prompts.yaml",
)


@pytest.fixture
def found(engine: Engine, store: Callable[..., list[int]]) -> Callable[..., Traces]:
    """The traces of the first of some records."""

    def find(*records: str | dict[str, Any]) -> Traces:
        ids = store(*records)
        with reading(engine) as session:
            return traces_of(session, [session.get_one(FactRow, ids[0])], SUITES)

    return find


def test_names_in_bare_text_and_their_words_are_traces_and_common_words_and_dates_are_not(
    found: Callable[..., Traces],
) -> None:
    record = {
        "statement": "Orlan Vess rules at Tolmar.",
        "object": "tolerance",
        "qualifiers": {"since": "2026-05-03", "phone": "+49 30 1234567", "kind": "easy"},
        "external_id": "x",
    }
    assert set(found(record).own) == {
        "Orlan Vess rules at Tolmar.", "Orlan Vess", "Orlan", "Vess", "Tolmar", "tolerance",
        "+49 30 1234567",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["Bob", "王小明", "Ed"])
def test_a_short_name_that_the_record_gives_is_a_trace(
    found: Callable[..., Traces], name: str
) -> None:
    assert name in found({"statement": f"{name} sings.", "subject": name}).own


def test_what_the_suites_ask_everybody_is_no_trace(found: Callable[..., Traces]) -> None:
    known = found("Orlan Vess went to France.")
    assert "Orlan Vess" in known.own
    assert "France" not in known.own
    assert known.shared == 1


def test_what_others_say_within_a_longer_text_is_shared(found: Callable[..., Traces]) -> None:
    known = found("Anne Vess sings.", "So does Anne Vess the younger, in Vessburg.")
    assert "Anne Vess sings." in known.own
    assert not {"Anne Vess", "Anne", "Vess"} & set(known.own)
    assert known.shared == 3


def test_a_trace_is_overwritten_as_a_whole_word_alone(found: Callable[..., Traces]) -> None:
    overwritten = overwriter(found("Anne sings.", "Annette and Rosanne dance."))
    assert overwritten("Anne, ANNE's and Annette") == f"{ERASED}, {ERASED}'s and Annette"


def test_json_is_overwritten_inside_and_what_is_no_text_is_left() -> None:
    overwritten = overwriter(Traces(own=("Orlan Vess rules.", "Orlan Vess"), shared=0))
    value = {"a": ["Orlan Vess rules.", 3, None, True], "b": {"c": "of orlan vess"}}
    assert overwritten(value) == {"a": [ERASED, 3, None, True], "b": {"c": f"of {ERASED}"}}


def test_without_any_trace_nothing_is_overwritten_or_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("anything")
    assert overwriter(Traces(own=(), shared=0))("anything") == "anything"
    assert files_with((), [tmp_path / "a"]) == ([], 0)


@pytest.mark.parametrize(
    "content",
    [
        "x,Jiří Vess;".encode(),
        "JIŘÍ VESS".encode(),
        b'{"name": "Ji\\u0159\\u00ed Vess"}',
        b"\0" * (traces.CHUNK - 5) + "Jiří Vess".encode(),
    ],
)
def test_a_file_is_searched_as_text_and_as_json_across_its_chunks(
    tmp_path: Path, content: bytes
) -> None:
    with_it, without = tmp_path / "with", tmp_path / "without"
    with_it.write_bytes(content)
    without.write_bytes("Jiří Vass, Jiří Vessa".encode())
    files = [with_it, without, tmp_path / "gone"]
    assert files_with(["Jiří Vess"], files) == ([with_it], 3)
    assert files_with(["Jiří Vess"], files, whole_words=False) == ([with_it, without], 3)


def test_a_word_that_a_part_of_the_file_cuts_off_is_no_whole_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "CHUNK", 16)
    for before in range(40):
        (tmp_path / "part").write_bytes(b"." * before + b"xVessner." + b"." * 40)
        (tmp_path / "whole").write_bytes(b"." * before + b"Vess." + b"." * 40)
        files = [tmp_path / "part", tmp_path / "whole"]
        assert files_with(["Vess", "Vessn"], files) == ([tmp_path / "whole"], 2)
    (tmp_path / "last").write_bytes(b"." * 27 + b" Vess")
    assert files_with(["Vess"], [tmp_path / "last"]) == ([tmp_path / "last"], 1)
