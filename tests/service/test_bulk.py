"""A stream of facts, a JSON object a line: stored as it comes, gone on with where it broke off."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine, func, select
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from service import auth, facts, ingest
from service.api import create_app
from service.auth import Scope
from service.db import reading
from service.models import ApiKey, FactRow
from service.settings import Settings

NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture
def send(
    engine: Engine, settings: Settings, make_key: Callable[..., str], still_clock: Any
) -> Iterator[Callable[..., httpx2.Response]]:
    """Send some lines as one stream, in chunks that begin and end anywhere."""
    api = settings.api.model_copy(update={"max_body_bytes": 2000})
    app = create_app(settings.model_copy(update={"api": api}), engine, still_clock)
    with TestClient(app, raise_server_exceptions=False) as http:
        http.headers["Authorization"] = f"Bearer {make_key(Scope.INGEST)}"

        def send_lines(*lines: bytes, chunk: int = 1000, **how: Any) -> httpx2.Response:
            body = b"\n".join(lines)
            chunks = (body[at : at + chunk] for at in range(0, len(body), chunk))
            return http.post("/v1/facts/bulk", content=chunks, **{"headers": NDJSON, **how})

        yield send_lines


def line(at: int, **fields: Any) -> bytes:
    body = {"external_id": str(at), "statement": f"Fact {at}.", **fields}
    return json.dumps(body).encode()


def count(engine: Engine) -> int:
    with reading(engine) as session:
        return session.scalar(select(func.count()).select_from(FactRow)) or 0


@pytest.mark.parametrize("chunk", [7, 1000, 1 << 20])
def test_every_line_has_its_outcome_whatever_chunks_they_come_in(
    send: Callable[..., httpx2.Response], engine: Engine, chunk: int
) -> None:
    good = [line(at) for at in range(1, 1201)]
    answer = send(
        *good[:3], b"", line(2), b"{", line(3, statement="Other."), *good[3:], chunk=chunk
    )
    assert answer.status_code == 200
    result = answer.json()
    items = result.pop("items")
    assert [(item["index"], item["problems"][0]["title"]) for item in items] == [
        (6, "invalid"), (7, "conflict"),
    ]  # fmt: skip
    assert result == {
        "lines": 1204, "committed_through": 1204, "stored": 1200, "duplicates": 1, "refused": 2,
    }  # fmt: skip
    assert count(engine) == 1200


@pytest.mark.parametrize(
    "bad",
    [
        b'{"statement": "\\ud800"}', b'{"statement": NaN}', b"\xff\xfe", b"[]", b"3",
        b'{"statement": ""}', b'{"statement": "x", "confidence": 1e999}', b"[" * 1500,
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_by_itself_and_not_repeated(
    send: Callable[..., httpx2.Response], engine: Engine, bad: bytes
) -> None:
    answer = send(line(1), bad, line(2))
    assert (answer.status_code, answer.json()["stored"], answer.json()["refused"]) == (200, 2, 1)
    assert answer.json()["items"][0]["index"] == 2
    assert count(engine) == 2


def test_of_many_refused_lines_the_first_are_shown_and_all_counted(
    send: Callable[..., httpx2.Response],
) -> None:
    result = send(*[b"{}"] * 1500).json()
    assert (result["refused"], len(result["items"])) == (1500, ingest.MAX_REFUSED_SHOWN)


def test_where_it_breaks_off_it_says_what_is_stored_and_goes_on_from_there(
    send: Callable[..., httpx2.Response], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [line(at) for at in range(1, 1101)]
    real, calls = facts.insert_facts, []

    def fails_once(*arguments: Any, **how: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise OperationalError("INSERT", {}, Exception("database is locked"))
        return real(*arguments, **how)

    monkeypatch.setattr(facts, "insert_facts", fails_once)
    answer = send(*lines)
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    problem = answer.json()
    through = problem["committed_through"]
    assert 0 < through == problem["stored"] == count(engine) < 1100
    again = send(*lines[through - 10 :]).json()
    assert (again["stored"], again["duplicates"]) == (1100 - through, 10)


def test_a_key_that_was_revoked_meanwhile_stores_no_more(
    send: Callable[..., httpx2.Response], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "REMEMBERED_S", 0.0)
    real = facts.insert_facts

    def then_revoke(session: Any, *arguments: Any, **how: Any) -> Any:
        for key in session.scalars(select(ApiKey).where(ApiKey.revoked_at.is_(None))):
            key.revoked_at = datetime.now(UTC)
        return real(session, *arguments, **how)

    monkeypatch.setattr(facts, "insert_facts", then_revoke)
    answer = send(*[line(at) for at in range(1, 1201)])
    assert answer.status_code == 401
    assert 0 < answer.json()["committed_through"] == count(engine) < 1200


def test_long_lines_are_stored_before_many_of_them_wait(
    send: Callable[..., httpx2.Response], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as a body may have bytes, here 2000, and a chunk."""
    real, sizes = facts.insert_facts, []

    def measured(session: Any, items: Any, **how: Any) -> Any:
        sizes.append(len(items))
        return real(session, items, **how)

    monkeypatch.setattr(facts, "insert_facts", measured)
    send(*[line(at, tags=["x" * 400]) for at in range(100)])
    assert count(engine) == sum(sizes) == 100
    assert max(sizes) < 10


def test_a_line_without_end_is_refused_and_what_came_before_is_stored(
    send: Callable[..., httpx2.Response], engine: Engine
) -> None:
    answer = send(*[line(at) for at in range(600)], b"x" * 5000)
    assert answer.status_code == 413
    assert "2000 bytes" in answer.json()["detail"]
    assert answer.json()["committed_through"] == count(engine) == 600


def test_other_types_and_compressed_streams_are_not_taken(
    send: Callable[..., httpx2.Response], engine: Engine
) -> None:
    for headers in (
        {"Content-Type": "application/json"},
        {**NDJSON, "Content-Encoding": "gzip"},
        {"Content-Type": "text/plain"},
    ):
        assert send(line(1), headers=headers).status_code == 415
    assert count(engine) == 0


def test_an_empty_stream_stores_nothing(send: Callable[..., httpx2.Response]) -> None:
    assert send().json()["lines"] == 0
    assert send(b"", b" ", b"").json()["stored"] == 0
