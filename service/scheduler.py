"""The clock: looks whether a refresh is due, and runs it as a child process.

APScheduler only wakes us up. Whether a refresh is due is read from the database and who may run it
is decided by the lease there, so a tick that was missed, doubled or late costs nothing.
"""

import logging
import os
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import Engine

from service import batches, leases
from service.current import follow_head
from service.db import reading
from service.places import Places
from service.settings import Settings
from service.webhooks import deliver_due

log = logging.getLogger(__name__)

TICK, FOLLOWING = "refresh tick", "head moves"


class Clock:
    """Ticks, and at most one refresh at a time as a child of this process."""

    def __init__(self, settings: Settings, engine: Engine, *, config: Path) -> None:
        self.settings = settings
        self.engine = engine
        self.config = config
        self.child: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()
        self.is_stopping = False
        self.scheduler = BackgroundScheduler(
            timezone=UTC,
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def start(self) -> None:
        """The first tick comes at once: what was missed while everything was down is made up."""
        self.scheduler.add_job(
            self.tick,
            "interval",
            seconds=self.settings.schedule.every_s,
            id=TICK,
            next_run_time=datetime.now(UTC),
        )
        self.scheduler.add_job(
            self.follow,
            "interval",
            seconds=self.settings.webhook.every_s,
            id=FOLLOWING,
            next_run_time=datetime.now(UTC),
        )
        self.scheduler.start()

    def wake(self) -> None:
        """Let the next tick come now."""
        self.scheduler.modify_job(TICK, next_run_time=datetime.now(UTC))

    def tick(self) -> None:
        """Run a refresh if one is due, and wait for its end."""
        with self.lock:
            if self.is_stopping or not self._is_due():
                return
            log_path = self._log_path()
            with log_path.open("wb") as output:
                self.child = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "service.cli"),
                        *("--config", str(self.config), "refresh"),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )
        log.info("refresh started as process %s, log %s", self.child.pid, log_path)
        code = self.child.wait()
        self.child = None
        # What the child did not record itself, the next refresh finds by its expired lease.
        level = logging.INFO if code == 0 else logging.ERROR
        log.log(level, "refresh ended with exit code %s, log %s", code, log_path)

    def follow(self) -> None:
        """Let `current` lead to the head, then tell the webhook's receiver of what it was not told.

        A job of its own: a refresh keeps the tick for hours, and a wake-up during one is lost.
        """
        follow_head(self.settings, self.engine)
        deliver_due(self.settings, self.engine, now=datetime.now(UTC))

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
        enough = waiting >= self.settings.schedule.at_least
        return not is_running and (enough or bool(is_left_over))

    def _log_path(self) -> Path:
        logs = Places(self.settings.state_dir).logs
        logs.mkdir(parents=True, exist_ok=True)
        return logs / f"refresh-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.log"

    def stop(self) -> None:
        """Start nothing more, ask a running refresh to end, and end it if it does not."""
        with self.lock:
            self.is_stopping = True
            child = self.child
        if child is not None and child.poll() is None:
            child.terminate()
            try:
                child.wait(timeout=self.settings.schedule.stop_within_s)
            except subprocess.TimeoutExpired:
                log.error("the refresh did not end within its time and is killed")
                child.kill()
        self.scheduler.shutdown(wait=True)
