"""Requests that wait together are stored together, and each is told of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.exc import DataError, OperationalError

from service import auth, facts, group_commit
from service.auth import Caller, Scope
from service.db import reading
from service.errors import Overloaded
from service.facts import ItemOutcome, Stored
from service.group_commit import GroupCommit
from service.models import FactRow
from service.schemas import FactIn
from service.settings import Settings

Storing = Coroutine[Any, Any, list[ItemOutcome]]


@pytest.fixture
def writer(engine: Engine, settings: Settings) -> GroupCommit:
    few = settings.model_copy(
        update={"facts": settings.facts.model_copy(update={"max_waiting": 100})}
    )
    return GroupCommit(few, engine, auth.read_pepper(settings.state_dir))


@pytest.fixture
def caller(make_key: Callable[..., str]) -> Callable[[str], Caller]:
    def of(source: str) -> Caller:
        key_id = make_key(Scope.INGEST, source=source).split("_")[1]
        return Caller(key_id=key_id, source=source, scopes=frozenset({Scope.INGEST}))

    return of


@pytest.fixture
def commits(engine: Engine) -> list[int]:
    """Grows by one with every commit."""
    seen: list[int] = []
    event.listen(engine, "commit", lambda _: seen.append(1))
    return seen


def item(text: str, **fields: Any) -> tuple[FactIn, None]:
    return FactIn(statement=text, **fields), None


def all_of(*storing: Storing) -> list[Any]:
    async def gather() -> list[Any]:
        return await asyncio.gather(*storing, return_exceptions=True)

    return asyncio.run(gather())


def statements(engine: Engine) -> list[tuple[str, str]]:
    with reading(engine) as session:
        rows = session.execute(select(FactRow.source, FactRow.statement).order_by(FactRow.id))
        return [(source, statement) for source, statement in rows]


def test_a_hundred_requests_take_a_few_commits_and_each_has_its_own_outcomes(
    writer: GroupCommit, caller: Callable[[str], Caller], engine: Engine, commits: list[int]
) -> None:
    one, two = caller("one"), caller("two")
    commits.clear()
    outcomes = all_of(
        *(writer.store([item(f"Fact {at}.")], (one, two)[at % 2]) for at in range(80))
    )
    assert len(commits) <= 2
    assert [outcome.stored for [outcome] in outcomes] == [Stored.STORED] * 80
    with reading(engine) as session:
        for at, [outcome] in enumerate(outcomes):
            row = session.get_one(FactRow, outcome.id)
            assert (row.statement, row.source) == (f"Fact {at}.", ("one", "two")[at % 2])


def test_the_same_fact_in_two_requests_of_a_group_is_one_row(
    writer: GroupCommit, caller: Callable[[str], Caller], engine: Engine
) -> None:
    team = caller("team")
    outcomes = all_of(
        writer.store([item("One.", external_id="a")], team),
        writer.store([item("One.", external_id="a"), item("Two.", external_id="b")], team),
        writer.store([item("Other.", external_id="a")], team),
    )
    assert [[outcome.stored for outcome in part] for part in outcomes] == [
        [Stored.STORED], [Stored.DUPLICATE, Stored.STORED], [Stored.CONFLICT],
    ]  # fmt: skip
    assert statements(engine) == [("team", "One."), ("team", "Two.")]


class TooLarge(Exception):
    """What PostgreSQL says of a row that does not fit: an operational error of that row alone."""

    sqlstate = "54000"


@pytest.mark.parametrize(
    "error",
    [
        DataError("INSERT", {}, Exception("cannot be stored")),
        OperationalError("INSERT", {}, TooLarge()),
        ValueError("a bug of ours"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_request_that_cannot_be_stored_fails_alone(
    writer: GroupCommit,
    caller: Callable[[str], Caller],
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    team, real = caller("team"), facts.insert_facts

    def refuses_poison(session: Any, items: Any, **how: Any) -> Any:
        if any("poison" in fact.statement for fact, _ in items):
            raise error
        return real(session, items, **how)

    monkeypatch.setattr(facts, "insert_facts", refuses_poison)
    first, poison, last = all_of(
        *(writer.store([item(text)], team) for text in ("One.", "poison", "Two."))
    )
    assert poison is error
    assert [first[0].stored, last[0].stored] == [Stored.STORED, Stored.STORED]
    assert [statement for _, statement in statements(engine)] == ["One.", "Two."]


def test_a_database_that_is_gone_fails_all_that_wait_once_and_the_next_are_stored(
    writer: GroupCommit,
    caller: Callable[[str], Caller],
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    team, calls = caller("team"), []

    def is_locked(*_: Any, **__: Any) -> Any:
        calls.append(1)
        raise OperationalError("INSERT", {}, Exception("database is locked"))

    async def both() -> tuple[list[Any], list[ItemOutcome]]:
        with monkeypatch.context() as patch:
            patch.setattr(facts, "insert_facts", is_locked)
            failed = await asyncio.gather(
                *(writer.store([item(f"Fact {at}.")], team) for at in range(5)),
                return_exceptions=True,
            )
        return failed, await writer.store([item("Later.")], team)

    failed, later = asyncio.run(both())
    assert [type(error) for error in failed] == [OperationalError] * 5
    assert len(calls) <= 2, "nobody waits for a locked database once for each request"
    assert later[0].stored is Stored.STORED
    assert [statement for _, statement in statements(engine)] == ["Later."]


def test_beyond_what_may_wait_it_is_asked_to_come_again(
    writer: GroupCommit, caller: Callable[[str], Caller], engine: Engine
) -> None:
    team = caller("team")
    lists = [[item(f"Fact {at}.{nth}") for nth in range(30)] for at in range(5)]
    outcomes = all_of(*(writer.store(part, team) for part in lists))
    refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
    assert len(refused) == 2
    assert "facts wait to be stored (facts.max_waiting)" in str(refused[0])
    assert len(statements(engine)) == 90
    many = [item(f"Late {nth}.") for nth in range(300)]
    assert len(asyncio.run(writer.store(many, team))) == 300, "one alone may be as large as any"


def test_no_transaction_grows_without_a_bound(
    writer: GroupCommit,
    caller: Callable[[str], Caller],
    commits: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_commit, "ITEMS_A_TRANSACTION", 10)
    team = caller("team")
    commits.clear()
    all_of(*(writer.store([item(f"Fact {at}.")], team) for at in range(95)))
    assert len(commits) == 10


def test_whoever_went_away_meanwhile_keeps_nobody_from_being_told(
    writer: GroupCommit,
    caller: Callable[[str], Caller],
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    team, real, may_go_on = caller("team"), facts.insert_facts, threading.Event()

    def waits(*arguments: Any, **how: Any) -> Any:
        may_go_on.wait(10)
        return real(*arguments, **how)

    monkeypatch.setattr(facts, "insert_facts", waits)

    async def story() -> list[ItemOutcome]:
        gone = asyncio.create_task(writer.store([item("Gone.")], team))
        stays = asyncio.create_task(writer.store([item("Stays.")], team))
        await asyncio.sleep(0.05)
        gone.cancel()
        may_go_on.set()
        return await stays

    assert asyncio.run(story())[0].stored is Stored.STORED
    assert {statement for _, statement in statements(engine)} == {"Gone.", "Stays."}
