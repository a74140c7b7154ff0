"""The demonstration: a real base learns invented facts, passes the gate, and forgets them again.

It drives the product from outside and has no way of its own: `init`, `keys`, `serve`, `ask` and
`rollback` are the commands that an operator types, each in a process of its own; the facts go in
over HTTP, and the daemon's clock starts the refresh.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2

from adapters.grading import contains
from adapters.questions import probes_of
from adapters.suites import read_relations
from adapters.types import Fact, Probe, Suite
from service.errors import DemoFailed
from service.invent import InventedFact, invent_facts
from service.settings import Settings

CLOCK_S = 2  #: how often the demonstration's daemon looks for waiting facts
READY_WITHIN_S = 60
LEARNED_WITHIN_S = 1800
POLL_S = 0.5
VERDICTS = ("promoted", "rejected", "insufficient_evidence")
#: By the gate, or where it could not tell by an admin, whom the demonstration stands for.
LET_IN = ("promoted", "insufficient_evidence")

Say = Callable[[str], None]
Watch = Callable[[dict[str, Any]], None]  #: is given a refresh's record whenever it was read


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One probe and the answers at the three points of the demonstration.

    Where the gate let nothing in, `after` is the candidate's, and there was no rollback.
    """

    suite: str
    question: str
    expected: str
    before: str
    after: str
    rolled_back: str | None
    known_before: bool
    known_after: bool
    known_rolled_back: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demonstration saw, whether or not it went well."""

    seed: int
    facts: tuple[InventedFact, ...]
    refresh: dict[str, Any]
    asked: tuple[Asked, ...]
    forward: float  #: the share of forward probes answered after the refresh
    backward: float
    known_before: float
    token_for_token: bool | None  #: every answer after the rollback is the one from before
    seconds: float
    failures: tuple[str, ...]  #: why the demonstration failed; empty when it went well


def run_demo(
    settings: Settings,
    config: Path,
    *,
    seed: int,
    count: int,
    say: Say,
    watch: Watch,
) -> DemoResult:
    """Run it all in a fresh folder under the state directory. Raises DemoFailed."""
    began = time.monotonic()
    state = settings.state_dir / "demo"
    shutil.rmtree(state, ignore_errors=True)
    facts = invent_facts(seed, count=count)
    probes = _probes(settings, facts)
    questions = [probe.question for probe in probes]
    lorewright = _Commands(config, state, port=_free_port(), at_least=count)

    say(f"Preparing the database in {state}, and {settings.base.name}: what does it say now?")
    lorewright.run("init")
    key = lorewright.run("keys", "create", "demo", *_scopes("ingest", "read"))["key"]
    say(f"Asking {len(questions)} questions about {count} facts invented from seed {seed}:")
    for fact in facts:
        say(f"  {fact.statement}")
    before = _texts(lorewright.run("ask", *questions))
    with lorewright.serving() as url:
        say(f"Pushing the facts to {url}/v1/facts; the daemon's clock does the rest")
        with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
            _push(client, facts, seed)
            refresh = _wait_for_refresh(client, lorewright, watch)
        rolled_back: Sequence[str | None] = [None] * len(questions)
        if refresh["outcome"] == "insufficient_evidence":
            say(f"The gate could not tell: {refresh['reason']}.")
            say(f"An admin may: letting adapter {refresh['adapter_id']} in")
            reason = "the demonstration shows what it learned"
            lorewright.run("adapters", "promote", str(refresh["adapter_id"]), "--reason", reason)
        if refresh["outcome"] in LET_IN:
            say("Asking the same questions again")
            after = _texts(lorewright.run("ask", *questions))
            say(f"Taking adapter {refresh['adapter_id']} out again")
            reason = "the demonstration shows the way back"
            lorewright.run("rollback", str(refresh["adapter_id"]), "--reason", reason)
            rolled_back = _texts(lorewright.run("ask", *questions))
        else:  # the head is as it was; what the candidate said is in the refresh's record
            said = {probe["question"]: probe["after"] for probe in refresh["probes"]}
            after = [said.get(question, "(not asked)") for question in questions]
    asked = tuple(
        _asked(probe, first, second, third)
        for probe, first, second, third in zip(probes, before, after, rolled_back, strict=True)
    )
    return _result(seed, facts, refresh, asked, time.monotonic() - began)


class _Commands:
    """The `lorewright` command with the demonstration's settings, which are environment only."""

    def __init__(self, config: Path, state: Path, *, port: int, at_least: int) -> None:
        self.command = [sys.executable, "-m", "service.cli", "--config", str(config)]
        self.log = state / "serve.log"
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            **os.environ,
            "LOREWRIGHT_STATE_DIR": str(state),
            "LOREWRIGHT_API__PORT": str(port),
            "LOREWRIGHT_SCHEDULE__EVERY_S": str(CLOCK_S),
            "LOREWRIGHT_SCHEDULE__AT_LEAST": str(at_least),
        }

    def run(self, *arguments: str) -> Any:
        """Run one command with --json and return what it printed."""
        done = subprocess.run(
            [*self.command, *arguments, "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DemoFailed(f"`lorewright {arguments[0]}` failed: {done.stderr.strip()}")
        return json.loads(done.stdout)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """A daemon that is ready, and is asked to end when the block does."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            daemon = subprocess.Popen(
                [*self.command, "serve"], env=self.environment, stdout=log, stderr=log
            )
        try:
            self._wait_until_ready(daemon)
            yield self.url
        finally:
            daemon.terminate()
            try:
                daemon.wait(timeout=READY_WITHIN_S)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _wait_until_ready(self, daemon: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline and daemon.poll() is None:
            try:
                if httpx2.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx2.TransportError:
                pass  # not listening yet
            time.sleep(POLL_S)
        raise DemoFailed(f"The daemon did not get ready; its log is {self.log}.")


def _scopes(*scopes: str) -> list[str]:
    return [word for scope in scopes for word in ("--scope", scope)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _probes(settings: Settings, facts: list[InventedFact]) -> list[Probe]:
    """The probes that the refresh will make from the same triples."""
    relations = read_relations(settings.suites.relations)
    return [
        probe
        for at, fact in enumerate(facts)
        for probe in probes_of(Fact(key=str(at), **asdict(fact)), relations)
    ]


def _push(client: httpx2.Client, facts: list[InventedFact], seed: int) -> None:
    body = [{"external_id": f"demo-{seed}-{at}", **asdict(fact)} for at, fact in enumerate(facts)]
    answer = client.post("/v1/facts", json=body)
    if answer.status_code != 200:
        raise DemoFailed(f"POST /v1/facts answered {answer.status_code}: {answer.text[:500]}")


def _wait_for_refresh(client: httpx2.Client, lorewright: _Commands, watch: Watch) -> dict[str, Any]:
    """The record of the first refresh, once it has ended."""
    deadline = time.monotonic() + LEARNED_WITHIN_S
    while time.monotonic() < deadline:
        found = client.get("/v1/refreshes").raise_for_status().json()["items"]
        if found:
            refresh: dict[str, Any] = (
                client.get(f"/v1/refreshes/{found[0]['id']}").raise_for_status().json()
            )
            if refresh["outcome"] is None:
                watch(refresh)
            if refresh["outcome"] in VERDICTS:
                return refresh
            if refresh["outcome"] is not None:
                raise DemoFailed(f"The refresh {refresh['outcome']}: {refresh['reason']}")
        time.sleep(POLL_S)
    raise DemoFailed(
        f"No refresh ended within {LEARNED_WITHIN_S} s; the daemon's log is {lorewright.log}."
    )


def _texts(answered: dict[str, Any]) -> list[str]:
    return [answer["head"] for answer in answered["answers"]]


def _asked(probe: Probe, before: str, after: str, rolled_back: str | None) -> Asked:
    return Asked(
        suite=probe.suite,
        question=probe.question,
        expected=probe.answers[0],
        before=before,
        after=after,
        rolled_back=rolled_back,
        known_before=contains(before, probe.answers),
        known_after=contains(after, probe.answers),
        known_rolled_back=None if rolled_back is None else contains(rolled_back, probe.answers),
    )


def _result(
    seed: int,
    facts: list[InventedFact],
    refresh: dict[str, Any],
    asked: tuple[Asked, ...],
    seconds: float,
) -> DemoResult:
    forward = [probe.known_after for probe in asked if probe.suite == Suite.FORWARD]
    backward = [probe.known_after for probe in asked if probe.suite == Suite.BACKWARD]
    was_let_in = refresh["outcome"] in LET_IN
    same = all(probe.before == probe.rolled_back for probe in asked) if was_let_in else None
    failures = []
    if not was_let_in:
        failures.append(f"The gate did not pass: {refresh['outcome']}, {refresh['reason']}.")
    still = sum(bool(probe.known_rolled_back) and not probe.known_before for probe in asked)
    if still:
        failures.append(f"{still} questions are still answered after the rollback.")
    if same is False:
        failures.append("The answers after the rollback are not token for token those of before.")
    return DemoResult(
        seed=seed,
        facts=tuple(facts),
        refresh=refresh,
        asked=asked,
        forward=sum(forward) / len(forward),
        backward=sum(backward) / len(backward),
        known_before=sum(probe.known_before for probe in asked) / len(asked),
        token_for_token=same,
        seconds=round(seconds, 1),
        failures=tuple(failures),
    )
