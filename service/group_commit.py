"""Facts of many requests stored together: each transaction takes all that waits by then.

A durable commit waits for the disk whatever it holds. With one writer that takes along what came
while it waited, a hundred small requests cost a few commits instead of a hundred, none of them is
acknowledged before it is on the disk, and no two fight for the database's one write lock.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.concurrency import run_in_threadpool

from service import facts
from service.auth import Caller
from service.db import writing
from service.disk import check_room
from service.errors import BelowReserve, Overloaded
from service.facts import ItemOutcome
from service.schemas import FactIn
from service.settings import Settings

ITEMS_A_TRANSACTION = 500  #: more would keep a running refresh from writing for too long
#: Classes of SQLSTATE: connection, transaction undone, no resources, not now, system error.
FOR_ALL = frozenset({"08", "40", "53", "55", "57", "58"})
RETRY_AFTER_S = 2  #: by then what waits now is stored

Item = tuple[FactIn, str | None]  #: a fact, and why it must wait for an admin, where it must


@dataclass(frozen=True, slots=True)
class _Waiting:
    items: Sequence[Item]
    caller: Caller
    stored: asyncio.Future[list[ItemOutcome]]


class GroupCommit:
    """The one writer of facts in this process. It belongs to the event loop that first uses it."""

    def __init__(self, settings: Settings, engine: Engine, pepper: bytes) -> None:
        self.settings = settings
        self.engine = engine
        self.pepper = pepper
        self._queue: deque[_Waiting] = deque()
        self._count = 0
        self._draining: asyncio.Task[None] | None = None

    async def store(self, items: Sequence[Item], caller: Caller) -> list[ItemOutcome]:
        """Store some facts, at most ITEMS_A_TRANSACTION, durably before this returns.

        Raises Overloaded where too many wait already, BelowReserve where the disk has no room, and
        what the database raises.
        """
        if self._count and self._count + len(items) > self.settings.facts.max_waiting:
            raise Overloaded(
                f"{self._count} facts wait to be stored (facts.max_waiting); send it again in "
                f"{RETRY_AFTER_S} s.",
                retry_after_s=RETRY_AFTER_S,
            )
        stored: asyncio.Future[list[ItemOutcome]] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(items, caller, stored))
        self._count += len(items)
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain())
        return await stored

    async def _drain(self) -> None:
        try:
            while self._queue:
                await self._commit(self._next_group())
        finally:
            self._draining = None

    def _next_group(self) -> list[_Waiting]:
        """The oldest that waits, and whatever goes into the same transaction."""
        group = [self._queue.popleft()]
        size = len(group[0].items)
        while self._queue and size + len(self._queue[0].items) <= ITEMS_A_TRANSACTION:
            group.append(self._queue.popleft())
            size += len(group[-1].items)
        self._count -= size
        return group

    async def _commit(self, group: list[_Waiting]) -> None:
        try:
            outcomes = await run_in_threadpool(self._write, group)
        except Exception as error:
            if len(group) == 1 or _is_for_all(error):
                _fail(group, error)
            else:  # a request that cannot be stored must not fail its neighbours
                for waiting in group:
                    await self._commit([waiting])
        else:
            for waiting, its_own in zip(group, outcomes, strict=True):
                if not waiting.stored.done():
                    waiting.stored.set_result(its_own)

    def _write(self, group: Sequence[_Waiting]) -> list[list[ItemOutcome]]:
        """One transaction; the outcomes of each. What came by one key is inserted together."""
        check_room(self.settings)
        by_key: dict[str, list[_Waiting]] = {}
        for waiting in group:
            by_key.setdefault(waiting.caller.key_id, []).append(waiting)
        outcomes: dict[int, list[ItemOutcome]] = {}
        with writing(self.engine) as session:
            for key_id, same in by_key.items():
                together = iter(
                    facts.insert_facts(
                        session,
                        [item for waiting in same for item in waiting.items],
                        source=same[0].caller.source,
                        recorded_by=key_id,
                        pepper=self.pepper,
                        now=datetime.now(UTC),
                    )
                )
                for waiting in same:
                    outcomes[id(waiting)] = [next(together) for _ in waiting.items]
        return [outcomes[id(waiting)] for waiting in group]


def _is_for_all(error: Exception) -> bool:
    """Whether any request would meet it: the disk is full, or the database locked or gone."""
    if isinstance(error, BelowReserve):
        return True
    if isinstance(error, PoolTimeout):
        return True
    if not isinstance(error, OperationalError):
        return False
    state = getattr(error.orig, "sqlstate", None)  # of PostgreSQL, where it came so far as to say
    return state is None or str(state)[:2] in FOR_ALL


def _fail(group: Sequence[_Waiting], error: Exception) -> None:
    for waiting in group:
        if not waiting.stored.done():
            waiting.stored.set_exception(error)
