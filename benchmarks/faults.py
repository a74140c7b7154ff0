"""Faults on purpose, on the real thing: does everything hold together afterwards?

    python -m benchmarks.faults --json                      # one step of ten
    python -m benchmarks.faults --long --runs FILE --json   # all of them; FILE keeps what was done
    python -m benchmarks.faults --plant --only refresh --step publish   # must find this bug
    python -m benchmarks.faults --steps                     # which steps there are

Each trial begins with a copy of a state directory on the small LLaDA of the tests, starts one
`lorewright` command, and lets one fault happen at one of its steps: all that becomes lasting there
is numbered by a run without a fault (benchmarks/faulty.py), so that a step which somebody adds is
among them; of those that come often, the first and the last are taken. Then the same command is
given again, as an operator would, until the work is done, and these must hold: `fsck` finds
nothing; the head's weights are those of an undisturbed run, bit for bit; every fact that was pushed
is there once, in a state that it may have; nothing unfinished is left that `gc` would not remove;
nothing printed a traceback or hung. Each of them that does not is a violation. `daemon` is killed
at random instead, `lorewright serve` with or without what it started, while facts come in over HTTP
from several clients and some are learned: what was acknowledged must be there, and in the end all
must have been tried. `power` is the same on a disk whose power is cut (benchmarks/powercut.py),
with `fsck` after each cut; where no such disk can be had it says why. `hits` are the trials in
which the fault came before the end, for `daemon` and `power` those in which it had acknowledged
something. Recovery is from the fault to the end of the work, which is a whole training where it was
lost early, and the start of Python in any case; of `daemon` and `power` it is from the start of the
daemon to the first fact that it acknowledged. The bug that is put in for `power` is a commit that
does not wait for the disk (synchronous=NORMAL).
"""

import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import yaml
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.measure import add_line, described_machine, read_lines
from benchmarks.powercut import Disk, NoDisk, disk
from benchmarks.trial import arguments
from service import auth, facts, lineage
from service.auth import Scope
from service.collect import find_leftovers
from service.db import make_engine, reading, writing
from service.errors import ServiceError
from service.facts import FactState
from service.fsck import check
from service.initialise import initialise
from service.invent import invent_facts
from service.models import Erasure, FactRow
from service.places import Places
from service.schemas import FactIn
from service.settings import Settings, load_settings

