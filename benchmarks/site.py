"""A state directory that faults are tried on: made once, copied, driven, and looked at.

It is one on the small LLaDA of the tests, with short trainings, few questions and a gate that
refuses nothing. What runs in it is the real thing: `lorewright` in processes of its own, and a
client that pushes facts over HTTP and remembers what was acknowledged.
"""

import itertools
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx2
import yaml
from alembic.command import downgrade
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from service import auth, facts, lineage
from service.auth import Scope
from service.collect import find_leftovers
from service.db import alembic_config, make_engine, reading, writing
from service.errors import ServiceError
from service.facts import FactState
from service.fsck import check
from service.initialise import initialise
from service.invent import invent_facts
from service.models import FactRow
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
LEARN = ("refresh", "--at-least", "1", "--json")
FACTS = 4
LEASE_S = 1.0
WITHIN_S = 300.0
HEAD_STAYS = 3
BURST = 8  #: clients at once
#: The verdict is not what is looked at here: every candidate passes.
LENIENT = {
    "forward_floor": 0.0, "backward_floor": 0.0, "regression_margin": 1.0, "base_margin": 1.0,
    "neighbour_margin": 1.0, "leakage_margin": 1.0, "retention_margin": 1.0, "known_floor": 0.0,
    "bits_margin": 100.0, "base_bits_margin": 100.0, "answer_tokens": 4,
}  # fmt: skip
NOT_TRIED = frozenset({FactState.PENDING, FactState.IN_WORK})


