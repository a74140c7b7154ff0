"""A service under load that is disturbed again and again: kinds of `benchmarks.faults`.

One state directory is lived in. Before each trial a client sends facts to be learned until one was
acknowledged, and some seconds more; then eight send as many as are taken while the fault happens.
What was not acknowledged is sent again under its key. What was must be there after each trial; at
the end a last daemon must have tried all that was to be learned, and `fsck` find nothing. A daemon
that lives through the fault may log no traceback.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from sqlalchemy import create_engine, text

from benchmarks.disk import Disk, disk
from benchmarks.proxy import Proxy
from benchmarks.site import LEASE_S, WITHIN_S, Pushing, Site, Workshop
from service import leases
from service.db import reading
from service.fsck import check
from service.models import Lease

Trial = dict[str, Any]
#: What may be said while there is no room, or no database.
MAY_BE_SAID = frozenset({503, 507})
LEFT_BYTES = 1 << 17  #: of a full disk, at most


@dataclass
class Lived:
    """The trials of one fault in one state directory."""

    fault: str
    site: Site
    count: int
    goes_on: bool = False  #: it lives through the fault, and what it says of it counts
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        self.client = Pushing(self.site)
        self.nth = 0

    def trial(
        self, step: str, *, is_hit: bool, recovery_s: float | None, found: list[str]
    ) -> Trial:
        """One of them, which is over; the last one says what does not hold at the end, too."""
        self.nth += 1
        violations = [*found, *self.client.violations()]
        wrong = {code: n for code, n in self.client.refused.items() if code not in MAY_BE_SAID}
        if wrong:
            violations.append(f"answers: {wrong}")
        self.client.refused.clear()
        if self.nth == self.count:
            violations += self.site.settle()
            if self.goes_on:
                violations += self.site.logged_tracebacks()
        return {
            "key": f"{self.fault} {self.nth} of {self.count}",
            "fault": self.fault,
            "step": step,
            "is_hit": is_hit,
            "violations": violations,
            "recovery_s": recovery_s,
        }

    @property
    def is_over(self) -> bool:
        return self.nth == self.count

    def push_for(self, least_s: float, most_s: float) -> list[str]:
        """Send facts for so long, and on until one is taken; what to say where none ever is."""
        until = time.monotonic() + self.chance.uniform(least_s, most_s)
        self.client.push_until(until, but_once_within_s=WITHIN_S)
        if self.client.answered_at is None:
            return [f"nothing was acknowledged within {WITHIN_S:g} s"]
        return []


def killed(workshop: Workshop, count: int) -> Iterator[Trial]:
    """The daemon alone, or with what it started: that dies with the machine, or does not."""
    lived = Lived("daemon", workshop.copy_of("waiting"), count)
    while not lived.is_over:
        began = time.monotonic()
        with lived.site.serving() as process:
            found = lived.push_for(2.0, 10.0)
            is_whole = lived.chance.random() < 0.5
            kill = os.killpg if is_whole else os.kill
            lived.client.burst(then=partial(kill, process.pid, signal.SIGKILL))
        yield lived.trial(
            "with its children" if is_whole else "alone",
            is_hit=not found,
            recovery_s=None if found else (lived.client.answered_at or began) - began,
            found=found,
        )


def cut_off(workshop: Workshop, count: int, *, hasty: bool) -> Iterator[Trial]:
    """The power of its disk is cut. `hasty`: the daemon does not wait for the disk."""
    with its_disk(workshop) as (own_disk, site):
        lived = Lived("power", site, count)
        off_at = 0.0

        def cut(process: "subprocess.Popen[bytes]") -> None:
            # What was on its way to the disk in that moment may be called written by the kernel and
            # be gone all the same: a machine without power could tell nobody.
            nonlocal off_at
            off_at = time.monotonic()
            own_disk.cut()
            time.sleep(0.2)  # it goes on without its disk
            os.killpg(process.pid, signal.SIGKILL)

        while not lived.is_over:
            began = time.monotonic()
            with site.serving(hasty=hasty) as process:
                found = lived.push_for(2.0, 10.0)
                lived.client.burst(then=partial(cut, process))
            lived.client.forget_since(off_at)
            lived.client.refused.clear()  # by a machine that is not there any more
            site.engine.dispose()
            own_disk.unmount()
            own_disk.mount()
            whole = check(site.settings, site.engine, fast=False, now=datetime.now(UTC))
            yield lived.trial(
                "the whole machine",
                is_hit=not found,
                recovery_s=None if found else (lived.client.answered_at or began) - began,
                found=[*found, *whole.problems],
            )
            site.engine.dispose()


@contextmanager
def its_disk(workshop: Workshop) -> Iterator[tuple[Disk, Site]]:
    """A copy of the state directory on a disk of its own. Raises NoDisk."""
    with disk(workshop.folder) as own_disk:
        folder = own_disk.at / "site"
        shutil.copytree(workshop.copy_of("waiting").folder, folder, symlinks=True)
        os.sync()  # it was there before
        with closing(Site(folder, workshop.config)) as site:
            yield own_disk, site


#: Lets the fault begin, does what it is given while it lasts, ends it, and says whether it was met.
Disturb = Callable[[Callable[[], None]], bool]


def disturbed(
    lived: Lived, step: str, disturb: Disturb, *, least_s: float, most_s: float, **more: str
) -> Iterator[Trial]:
    """One daemon, which must go on by itself after each trial, without being started again."""
    lived.goes_on, client = True, lived.client
    with lived.site.serving(**more) as process:
        while not lived.is_over:
            found = lived.push_for(1.0, 3.0)
            lasts_s = lived.chance.uniform(least_s, most_s)
            is_hit = disturb(partial(client.burst, partial(time.sleep, lasts_s)))
            ended = time.monotonic()
            found += lived.push_for(0.0, 0.0)
            recovery_s = (client.answered_at or ended) - ended
            if process.poll() is not None:
                found.append(f"the daemon ended with {process.returncode}")
            if lived.nth == lived.count - 1:
                process.terminate()  # a last one settles what is left
                process.wait(timeout=WITHIN_S)
            yield lived.trial(step, is_hit=is_hit and not found, recovery_s=recovery_s, found=found)


def full(workshop: Workshop, count: int) -> Iterator[Trial]:
    """Its disk is full for some seconds, but for a little."""
    with its_disk(workshop) as (own_disk, site):
        lived = Lived("full disk", site, count)

        def fill(work: Callable[[], None]) -> bool:
            own_disk.fill(but=lived.chance.randrange(LEFT_BYTES))
            before = lived.client.refused.total()
            work()
            own_disk.make_room()
            return lived.client.refused.total() > before

        # By itself the service refuses before it comes so far.
        reserve = {"storage__reserve_bytes": "0"}
        yield from disturbed(lived, "the disk", fill, least_s=1.0, most_s=4.0, **reserve)


def locked(workshop: Workshop, count: int) -> Iterator[Trial]:
    """Somebody else holds the write lock of SQLite; writers wait 15 s for it."""
    with closing(workshop.copy_of("waiting")) as site:
        lived = Lived("locked", site, count)

        def lock(work: Callable[[], None]) -> bool:
            with site.engine.begin():  # a transaction begins by taking it
                before = len(lived.client.acknowledged)
                work()
                return len(lived.client.acknowledged) == before

        yield from disturbed(lived, "the database", lock, least_s=1.0, most_s=25.0)


def gone(workshop: Workshop, count: int, *, url: str) -> Iterator[Trial]:
    """PostgreSQL ends all connections, again and again for a while."""
    with workshop.on_postgresql(url) as site:
        lived = Lived("gone", site, count)
        admin = create_engine(url, isolation_level="AUTOCOMMIT")
        end_all = text(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

        def end(work: Callable[[], None]) -> bool:
            ended = 0

            def work_and_end() -> None:
                nonlocal ended
                for _ in range(5):
                    with admin.connect() as connection:
                        ended += connection.scalar(end_all) or 0
                    time.sleep(0.1)

            lived.client.burst(then=work_and_end)
            work()
            return ended > 0

        yield from disturbed(lived, "all connections", end, least_s=0.1, most_s=1.0)
        admin.dispose()


def unheard(workshop: Workshop, count: int, *, url: str) -> Iterator[Trial]:
    """The answer to a commit of PostgreSQL is lost, one of five, for a while."""
    with (
        workshop.on_postgresql(url) as site,
        TemporaryDirectory(prefix="lw-") as folder,
        closing(Proxy(Path(folder), url)) as proxy,
    ):
        lived = Lived("unheard", site, count)

        def lose(work: Callable[[], None]) -> bool:
            before = proxy.lost
            proxy.loses = 0.2
            work()
            proxy.loses = 0.0
            return proxy.lost > before

        more = {"database_url": proxy.url}
        yield from disturbed(lived, "a commit", lose, least_s=1.0, most_s=4.0, **more)


def taken_over(workshop: Workshop, count: int) -> Iterator[Trial]:
    """Of two daemons the one that refreshes is killed; recovery is until the other one does."""
    with closing(workshop.copy_of("waiting")) as site:
        lived = Lived("two daemons", site, count)
        daemons = [Daemon(site), Daemon(site)]
        try:
            while not lived.is_over:
                found = lived.push_for(0.0, 2.0)
                until = time.monotonic() + WITHIN_S
                while (one := refreshing(site, daemons)) is None and time.monotonic() < until:
                    lived.push_for(0.0, 0.0)
                if one is not None:
                    daemons.remove(one)
                    one.end()
                began, token = time.monotonic(), token_of(site)
                site.port = daemons[0].port
                while (is_same := token_of(site) == token) and time.monotonic() < until:
                    time.sleep(0.02)
                if is_same:
                    found.append(f"nobody refreshed within {WITHIN_S:g} s")
                recovery_s = time.monotonic() - began
                daemons += [Daemon(site)] * (one is not None)
                if lived.nth == lived.count - 1:
                    for daemon in daemons:
                        daemon.end()
                yield lived.trial(
                    f"a lease of {LEASE_S:g} s",
                    is_hit=one is not None,
                    recovery_s=recovery_s,
                    found=found,
                )
        finally:
            for daemon in daemons:
                daemon.end()


class Daemon:
    """One of two."""

    def __init__(self, site: Site) -> None:
        self.process = site.start_daemon()
        self.port = site.port

    def end(self) -> None:
        """With what it started, as its machine would."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def refreshing(site: Site, daemons: Sequence[Daemon]) -> Daemon | None:
    """The one whose refresh holds the lease."""
    with reading(site.engine) as session:
        lease = session.get(Lease, leases.REFRESH)
        if lease is None or not leases.is_held(session, leases.REFRESH, now=datetime.now(UTC)):
            return None
        pid = int(lease.owner.rpartition(":")[2])
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid).ppid()
        return next((daemon for daemon in daemons if daemon.process.pid == parent), None)
    return None


def token_of(site: Site) -> int:
    """Rises with every new owner of the lease."""
    with reading(site.engine) as session:
        lease = session.get(Lease, leases.REFRESH)
        return 0 if lease is None else lease.token