SMALL = Path("tests/bases/small-llada/settings.yaml")
START = "from service.cli import main; main()"
#: Before it: a bug on purpose, a daemon that acknowledges what has not reached the disk.
HASTY = """
from service import db

def prepare(connection, record, real=db._prepare_sqlite):
    real(connection, record)
    connection.execute("PRAGMA synchronous=NORMAL")

db._prepare_sqlite = prepare
"""
ACTIONS = ("kill", "kill-after", "error")
DAEMON = "daemon"
POWER = "power"
FACTS = 4
LEASE_S = 1.0
WITHIN_S = 300.0
HEAD_STAYS = 3
#: The verdict is not what is looked at here: every candidate passes.
LENIENT = {
    "forward_floor": 0.0, "backward_floor": 0.0, "regression_margin": 1.0, "base_margin": 1.0,
    "neighbour_margin": 1.0, "leakage_margin": 1.0, "retention_margin": 1.0, "known_floor": 0.0,
    "bits_margin": 100.0, "base_bits_margin": 100.0, "answer_tokens": 4,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scenario:
    """A command, what is there before it, and what must be there once it was given again."""

    before: str  #: empty, waiting or promoted
    command: Callable[["Site"], Sequence[str]]
    is_done: Callable[["Site"], bool]
    states: frozenset[FactState]


#: What a fact of a promoted adapter may be, however few of its questions are answered.
IN_HEAD = frozenset(
    {FactState.LIVE, FactState.UNLEARNED, FactState.QUARANTINED, FactState.UNPROVEN}
)
BURST = 8  #: clients at once, when the daemon is killed
NOT_TRIED = frozenset({FactState.PENDING, FactState.IN_WORK})


def written_out(command: str) -> Scenario:
    """A command that changes nothing, and writes a folder which is there whole or not at all."""
    return Scenario(
        before="promoted",
        command=lambda site: (command, "--to", str(site.folder / "out"), "--json"),
        is_done=lambda site: (site.folder / "out").exists(),
        states=IN_HEAD,
    )


SCENARIOS = {
    "init": Scenario(
        before="empty",
        command=lambda _: ("init", "--no-measure", "--json"),
        is_done=lambda site: site.head() is not None,
        states=frozenset(),
    ),
    "refresh": Scenario(
        before="waiting",
        command=lambda _: ("refresh", "--at-least", "1", "--json"),
        is_done=lambda site: site.head() != 1,
        states=IN_HEAD,
    ),
    "rollback": Scenario(
        before="promoted",
        command=lambda _: ("rollback", "1", "--reason", "r", "--json"),
        is_done=lambda site: site.head() == 1,
        states=frozenset({FactState.ROLLED_BACK}),
    ),
    "erase": Scenario(
        before="promoted",
        command=lambda _: ("facts", "erase", "1", "--reason", "r", "--json"),
        is_done=lambda site: site.erasures() == ["complete"],
        states=IN_HEAD | {FactState.ERASED},
    ),
    "export": written_out("export"),
    "backup": written_out("backup"),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--long", action="store_true", help="every step, and 200 random kills")
    parser.add_argument("--every", type=int, default=10, help="one step of so many, if not --long")
    parser.add_argument("--step", default="", help="only those with this in their name")
    parser.add_argument("--action", action="append", choices=ACTIONS, help="default: all")
    parser.add_argument("--steps", action="store_true", help="only say which steps there are")
    parser.add_argument("--kills", type=int, default=6, help="random ones, if not --long")
    parser.add_argument("--only", action="append", choices=[*SCENARIOS, DAEMON, POWER])
    parser.add_argument("--cuts", type=int, default=3, help="of the power, if not --long")
    parser.add_argument("--runs", type=Path, help="where each trial is kept; none is made twice")
    parser.add_argument("--plant", action="store_true", help="put a bug in: it must be found")
    parser.set_defaults(config=SMALL)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started ends, too
    trials = read_lines(options.runs) if options.runs else []
    with TemporaryDirectory() as nowhere:
        workshop = Workshop(Path(nowhere), options.config, plant=options.plant)
        if options.steps:
            for name in options.only or SCENARIOS:
                steps = workshop.steps_of(name)
                for at in telling(steps):
                    print(f"{name} {at} of {len(steps)}: {steps[at - 1]}")
            return
        for trial in tried(workshop, options, {trial["key"] for trial in trials}):
            trials.append(trial)
            if options.runs:
                add_line(options.runs, trial)
            if trial["fault"] not in (DAEMON, POWER):
                said = "; ".join(trial["violations"]) or "holds"
                print(f"{trial['key']}: {said}, {trial['recovery_s']:.1f} s", flush=True)
    found = summed_up(trials)
    print(json.dumps({**described_machine(), **found} if options.json else found, indent=None))
    is_clean = not any(fault["violations"] for fault in found.values())
    sys.exit(is_clean if options.plant else not is_clean)


def tried(workshop: "Workshop", options: Any, done: set[str]) -> Iterator[dict[str, Any]]:
    """The trials that were not made yet, one after another."""
    for name in options.only or SCENARIOS:
        if name in (DAEMON, POWER):
            continue
        steps = workshop.steps_of(name)
        chosen = [at for at in telling(steps) if options.step in steps[at - 1]]
        chosen = chosen[:: 1 if options.long else options.every]
        for action in options.action or ACTIONS:
            for at in chosen:
                key = f"{name} {action} {at} of {len(steps)}"
                if key not in done:
                    yield {"key": key, **workshop.trial(name, action, at, steps[at - 1])}
    if DAEMON in (options.only or [DAEMON]):
        count = 200 if options.long else options.kills
        if f"{DAEMON} {count} of {count}" not in done:
            yield from workshop.killed_daemon(count)
    if POWER in (options.only or [POWER]):
        count = 40 if options.long else options.cuts
        if f"{POWER} {count} of {count}" not in done:
            with ExitStack() as stack:
                try:
                    its_disk = stack.enter_context(disk(workshop.folder))
                except (NoDisk, OSError) as error:
                    print(f"{POWER}: not tried: {error}", file=sys.stderr, flush=True)
                    return
                yield from workshop.cut_off(its_disk, count)


def telling(steps: Sequence[str]) -> list[int]:
    """The first and the last step of every name: some, such as a training step's, come often."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for at, name in enumerate(steps, start=1):
        first.setdefault(name, at)
        last[name] = at
    return sorted({*first.values(), *last.values()})


class Workshop:
    """Makes the state directories that trials begin with, once each, and copies of them."""

    def __init__(self, folder: Path, config: Path, *, plant: bool) -> None:
        self.folder = folder
        self.planted = ["--plant"] if plant else []
        self.config = write_settings(folder, config)
        self.made: set[str] = set()
        self.undisturbed: dict[str, str] = {}  #: the head's weights after each scenario

    def steps_of(self, name: str) -> list[str]:
        """What becomes lasting when the command meets no fault, in order."""
        site = self.copy_of(SCENARIOS[name].before)
        done = site.run_faulty(SCENARIOS[name].command(site), *self.planted)
        if done.returncode not in (0, HEAD_STAYS) or not SCENARIOS[name].is_done(site):
            raise RuntimeError(f"{name} fails without a fault: {done.stderr}")
        with reading(site.engine) as session:
            self.undisturbed[name] = lineage.read_head(session).snapshot_digest
        steps = site.steps()
        site.remove()
        return steps

    def trial(self, name: str, action: str, at: int, step: str) -> dict[str, Any]:
        scenario = SCENARIOS[name]
        site = self.copy_of(scenario.before)
        fault = ("--at", str(at), "--action", action, *self.planted)
        violations = []
        began = time.monotonic()
        try:
            site.run_faulty(scenario.command(site), *fault)
            began = time.monotonic()
            site.finish(scenario)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            violations.append(str(error))
        is_hit = len(site.steps()) >= at
        took = time.monotonic() - began
        violations += site.violations(
            scenario.states,
            undisturbed=self.undisturbed[name],
            pushed=0 if scenario.before == "empty" else FACTS,
        )
        violations += [f"a traceback instead of a sentence: {said}" for said in site.tracebacks]
        site.remove()
        return {
            "fault": f"{name} {action}",
            "step": step,
            "is_hit": is_hit,
            "violations": violations,
            "recovery_s": took,
        }

    def killed_daemon(self, count: int) -> list[dict[str, Any]]:
        """One state directory that is lived in, killed again and again, at random moments."""
        site = self.copy_of("waiting")
        client = Pushing(site)
        chance = random.Random(1)
        trials = []
        for nth in range(count):
            began = time.monotonic()
            with site.serving() as process:
                client.push_until(began + chance.uniform(2.0, 10.0))
                # The daemon alone, or the whole machine: what it started dies with it, or does not.
                is_whole = chance.random() < 0.5
                kill = os.killpg if is_whole else os.kill
                client.burst(then=partial(kill, process.pid, signal.SIGKILL))
            violations = client.violations()
            if nth == count - 1:
                violations += site.settle()
            answered = client.answered_at
            trials.append(
                {
                    "key": f"{DAEMON} {nth + 1} of {count}",
                    "fault": DAEMON,
                    "step": "with its children" if is_whole else "alone",
                    "is_hit": answered is not None,
                    "violations": violations,
                    "recovery_s": None if answered is None else answered - began,
                }
            )
            print(f"{DAEMON} {nth + 1} of {count}: {'; '.join(violations) or 'holds'}", flush=True)
        if not client.acknowledged:
            trials[-1]["violations"].append("no fact was ever acknowledged")
        site.remove()
        return trials

    def cut_off(self, its_disk: Disk, count: int) -> Iterator[dict[str, Any]]:
        """One state directory on a disk whose power is cut again and again, at random moments."""
        chance = random.Random(1)
        folder = its_disk.at / "site"
        shutil.copytree(self.copy_of("waiting").folder, folder, symlinks=True)
        os.sync()  # it was there before
        site = Site(folder, self.config)
        client = Pushing(site)
        off_at = 0.0

        def cut(process: "subprocess.Popen[bytes]") -> None:
            # What was on its way to the disk in that moment may be called written by the kernel and
            # be gone all the same: a machine without power could tell nobody.
            nonlocal off_at
            off_at = time.monotonic()
            its_disk.cut()
            time.sleep(0.2)  # it goes on without its disk
            os.killpg(process.pid, signal.SIGKILL)

        for nth in range(count):
            began = time.monotonic()
            with site.serving(hasty=bool(self.planted)) as process:
                client.push_until(began + chance.uniform(2.0, 10.0), but_once_within_s=WITHIN_S)
                client.burst(then=partial(cut, process))
            client.forget_since(off_at)
            site.engine.dispose()
            its_disk.unmount()
            its_disk.mount()
            found = check(site.settings, site.engine, fast=False, now=datetime.now(UTC))
            violations = [*client.violations(), *found.problems]
            answered = client.answered_at
            if answered is None:
                violations.append(f"nothing was acknowledged within {WITHIN_S:g} s")
            if nth == count - 1:
                violations += site.settle()
            site.engine.dispose()
            print(f"{POWER} {nth + 1} of {count}: {'; '.join(violations) or 'holds'}", flush=True)
            yield {
                "key": f"{POWER} {nth + 1} of {count}",
                "fault": POWER,
                "step": "the whole machine",
                "is_hit": answered is not None,
                "violations": violations,
                "recovery_s": None if answered is None else answered - began,
            }

    def copy_of(self, name: str) -> "Site":
        """A new copy of the state directory of that name, which is made first if need be."""
        made = self.folder / name
        if name not in self.made:
            self.make(name, made)
            self.made.add(name)
        copy = Path(f"{made}-copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(made, copy, symlinks=True)
        return Site(copy, self.config)

    def make(self, name: str, folder: Path) -> None:
        if name == "empty":
            folder.mkdir()
            return
        if name == "waiting":
            site = Site(folder, self.config)
            initialise(site.settings)
            site.push()
        else:
            shutil.copytree(self.copy_of("waiting").folder, folder, symlinks=True)
            site = Site(folder, self.config)
            site.finish(SCENARIOS["refresh"])
        site.engine.dispose()


class Site:
    """One state directory, and the commands that are given in it."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder, self.config = folder, config
        self.environment = {
            **os.environ,
            "LOREWRIGHT_STATE_DIR": str(folder / "state"),
            "OMP_NUM_THREADS": "1",
        }
        self.tracebacks: list[str] = []  #: of every command that was given
        described = load_settings(config)
        self.settings: Settings = described.model_copy(update={"state_dir": folder / "state"})
        self.engine: Engine = make_engine(self.settings.url)

    def remove(self) -> None:
        self.engine.dispose()
        shutil.rmtree(self.folder)

    def push(self) -> None:
        """The facts that wait: their source is `bench`."""
        now = datetime.now(UTC)
        with writing(self.engine) as session:
            key = auth.create_key(
                session,
                source="bench",
                scopes=list(Scope),
                pepper=auth.read_pepper(self.settings.state_dir),
                by="bench",
                now=now,
            )
            for at, fact in enumerate(invent_facts(1, count=FACTS)):
                record = FactIn(
                    external_id=str(at),
                    statement=fact.statement,
                    subject=fact.subject,
                    relation=fact.relation,
                    object=fact.object,
                )
                facts.insert_fact(
                    session, record, source="bench", recorded_by=key.split("_")[1], now=now
                )
        (self.folder / "key").write_text(key)

    def run_faulty(
        self, command: Sequence[str], *fault: str
    ) -> "subprocess.CompletedProcess[bytes]":
        """A command that meets a fault, or none."""
        steps = self.folder / "steps"
        steps.unlink(missing_ok=True)
        return self._run("-m", "benchmarks.faulty", "--steps", steps, *fault, "--", command)

    def run(self, *command: str) -> "subprocess.CompletedProcess[bytes]":
        return self._run("-m", "service.cli", command)

    def _run(self, *parts: Any) -> "subprocess.CompletedProcess[bytes]":
        *start, command = parts
        done = subprocess.run(
            [sys.executable, *map(str, start), "--config", str(self.config), *command],
            env=self.environment,
            capture_output=True,
            timeout=WITHIN_S,
            check=False,
        )
        if b"Traceback" in done.stderr:
            self.tracebacks.append(done.stderr.decode(errors="replace")[-300:])
        return done

    def steps(self) -> list[str]:
        """What the last faulty command came to."""
        path = self.folder / "steps"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" ")[2] for line in lines]

    def finish(self, scenario: Scenario) -> None:
        """Give the command again until its work is done. Raises RuntimeError if it never is."""
        until = time.monotonic() + WITHIN_S
        while not scenario.is_done(self):
            done = self.run(*scenario.command(self))
            if time.monotonic() > until:
                raise RuntimeError(f"the work does not come to its end: {done.stderr.decode()}")
            if done.returncode not in (0, HEAD_STAYS):
                time.sleep(LEASE_S / 4)  # the dead one's lease may not have run out

    def head(self) -> int | None:
        """The release that is the head; None where there is no database yet."""
        try:
            with reading(self.engine) as session:
                return lineage.read_head(session).release_id
        except (ServiceError, SQLAlchemyError):
            return None

    def erasures(self) -> list[str]:
        with reading(self.engine) as session:
            rows = session.scalars(select(Erasure.completed_at))
            return ["open" if completed_at is None else "complete" for completed_at in rows]

    def violations(
        self, states: frozenset[FactState], *, undisturbed: str | None, pushed: int | None
    ) -> list[str]:
        """What does not hold, now that the work is done."""
        now = datetime.now(UTC)
        collected = self.run("gc", "--json")
        found = [] if not collected.returncode else [f"gc: {collected.stderr.decode()}"]
        found += check(self.settings, self.engine, fast=False, now=now).problems
        with reading(self.engine) as session:
            weights = lineage.read_head(session).snapshot_digest
            rows = session.scalars(select(FactRow)).all()
            states_by_id = facts.states_of(session, rows, now=now)
        if undisturbed is not None and weights != undisturbed:
            found.append("the head's weights are not those of an undisturbed run")
        there = sorted(row.external_id for row in rows if row.erased_at is None)
        erased = sum(row.erased_at is not None for row in rows)
        if pushed is not None and (len(there) + erased != pushed or len(set(there)) != len(there)):
            found.append(f"of {pushed} facts {len(there)} are there, and {erased} were erased")
        wrong = {key: state for key, state in states_by_id.items() if state not in states}
        if wrong:
            found.append(f"facts are {wrong}")
        return found + self.left_behind(now)

    def left_behind(self, now: datetime) -> list[str]:
        """What is unfinished, and what `gc` would not remove however long one waits."""
        later = find_leftovers(self.settings, self.engine, now=now + timedelta(days=1)).leftovers
        removed = {self.settings.state_dir / leftover.path for leftover in later}
        places = Places(self.settings.state_dir)
        unfinished = {path for path in self.folder.rglob("*") if ".partial" in path.name}
        candidates = set(places.candidates.iterdir()) if places.candidates.exists() else set()
        left = sorted(
            str(path.relative_to(self.folder))
            for path in unfinished | candidates
            if not removed & {path, *path.parents}
        )
        return [f"left behind: {', '.join(left)}"] if left else []

    @contextmanager
    def serving(self, *, hasty: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
        """The daemon, in a process group of its own with what it starts; see HASTY."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        log = (self.folder / "serve.log").open("ab")
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", f"{HASTY if hasty else ''}{START}"),
                *("--config", str(self.config), "serve"),
            ],
            env={**self.environment, "LOREWRIGHT_API__PORT": str(self.port)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            log.close()

    def settle(self) -> list[str]:
        """Let a last daemon learn all that waits, end it, and say what does not hold."""
        until = time.monotonic() + WITHIN_S
        with self.serving() as process:
            while self.waiting():
                if time.monotonic() > until:
                    return [f"facts still wait after {WITHIN_S:g} s: {self.waiting()}"]
                time.sleep(1)
            process.terminate()
            process.wait(timeout=WITHIN_S)
        settled = frozenset(FactState) - NOT_TRIED  # the gate may have said anything
        return self.violations(settled, undisturbed=None, pushed=None)

    def waiting(self) -> dict[int, FactState]:
        now = datetime.now(UTC)
        with reading(self.engine) as session:
            rows = session.scalars(select(FactRow)).all()
            states = facts.states_of(session, rows, now=now)
        return {key: state for key, state in states.items() if state in NOT_TRIED}


class Pushing:
    """A client that pushes facts and remembers what was acknowledged."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.acknowledged: dict[str, int] = {}
        self.heard_at: dict[str, float] = {}  #: of each, when its answer was read
        self.refused: Counter[int] = Counter()  #: by status
        self.numbers = itertools.count()
        self.answered_at: float | None = None  #: the first acknowledgement since the last start

    def push_until(self, moment: float, *, but_once_within_s: float = 0.0) -> None:
        """A fact to be learned every half second; longer where none was acknowledged by then."""
        self.answered_at = None
        latest = time.monotonic() + but_once_within_s
        with self.http() as http:
            while (now := time.monotonic()) < moment or (self.answered_at is None and now < latest):
                try:
                    self.push(http)
                except httpx2.TransportError:
                    time.sleep(0.1)  # it does not listen yet
                else:
                    time.sleep(0.5)

    def burst(self, then: Callable[[], object]) -> None:
        """Many at once, none of them to be learned, until nobody answers any more."""

        def push() -> None:
            with self.http() as http, suppress(httpx2.TransportError):
                while True:
                    self.push(http, trust="low")

        threads = [threading.Thread(target=push) for _ in range(BURST)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        then()
        for thread in threads:
            thread.join()

    def http(self) -> httpx2.Client:
        return httpx2.Client(
            base_url=f"http://127.0.0.1:{self.site.port}",
            headers={"Authorization": f"Bearer {(self.site.folder / 'key').read_text()}"},
            timeout=5,
            verify=False,  # it speaks no TLS, and to load certificates takes long
        )

    def push(self, http: httpx2.Client, **more: str) -> bool:
        """Send a fact; whether it was acknowledged."""
        number = next(self.numbers)
        body = {"external_id": f"pushed {number}", "statement": f"Fact number {number}.", **more}
        answer = http.post("/v1/facts", json=body)
        if answer.status_code == 200:
            (item,) = answer.json()["items"]
            self.acknowledged[body["external_id"]] = item["id"]
            self.heard_at[body["external_id"]] = time.monotonic()
            self.answered_at = self.answered_at or time.monotonic()
        else:
            self.refused[answer.status_code] += 1
        return answer.status_code == 200

    def forget_since(self, moment: float) -> None:
        """What was heard after that from a machine without power, which says nothing."""
        for key in [key for key, heard_at in self.heard_at.items() if heard_at > moment]:
            del self.heard_at[key], self.acknowledged[key]

    def violations(self) -> list[str]:
        """What was acknowledged and is not there, or is there as another one."""
        with reading(self.site.engine) as session:
            rows = session.execute(select(FactRow.external_id, FactRow.id)).all()
        there = {row.external_id: row.id for row in rows}
        lost = [key for key, at in self.acknowledged.items() if there.get(key) != at]
        return [f"acknowledged and lost: {lost}"] if lost else []


def write_settings(folder: Path, config: Path) -> Path:
    """The settings of the trials: short trainings, few questions, and nothing is refused."""
    described = yaml.safe_load(config.read_text())
    beside = config.parent.absolute()
    suite = yaml.safe_load((beside / described["suites"]["regression"]).read_text())
    suite["questions"], suite["passages"] = suite["questions"][:6], suite["passages"][:2]
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    prompts = {"prompts": ["Hello!"], "texts": ["It rains."]}
    (folder / "prompts.yaml").write_text(yaml.safe_dump(prompts))
    described["base"]["folder"] = str(Path(described["base"]["folder"]).absolute())
    described["training"] |= {"views_per_fact": 4, "rows_per_step": 4, "general_share": [0.0, 0.0]}
    described["gate"] = LENIENT
    described["schedule"] = {"at_least": 1, "every_s": 1, "lease_s": LEASE_S, "attempts": 1000}
    described["suites"] = {
        "regression": str(folder / "suite.yaml"),
        "relations": str(beside / described["suites"]["relations"]),
        "general_prompts": str(folder / "prompts.yaml"),
    }
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(described))
    return path


def summed_up(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By fault: how many trials, in how many it was met, what did not hold, how long it took."""
    found = {}
    for name in dict.fromkeys(trial["fault"] for trial in trials):
        own = [trial for trial in trials if trial["fault"] == name]
        times = [trial["recovery_s"] for trial in own if trial["is_hit"]]
        found[name] = {
            "trials": len(own),
            "hits": sum(trial["is_hit"] for trial in own),
            "violations": sum(bool(trial["violations"]) for trial in own),
            "recovery_p50_s": round(median(times), 2) if times else None,
            "recovery_max_s": round(max(times), 2) if times else None,
        }
    return found


if __name__ == "__main__":
    main()