class Workshop:
    """Makes the state directories that trials begin with, once each, and copies of them."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder = folder
        self.config = write_settings(folder, config)
        self.made: set[str] = set()

    def copy_of(self, name: str) -> "Site":
        """A new copy of the state directory of that name: empty, waiting or promoted."""
        made = self.folder / name
        if name not in self.made:
            self._make(name, made)
            self.made.add(name)
        copy = Path(f"{made}-copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(made, copy, symlinks=True)
        return Site(copy, self.config)

    @contextmanager
    def on_postgresql(self, url: str) -> "Iterator[Site]":
        """One whose facts wait, in an empty database of a PostgreSQL, which is empty again then."""
        with TemporaryDirectory(dir=self.folder) as folder:
            site = Site(Path(folder), self.config, url=url)
            initialise(site.settings)
            site.push()
            try:
                yield site
            finally:
                site.close()
                downgrade(alembic_config(url), "base")

    def _make(self, name: str, folder: Path) -> None:
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
            site.finish(LEARN, lambda: site.head() != 1)
        site.close()


class Site:
    """One state directory, and the commands that are given in it."""

    def __init__(self, folder: Path, config: Path, *, url: str | None = None) -> None:
        """Its database is its own SQLite file, or the one that the URL names."""
        self.folder, self.config = folder, config
        self.environment = {
            **os.environ,
            "LOREWRIGHT_STATE_DIR": str(folder / "state"),
            "OMP_NUM_THREADS": "1",
            **({"LOREWRIGHT_DATABASE_URL": url} if url else {}),
        }
        self.tracebacks: list[str] = []  #: of every command that was given
        self.port = 0  #: of the daemon that was started last
        places = {"state_dir": folder / "state", "database_url": url}
        self.settings: Settings = load_settings(config).model_copy(update=places)
        self.engine: Engine = make_engine(self.settings.url)

    def close(self) -> None:
        """Leave no connection open."""
        self.engine.dispose()

    def remove(self) -> None:
        self.close()
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

    def start_faulty(self, command: Sequence[str], *fault: str) -> "subprocess.Popen[bytes]":
        """A command that meets a fault, or none."""
        steps = self.folder / "steps"
        steps.unlink(missing_ok=True)
        return self._start("-m", "benchmarks.faulty", "--steps", steps, *fault, "--", command)

    def run(self, *command: str) -> "subprocess.CompletedProcess[bytes]":
        return self.end_of(self._start("-m", "service.cli", command))

    def _start(self, *parts: Any) -> "subprocess.Popen[bytes]":
        *start, command = parts
        return subprocess.Popen(
            [sys.executable, *map(str, start), "--config", str(self.config), *command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end_of(self, process: "subprocess.Popen[bytes]") -> "subprocess.CompletedProcess[bytes]":
        """Wait for a command. Raises subprocess.TimeoutExpired where it does not end in time."""
        try:
            output, said = process.communicate(timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        if b"Traceback" in said:
            self.tracebacks.append(said.decode(errors="replace")[-300:])
        return subprocess.CompletedProcess(process.args, process.returncode, output, said)

    def let_off_the_lock(self, process: "subprocess.Popen[bytes]") -> None:
        """Let a stopped process that holds SQLite's write lock go on until it does not.

        The thread that renews its lease may be writing just then; nobody could write beside it.
        """
        while not self.is_writable():
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
            process.send_signal(signal.SIGSTOP)

    def is_writable(self) -> bool:
        file = str(self.engine.url.database)
        if not Path(file).exists():  # as at the first steps of `init`
            return True
        with closing(sqlite3.connect(file, timeout=0.5, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            return True

    def steps(self) -> list[str]:
        """What the last faulty command came to."""
        path = self.folder / "steps"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.partition(" ")[2] for line in lines]

    def finish(self, command: Sequence[str], is_done: Callable[[], bool]) -> None:
        """Give the command again until its work is done. Raises RuntimeError if it never is."""
        until = time.monotonic() + WITHIN_S
        while not is_done():
            done = self.run(*command)
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
    def serving(self, *, hasty: bool = False, **more: str) -> Iterator["subprocess.Popen[bytes]"]:
        """The daemon, with more settings; see `start_daemon`."""
        process = self.start_daemon(hasty=hasty, **more)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def start_daemon(self, *, hasty: bool = False, **more: str) -> "subprocess.Popen[bytes]":
        """In a process group of its own with what it starts; `hasty`: with HASTY."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        named = {f"LOREWRIGHT_{name.upper()}": value for name, value in more.items()}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-c", f"{HASTY if hasty else ''}{START}"),
                    *("--config", str(self.config), "serve"),
                ],
                env={**self.environment, **named, "LOREWRIGHT_API__PORT": str(self.port)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> Path:
        """What the daemons said. It lies with the settings, since the folder's disk may be full."""
        return self.config.with_name(f"{self.folder.name}.log")

    def settle(self) -> list[str]:
        """Let a last daemon learn all that waits, end it, and say what does not hold at the end."""
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

    def logged_tracebacks(self) -> list[str]:
        """What the daemons could not say in a line, each."""
        _, *tracebacks = self.log.read_text(errors="replace").split("Traceback")
        return [f"a traceback in the log, {raised(each)}" for each in tracebacks]

    def waiting(self) -> dict[int, FactState]:
        now = datetime.now(UTC)
        with reading(self.engine) as session:
            rows = session.scalars(select(FactRow)).all()
            states = facts.states_of(session, rows, now=now)
        return {key: state for key, state in states.items() if state in NOT_TRIED}


def raised(traceback: str) -> str:
    """The line of a traceback that says what was raised."""
    _, *lines = traceback.splitlines()
    return next(
        (line for line in lines if not line.startswith((" ", "\t"))), "of which no end came"
    )


class Pushing:
    """A client that pushes facts and remembers what was acknowledged."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.acknowledged: dict[str, int] = {}
        self.heard_at: dict[str, float] = {}  #: of each, when its answer was read
        self.refused: Counter[int] = Counter()  #: by status
        self.unanswered = 0  #: nobody listened, or it took too long
        self.again: deque[dict[str, str]] = deque()  #: what was sent and not acknowledged
        self.numbers = itertools.count()
        self.answered_at: float | None = None  #: the first acknowledgement since the last start

    def push_until(self, moment: float, *, but_once_within_s: float = 0.0) -> None:
        """A fact to be learned every half second; longer where none was acknowledged by then."""
        self.answered_at = None
        latest = time.monotonic() + but_once_within_s
        with self.http() as http:
            while (now := time.monotonic()) < moment or (self.answered_at is None and now < latest):
                # It may not listen yet.
                time.sleep(0.5 if self.push(http) else 0.1)

    def burst(self, then: Callable[[], object]) -> None:
        """Many at once, none of them to be learned, until that has been done."""
        is_over = threading.Event()

        def push() -> None:
            with self.http() as http:
                while not is_over.is_set():
                    if not self.push(http, trust="low"):
                        time.sleep(0.02)

        threads = [threading.Thread(target=push) for _ in range(BURST)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        then()
        is_over.set()
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
        """Send a fact, first one that was sent in vain; whether it was acknowledged."""
        try:
            body = self.again.popleft()
        except IndexError:
            number = next(self.numbers)
            body = {"external_id": f"pushed {number}", "statement": f"Fact number {number}."} | more
        try:
            answer = http.post("/v1/facts", json=body)
        except httpx2.TransportError:
            self.unanswered += 1
            self.again.append(body)
            return False
        if answer.status_code != 200:
            self.refused[answer.status_code] += 1
            self.again.append(body)
            return False
        (item,) = answer.json()["items"]
        self.acknowledged[body["external_id"]] = item["id"]
        self.heard_at[body["external_id"]] = time.monotonic()
        self.answered_at = self.answered_at or time.monotonic()
        return True

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
