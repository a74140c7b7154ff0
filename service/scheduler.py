"""The clock: looks whether a refresh is due or an admin asked for something, and runs it.

APScheduler only wakes us up. Whether a refresh is due is read from the database and who may run it
is decided by the lease there, so a tick that was missed, doubled or late costs nothing.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from service import batches, leases, operations
from service.children import Child
from service.current import follow_head
from service.db import first_line, reading, writing
from service.disk import check_room, size_of_model
from service.errors import BUSY, BelowReserve, LeaseHeld, LeaseLost
from service.logs import event
from service.models import Operation
from service.places import Places
from service.settings import Settings
from service.webhooks import deliver_due

log = logging.getLogger(__name__)

TICK, FOLLOWING, OPERATING = "refresh tick", "head moves", "operations"
LOOKS = 3  #: in a row that find a refresh's lease overdue, until it counts as hung
OPERATING_EVERY_S = 10  #: what another daemon wrote down is found so late at most


class Clock:
    """Ticks, and at most one refresh and one operation at a time as children of this process."""

    def __init__(self, settings: Settings, engine: Engine, *, config: Path) -> None:
        self.settings = settings
        self.engine = engine
        self.refresh = Child(config)
        self.operation = Child(config)
        self.hold: leases.Hold | None = None  #: of the operations
        self.kept_waiting: set[int] = set()  #: operations that found a refresh running
        self.ending = threading.Event()
        self.ticking, self.operating, self.following = (threading.Lock() for _ in range(3))
        self.scheduler = BackgroundScheduler(
            timezone=UTC,
            # Two, of which one waits for the other: a wake-up while it looks is not lost to it.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 2},
        )

    def start(self) -> None:
        """The first tick comes at once: what was missed while everything was down is made up."""
        jobs: tuple[tuple[str, Callable[[], None], float], ...] = (
            (TICK, self.tick, self.settings.schedule.every_s),
            (OPERATING, self.operate, OPERATING_EVERY_S),
            (FOLLOWING, self.follow, self.settings.webhook.every_s),
        )
        for name, look, every_s in jobs:
            self.scheduler.add_job(
                self._or_say_why,
                "interval",
                args=(name, look),
                seconds=every_s,
                id=name,
                next_run_time=datetime.now(UTC),
            )
        self.scheduler.start()

    def wake(self) -> None:
        """Let the next tick come now."""
        self.scheduler.modify_job(TICK, next_run_time=datetime.now(UTC))

    def wake_operations(self) -> None:
        """Let what an admin asked for begin now."""
        self.scheduler.modify_job(OPERATING, next_run_time=datetime.now(UTC))

    def _or_say_why(self, name: str, look: Callable[[], None]) -> None:
        """A database that is away or locked now may be there at the next look: a line is enough."""
        try:
            look()
        except OperationalError as error:
            log.error("%s: the database failed, it is tried again: %s", name, first_line(error))

    def tick(self) -> None:
        """Run a refresh if one is due, and wait for its end."""
        with self.ticking:
            if self._is_due():
                self._refresh()

    def _refresh(self) -> None:
        log_path = self._log_path("refresh")
        with log_path.open("wb") as output:
            log.info("a refresh begins, log %s", log_path, extra=event("refresh_begun"))
            ended = self.refresh.run(
                "refresh",
                log_file=output,
                hangs=self._hanging(),
                look_every_s=self.settings.schedule.lease_s / 2,
            )
        if ended is None:  # the daemon is about to end
            log_path.unlink()
            return
        # What the child did not record itself, the next refresh finds by its expired lease.
        level = logging.INFO if ended.code == 0 else logging.ERROR
        log.log(
            level,
            "the refresh ended with exit code %s, log %s",
            ended.code,
            log_path,
            extra=event("refresh_ended", exit_code=ended.code),
        )

    def _hanging(self) -> Callable[[int], bool]:
        """Whether the refresh of a process lets its lease run out, look after look.

        One look is not enough: the database may have been away, and be back just now.
        """
        overdue = 0

        def look(pid: int) -> bool:
            nonlocal overdue
            lease_s, now = self.settings.schedule.lease_s, datetime.now(UTC)
            owner = leases.of_process(pid)
            try:
                with reading(self.engine) as session:
                    is_overdue = leases.is_overdue(
                        session, leases.REFRESH, owner=owner, now=now, lease_s=lease_s
                    )
            except SQLAlchemyError as error:
                log.warning("whether the refresh hangs cannot be seen: %s", error)
                is_overdue = False
            overdue = overdue + 1 if is_overdue else 0
            return overdue >= LOOKS

        return look

    def operate(self) -> None:
        """Carry out what admins asked for, one after another, each in its turn.

        What found a refresh running waits until that has ended, and keeps nothing else waiting.
        Where another daemon is at it, that one does.
        """
        with self.operating:
            try:
                self._give_back()  # what the database could not take the last time
                with reading(self.engine) as session:
                    if not leases.is_held(session, leases.REFRESH, now=datetime.now(UTC)):
                        self.kept_waiting.clear()
                if hold := self._hold_operations():
                    while (next_ := self._next_operation(hold)) and self._carry_out(next_, hold):
                        pass
                    self._give_back()
            except LeaseLost:
                self.hold = None
                log.error("another daemon took over what this one carried out")

    def _give_back(self) -> None:
        if self.hold is not None:
            with writing(self.engine) as session:
                leases.release(session, self.hold, now=datetime.now(UTC))
            self.hold = None

    def _hold_operations(self) -> leases.Hold | None:
        """The lease for it; what was begun under an earlier one is said to be interrupted."""
        with reading(self.engine) as session:
            if not operations.is_open(session):
                return None
        now = datetime.now(UTC)
        try:
            with writing(self.engine) as session:
                leases.release_of_dead(session, leases.OPERATIONS, now=now)
                hold = leases.acquire(
                    session,
                    leases.OPERATIONS,
                    owner=leases.this_process(),
                    now=now,
                    lease_s=self.settings.schedule.lease_s,
                )
                operations.end_interrupted(session, now=now)
        except LeaseHeld:
            return None
        self.hold = hold
        return hold

    def _next_operation(self, hold: leases.Hold) -> Operation | None:
        now = datetime.now(UTC)
        with writing(self.engine) as session:
            leases.renew(session, hold, now=now, lease_s=self.settings.schedule.lease_s)
            return operations.begin_next(
                session, owner=hold.owner, without=self.kept_waiting, now=now
            )

    def _is_taken_over(self, hold: leases.Hold) -> bool:
        """Prolong the lease while a command runs. True where another daemon has it."""
        try:
            with writing(self.engine) as session:
                now, lease_s = datetime.now(UTC), self.settings.schedule.lease_s
                leases.renew(session, hold, now=now, lease_s=lease_s)
        except LeaseLost:
            return True
        except SQLAlchemyError as error:
            log.warning("the lease of the operations cannot be renewed: %s", error)
        return False

    def _carry_out(self, operation: Operation, hold: leases.Hold) -> bool:
        """False where nothing may be started any more, and it waits on. Raises LeaseLost."""
        log_path = self._log_path(f"operation-{operation.id}")
        with log_path.open("ab") as output:  # an erasure may overwrite it meanwhile
            log.info(
                "operation %s, %s, begins, log %s",
                operation.id,
                operation.kind,
                log_path,
                extra=event("operation_begun", operation=operation.id, kind=str(operation.kind)),
            )
            arguments = ("--by", operation.requested_by, *map(str, operation.arguments), "--json")
            ended = self.operation.run(
                *arguments,
                log_file=output,
                captured=True,
                hangs=lambda _: self._is_taken_over(hold),
                look_every_s=self.settings.schedule.lease_s / 3,
            )
        with writing(self.engine) as session:
            leases.renew(
                session, hold, now=datetime.now(UTC), lease_s=self.settings.schedule.lease_s
            )
            if ended is None:
                operations.give_back(session, operation.id)
                return False
            if ended.code == BUSY:
                operations.give_back(session, operation.id)
                self.kept_waiting.add(operation.id)
                log.info(
                    "operation %s waits until the refresh has ended",
                    operation.id,
                    extra=event("operation_waits", operation=operation.id),
                )
                return True
            said = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            went_well = ended.code in operations.STATE_OF_CODE
            operations.end(
                session,
                operation.id,
                exit_code=ended.code,
                result=_parsed(ended.output),
                error=None if went_well else (said or ["It ended without a word."])[-1],
                now=datetime.now(UTC),
            )
        log.info(
            "operation %s ended with exit code %s",
            operation.id,
            ended.code,
            extra=event("operation_ended", operation=operation.id, exit_code=ended.code),
        )
        return True

    def follow(self) -> None:
        """Let `current` lead to the head, then tell the webhook's receiver of what it was not told.

        A job of its own: a refresh keeps the tick for hours.
        """
        with self.following:
            follow_head(self.settings, self.engine)
            now = datetime.now(UTC)
            deliver_due(self.settings, self.engine, now=now, is_ending=self.ending.is_set)

    def _is_due(self) -> bool:
        now = datetime.now(UTC)
        with reading(self.engine) as session:
            waiting = batches.count_pending(
                session, at_most_of_source=self.settings.schedule.at_most_of_source, now=now
            )
            is_running = leases.is_held(session, leases.REFRESH, now=now)
            is_left_over = batches.has_unfinished(session) or batches.suspected(
                session, attempts=self.settings.schedule.attempts, now=now
            )
            quota = batches.held_back(
                session,
                at_least=self.settings.schedule.at_least,
                at_most_of_source=self.settings.schedule.at_most_of_source,
                now=now,
            )
        if quota is not None:
            log.warning("no refresh is due: %s", quota, extra=event("held_back_by_quota"))
        enough = waiting >= self.settings.schedule.at_least
        return not is_running and (enough or bool(is_left_over)) and self._has_room()

    def _has_room(self) -> bool:
        try:
            check_room(self.settings, needed=size_of_model(self.settings))
        except BelowReserve as error:
            log.error("a refresh is due and cannot begin: %s", error, extra=event("no_room"))
            return False
        return True

    def _log_path(self, name: str) -> Path:
        logs = Places(self.settings.state_dir).logs
        logs.mkdir(parents=True, exist_ok=True)
        return logs / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.log"

    def stop(self) -> None:
        """Start nothing more, ask what runs to end, and end it if it does not.

        A delivery that has begun is waited for, `webhook.timeout_s` at most.
        """
        self.ending.set()
        if self.scheduler.running:
            self.scheduler.pause()
        children = (self.refresh, self.operation)
        for child in children:
            child.ask_to_end()
        until = time.monotonic() + self.settings.schedule.stop_within_s
        for child in children:
            child.see_it_end(until)
        self.scheduler.shutdown(wait=True)


def _parsed(output: bytes) -> dict[str, Any] | None:
    """The one document that a command printed, if it came so far."""
    try:
        parsed = json.loads(output)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None
