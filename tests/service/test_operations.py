"""What an admin asks for over HTTP: written down, carried out in its turn, and its outcome told.

The child is a real process; only what it runs is a few lines of shell instead of a rollback.
`test_scheduled_path.py` has the whole of it with a real one.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from service import leases, operations, views
from service.api import create_app
from service.auth import Scope
from service.db import reading, writing
from service.operations import Kind, OperationState
from service.scheduler import Clock
from service.settings import Settings

NOW = datetime(2026, 5, 3, 12, tzinfo=UTC)


@pytest.fixture
def does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Say what the command does; it writes down how it was called."""
    program = tmp_path / "child"
    monkeypatch.setattr(sys, "executable", str(program))

    def write(shell: str) -> None:
        called = f'for each in "$@"; do echo "$each" >> "{tmp_path}/called"; done'
        program.write_text(f"#!/bin/sh\n{called}\n{shell}\n")
        program.chmod(0o755)

    return write


@pytest.fixture
def clock(engine: Engine, settings: Settings, config: Path) -> Clock:
    return Clock(settings, engine, config=config)


@pytest.fixture
def http(
    engine: Engine, settings: Settings, clock: Clock, make_key: Callable[..., str]
) -> Iterator[httpx2.Client]:
    clock.scheduler.start(paused=True)  # operations are carried out where a test says so
    clock.scheduler.add_job(clock.operate, "interval", seconds=60, id="operations")
    with TestClient(create_app(settings, engine, clock), raise_server_exceptions=False) as client:
        key = make_key(Scope.ADMIN, Scope.READ, source="operator")
        client.headers["Authorization"] = f"Bearer {key}"
        yield client
    clock.scheduler.shutdown(wait=False)


def ask(engine: Engine, *arguments: str, kind: Kind = Kind.ROLLBACK) -> int:
    with writing(engine) as session:
        return operations.enqueue(session, kind, arguments, reason="r", by="me (key k)", now=NOW).id


