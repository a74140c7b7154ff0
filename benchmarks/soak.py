"""The service under load for half an hour: does anything grow that should not?

    python -m benchmarks.soak --json
    python -m benchmarks.soak --minutes 3     # a look

A real `lorewright serve` on the small LLaDA of the tests. Clients send facts all the time, which
wait for an admin; a fact to be learned comes every --learn-every seconds, so that refreshes run one
after another, and the daemon is killed at random moments of the first third. Along the rest, after
a minute of warming up, these are read every few seconds: the daemon's memory and descriptors, the
bytes of the write-ahead log, and how long requests take. Each is given as its median in the first
and in the last quarter of that time, and as the slope of Theil and Sen an hour with its 95 %
interval (scipy.stats.theilslopes): where the interval holds 0, no growth was seen. At the end the
clock learns what waits, and `violations` says what does not hold then, as in benchmarks.faults:
what `fsck` finds, facts that were acknowledged and are not there, facts that nobody tried; and any
request that was answered, but not with a 200.
"""

import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import psutil
from scipy.stats import theilslopes
from sqlalchemy import func, select

from benchmarks.measure import described_machine
from benchmarks.site import SMALL, Pushing, Site, Workshop
from benchmarks.trial import arguments
from service.db import reading
from service.models import Refresh

EVERY_S = 5.0  #: between two samples
WARM_S = 60.0  #: until a daemon has loaded all that it uses
CLIENTS = 2
PAUSE_S = 0.05  #: of a client between two facts


@dataclass
class Samples:
    """What was read along the undisturbed part: a moment in seconds, and a value, each."""

    memory_mib: list[tuple[float, float]] = field(default_factory=list)
    descriptors: list[tuple[float, float]] = field(default_factory=list)
    wal_mib: list[tuple[float, float]] = field(default_factory=list)
    p99_ms: list[tuple[float, float]] = field(default_factory=list)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--learn-every", type=float, default=20.0, help="seconds")
    parser.add_argument("--kills", type=int, default=10, help="in the first third")
    parser.set_defaults(config=SMALL)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started ends, too
    with TemporaryDirectory() as nowhere:
        site = Workshop(Path(nowhere), options.config).copy_of("waiting")
        found = Soak(site, options).run()
    print(json.dumps({**described_machine(), **found} if options.json else found))
    sys.exit(bool(found["violations"]))


class Soak:
    """One state directory that is lived in."""

    def __init__(self, site: Site, options: Any) -> None:
        self.site, self.options = site, options
        self.client = Pushing(site)
        self.took_s: list[float] = []  #: requests since the last sample
        self.samples = Samples()
        self.is_over = threading.Event()

    def run(self) -> dict[str, Any]:
        whole_s = 60 * self.options.minutes
        began = time.monotonic()
        threads = [threading.Thread(target=self._send, args=({"trust": "low"}, PAUSE_S))
                   for _ in range(CLIENTS)]  # fmt: skip
        threads.append(threading.Thread(target=self._send, args=({}, self.options.learn_every)))
        for moment in self._moments_of_kills(whole_s / 3):
            with self.site.serving() as process:
                for thread in threads:
                    if not thread.ident:
                        thread.start()  # only now it is known where to send
                time.sleep(max(0.0, began + moment - time.monotonic()))
                os.killpg(process.pid, signal.SIGKILL)
        before = len(self.client.acknowledged)
        with self.site.serving() as process:
            self._watch(psutil.Process(process.pid), until=began + whole_s)
            died = sum(not thread.is_alive() for thread in threads)
            self.is_over.set()
            process.terminate()
            process.wait()
        for thread in threads:
            thread.join()
        violations = self.client.violations() + self.site.settle()
        violations += [f"{count} answers of {code}" for code, count in self.client.refused.items()]
        if died or len(self.client.acknowledged) == before:
            violations.append(f"{died} clients died, or nothing was acknowledged after the kills")
        return {
            "minutes": self.options.minutes,
            "kills": self.options.kills,
            "facts_acknowledged": len(self.client.acknowledged),
            "refreshes": self._refreshes(),
            **{name: along(values) for name, values in vars(self.samples).items()},
            "violations": violations,
        }

    def _moments_of_kills(self, within_s: float) -> list[float]:
        chance = random.Random(1)
        return sorted(chance.uniform(0, within_s) for _ in range(self.options.kills))

    def _send(self, more: dict[str, str], pause_s: float) -> None:
        """A fact, a pause, and the next; again from the start where nobody answers."""
        while not self.is_over.is_set():
            try:
                with self.client.http() as http:
                    while not self.is_over.wait(pause_s):
                        began = time.monotonic()
                        if self.client.push(http, **more):
                            self.took_s.append(time.monotonic() - began)
            except httpx2.TransportError:
                time.sleep(0.1)

    def _watch(self, daemon: psutil.Process, *, until: float) -> None:
        time.sleep(WARM_S)
        self.took_s.clear()
        wal = Path(f"{self.site.engine.url.database}-wal")
        while (now := time.monotonic()) < until:
            time.sleep(EVERY_S)
            took, self.took_s = self.took_s, []
            self.samples.memory_mib.append((now, daemon.memory_info().rss / 2**20))
            self.samples.descriptors.append((now, daemon.num_fds()))
            self.samples.wal_mib.append((now, wal.stat().st_size / 2**20))
            if len(took) >= 2:
                self.samples.p99_ms.append((now, 1000 * statistics.quantiles(took, n=100)[-1]))

    def _refreshes(self) -> dict[str, int]:
        with reading(self.site.engine) as session:
            rows = session.execute(
                select(Refresh.outcome, func.count()).group_by(Refresh.outcome)
            ).all()
        return {str(outcome): count for outcome, count in rows}


def along(values: list[tuple[float, float]]) -> dict[str, float]:
    """How a value went: its medians at both ends, and its slope an hour."""
    hours = [moment / 3600 for moment, _ in values]
    only = [value for _, value in values]
    quarter = max(1, len(only) // 4)
    slope, _, low, high = theilslopes(only, hours, 0.95)
    return {
        "first_quarter": round(statistics.median(only[:quarter]), 2),
        "last_quarter": round(statistics.median(only[-quarter:]), 2),
        "slope_per_hour": round(float(slope), 2),
        "slope_low": round(float(low), 2),
        "slope_high": round(float(high), 2),
    }


if __name__ == "__main__":
    main()