def shown(engine: Engine, operation_id: int) -> views.OperationDetail:
    with reading(engine) as session:
        return views.show_operation(session, operation_id)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("path", "body", "arguments"),
    [
        ("rollbacks", {"adapter": 3}, ["rollback", "3"]),
        ("rollbacks", {"to": 2}, ["rollback", "--to", "2"]),
        (
            "rollbacks",
            {"adapter": 3, "with_later": True, "dry_run": True},
            ["rollback", "3", "--with-later", "--dry-run"],
        ),
        ("rollbacks", {"adapter": 3, "rebase": True}, ["rollback", "3", "--rebase"]),
        ("erasures", {"facts": [4, 5], "force": True}, ["facts", "erase", "4", "5", "--force"]),
        ("adapters/7/approval", {}, ["adapters", "promote", "7"]),
    ],
)
def test_a_request_becomes_the_command_that_an_operator_would_type(
    http: httpx2.Client, engine: Engine, path: str, body: dict[str, Any], arguments: list[str]
) -> None:
    answer = http.post(f"/v1/{path}", json={**body, "reason": "--force; rm -rf"})
    assert answer.status_code == 202
    assert answer.headers["location"] == "/v1/operations/1"
    view = http.get("/v1/operations/1").json()
    assert view == answer.json()
    (listed,) = http.get("/v1/operations").json()["items"]
    assert view == {**listed, "result": None}
    assert view["state"] == "waiting"
    assert view["arguments"] == [*arguments, "--reason=--force; rm -rf"]
    assert view["requested_by"].startswith("operator (key ")


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("rollbacks", {"adapter": 3}, "/reason: Field required"),
        ("rollbacks", {"adapter": 3, "reason": " "}, "/reason: must not be empty"),
        ("rollbacks", {"reason": "r"}, "Name either an adapter or a release"),
        ("rollbacks", {"adapter": 1, "to": 1, "reason": "r"}, "Name either an adapter"),
        ("rollbacks", {"to": 1, "rebase": True, "reason": "r"}, "rebase: only for taking"),
        ("rollbacks", {"adapter": 0, "reason": "r"}, "/adapter: "),
        ("rollbacks", {"adapter": "../1", "reason": "r"}, "/adapter: "),
        (
            "rollbacks",
            {"adapter": 1, "rebase": True, "force": True, "reason": "r"},
            "rebase and force do not go together",
        ),
        ("rollbacks", {"adapter": 1, "reason": "r", "now": True}, "/now: Extra inputs"),
        ("rollbacks", [], "it: "),
        ("rollbacks", {"adapter": True, "reason": "r"}, "/adapter: "),
        ("erasures", {"facts": ["2"], "force": "yes", "reason": "r"}, "/facts/0: "),
        ("erasures", {"facts": [], "reason": "r"}, "/facts: "),
        ("erasures", {"facts": [1], "force": True, "dry_run": True, "reason": "r"}, "together"),
        ("adapters/1/approval", {}, "/reason: Field required"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_at_once_with_its_place(
    http: httpx2.Client, path: str, body: Any, sentence: str
) -> None:
    answer = http.post(f"/v1/{path}", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert sentence in answer.json()["detail"]
    assert http.get("/v1/operations").json()["items"] == []


def test_operations_are_carried_out_in_their_order_for_who_asked(
    clock: Clock, engine: Engine, does: Callable[[str], None], tmp_path: Path, config: Path
) -> None:
    does("echo '{\"seq\": 2}'")
    first, second = ask(engine, "rollback", "1"), ask(engine, "rollback", "--to", "1")
    clock.operate()
    called = (tmp_path / "called").read_text().splitlines()
    command = ["-m", "service.cli", "--config", str(config), "--by", "me (key k)", "rollback"]
    assert called == [*command, "1", "--json", *command, "--to", "1", "--json"]
    for operation in (first, second):
        view = shown(engine, operation)
        assert (view.state, view.result, view.error) == (OperationState.DONE, {"seq": 2}, None)
    clock.operate()
    assert len((tmp_path / "called").read_text().splitlines()) == len(called)


@pytest.mark.parametrize(
    ("shell", "state", "error"),
    [
        ("echo 'There is no adapter 1.' >&2; exit 1", "failed", "There is no adapter 1."),
        ("exit 1", "failed", "It ended without a word."),
        ("echo '{}'; echo training 1/2 >&2; exit 3", "head_stays", None),
        ("echo 'not JSON'", "done", None),
        ("kill -9 $$", "failed", "It ended without a word."),
    ],
)
def test_how_it_ended_is_told(
    clock: Clock,
    engine: Engine,
    does: Callable[[str], None],
    shell: str,
    state: str,
    error: str | None,
) -> None:
    does(shell)
    operation = ask(engine, "rollback", "1")
    clock.operate()
    view = shown(engine, operation)
    assert (view.state, view.error) == (state, error)
    assert view.ended_at is not None


def test_what_a_refresh_keeps_waiting_waits_and_keeps_nothing_else_waiting(
    clock: Clock, engine: Engine, does: Callable[[str], None], tmp_path: Path
) -> None:
    busy = 'case "$*" in *erase*) echo "A refresh runs." >&2; exit 4;; esac; echo "{}"'
    does(busy)
    first = ask(engine, "facts", "erase", "1", kind=Kind.ERASURE)
    second = ask(engine, "rollback", "--to", "1")
    with writing(engine) as session:
        now = datetime.now(UTC)
        hold = leases.acquire(session, leases.REFRESH, owner="x", now=now, lease_s=60)
    for _ in range(3):  # it is begun once, and not at every look of a long training
        clock.operate()
        assert shown(engine, first).state is OperationState.WAITING
        assert shown(engine, second).state is OperationState.DONE
        assert (tmp_path / "called").read_text().splitlines().count("erase") == 1
    with writing(engine) as session:
        leases.release(session, hold, now=now)
    does("echo '{}'")
    clock.operate()
    assert shown(engine, first).state is OperationState.DONE


def test_a_stopped_daemon_asks_what_runs_to_end_and_leaves_the_rest_waiting(
    clock: Clock, engine: Engine, does: Callable[[str], None], tmp_path: Path
) -> None:
    does("trap 'echo stopped >&2; exit 130' TERM; while kill -0 $PPID; do sleep 0.05; done")
    first, second = ask(engine, "rollback", "1"), ask(engine, "rollback", "2")
    thread = threading.Thread(target=clock.operate)
    thread.start()
    wait_for(tmp_path / "called")
    assert shown(engine, first).state is OperationState.RUNNING
    clock.operation.ask_to_end()
    clock.operation.see_it_end(time.monotonic() + 10)
    thread.join(timeout=10)
    view = shown(engine, first)
    assert (view.state, view.exit_code, view.error) == (OperationState.FAILED, 130, "stopped")
    assert shown(engine, second).state is OperationState.WAITING


def begun_by(engine: Engine, owner: str, *, now: datetime) -> tuple[int, leases.Hold]:
    """An operation that a daemon is at, and its lease of a minute."""
    operation = ask(engine, "rollback", "1")
    with writing(engine) as session:
        hold = leases.acquire(session, leases.OPERATIONS, owner=owner, now=now, lease_s=60)
        operations.begin_next(session, owner=owner, now=now)
    return operation, hold


@pytest.mark.parametrize(
    ("owner", "ago_s", "state"),
    [
        (f"{socket.gethostname()}:{2**22 + 1}", 0, OperationState.INTERRUPTED),
        (leases.this_process(), 0, OperationState.RUNNING),
        ("elsewhere:1", 0, OperationState.RUNNING),
        ("elsewhere:1", 61, OperationState.INTERRUPTED),
    ],
    ids=["dead here", "alive here", "elsewhere", "elsewhere, a minute ago"],
)
def test_what_a_dead_daemon_was_at_is_called_interrupted(
    clock: Clock,
    engine: Engine,
    does: Callable[[str], None],
    tmp_path: Path,
    owner: str,
    ago_s: float,
    state: OperationState,
) -> None:
    """At once where its machine is ours, else when its lease has run out."""
    does("exit 0")
    operation, _ = begun_by(engine, owner, now=datetime.now(UTC) - timedelta(seconds=ago_s))
    following = ask(engine, "rollback", "2")
    clock.operate()
    assert shown(engine, operation).state is state
    is_carried_out = shown(engine, following).state is OperationState.DONE
    assert is_carried_out is (state is OperationState.INTERRUPTED)
    assert (tmp_path / "called").exists() is is_carried_out


LEASE_S = 2.0


@pytest.fixture
def other_daemon(engine: Engine, settings: Settings, config: Path) -> Clock:
    """One with a short lease."""
    schedule = settings.schedule.model_copy(update={"lease_s": LEASE_S})
    return Clock(settings.model_copy(update={"schedule": schedule}), engine, config=config)


def test_while_a_command_runs_no_other_daemon_carries_out_anything(
    clock: Clock,
    other_daemon: Clock,
    engine: Engine,
    does: Callable[[str], None],
    tmp_path: Path,
) -> None:
    """It runs for more than two leases."""
    first, second = ask(engine, "rollback", "1"), ask(engine, "rollback", "2")
    does(f"touch {tmp_path}/begun; until [ -e {tmp_path}/end ]; do sleep 0.05; done")
    at_it = threading.Thread(target=other_daemon.operate)
    at_it.start()
    wait_for(tmp_path / "begun")
    until = time.monotonic() + 2.2 * LEASE_S
    while time.monotonic() < until:
        clock.operate()
        states = [shown(engine, operation).state for operation in (first, second)]
        assert states == [OperationState.RUNNING, OperationState.WAITING]
        time.sleep(0.1)
    (tmp_path / "end").touch()
    at_it.join(timeout=10)
    states = [shown(engine, operation).state for operation in (first, second)]
    assert states == [OperationState.DONE] * 2


def test_a_lease_that_could_not_be_given_back_is_at_the_next_look(
    clock: Clock,
    engine: Engine,
    does: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    does("exit 0")
    first = ask(engine, "rollback", "1")

    def fails(*_: Any, **__: Any) -> None:
        raise OperationalError("commit", None, OSError("gone"))

    with monkeypatch.context() as broken:
        broken.setattr(leases, "release", fails)
        with pytest.raises(OperationalError):
            clock.operate()
    second = ask(engine, "rollback", "2")
    clock.operate()
    states = [shown(engine, operation).state for operation in (first, second)]
    assert states == [OperationState.DONE] * 2


def test_a_daemon_that_another_one_took_over_from_ends_its_command_and_writes_nothing(
    other_daemon: Clock, engine: Engine, does: Callable[[str], None], tmp_path: Path
) -> None:
    first, second = ask(engine, "rollback", "1"), ask(engine, "rollback", "2")
    does(f"touch {tmp_path}/begun; exec sleep 60")
    at_it = threading.Thread(target=other_daemon.operate)
    at_it.start()
    wait_for(tmp_path / "begun")
    with writing(engine) as session:  # as if it had been stopped for a minute
        later = datetime.now(UTC) + timedelta(minutes=1)
        leases.acquire(session, leases.OPERATIONS, owner="elsewhere:1", now=later, lease_s=60)
        operations.end_interrupted(session, now=later)
    at_it.join(timeout=10)
    assert not at_it.is_alive()
    view = shown(engine, first)
    assert (view.state, view.exit_code) == (OperationState.INTERRUPTED, None)
    assert shown(engine, second).state is OperationState.WAITING


def test_a_team_withdraws_its_own_facts_and_no_other_ones(
    engine: Engine,
    settings: Settings,
    clock: Clock,
    make_key: Callable[..., str],
    store: Callable[..., list[int]],
) -> None:
    (own,) = store("One.")
    (other,) = store("Two.", source="archive")
    key = make_key(Scope.INGEST)
    with TestClient(create_app(settings, engine, clock)) as http:
        http.headers["Authorization"] = f"Bearer {key}"
        withdrawn = http.post(f"/v1/facts/{own}/retraction").json()
        assert (withdrawn["state"], withdrawn["known_by"]) == ("retracted", [])
        again = http.post(f"/v1/facts/{own}/retraction")
        assert (again.status_code, "already retracted" in again.json()["detail"]) == (409, True)
        refused = http.post(f"/v1/facts/{other}/retraction")
        assert (refused.status_code, "Two." in refused.text) == (403, False)
        assert http.post("/v1/facts/99/retraction").status_code == 404


def test_a_held_fact_is_approved_by_an_admin(
    engine: Engine, http: httpx2.Client, store: Callable[..., list[int]]
) -> None:
    (fact,) = store("One.")
    answer = http.post(f"/v1/facts/{fact}/approval")
    assert answer.status_code == 409
    assert "is not held" in json.loads(answer.text)["detail"]
