"""Faults on purpose, on the real thing: does everything hold together afterwards?

    python -m benchmarks.faults --json                      # one step of ten, 3 trials under load
    python -m benchmarks.faults --long --runs FILE --json   # all of them; FILE keeps what was done
    python -m benchmarks.faults --plant --only refresh --step publish   # must find this bug
    python -m benchmarks.faults --steps                     # which steps there are

A trial at a step begins with a copy of a state directory (benchmarks/site.py), starts one
`lorewright` command, and lets one fault happen at one of its steps: all that becomes lasting there
is numbered by a run without a fault (benchmarks/faulty.py has the kinds), so that a step which
somebody adds is among them; of those that come often, the first and the last are taken. Then the
same command is given again, as an operator would, until the work is done, and these must hold:
`fsck` finds nothing; the head's weights are those of an undisturbed run, bit for bit; every fact
that was pushed is there once, in a state that it may have; nothing unfinished is left that `gc`
would not remove; nothing printed a traceback or hung. Each of them that does not is a violation.

Faults under load (benchmarks/under_load.py): `daemon` is killed at random, `power` is cut, the disk
is full, the database locked, all its connections gone, the answer to a commit unheard (the last two
on PostgreSQL), or the one of two daemons killed that refreshes. What cannot be tried says why.

`hits` are the trials in which the fault was met. Recovery is from the fault to the end of the work,
which is a whole training where it was lost early, and the start of Python in any case; for a daemon
that is started again it is from its start to the first fact that it acknowledges, for one that goes
on from the fault's end, and of two daemons until the other one refreshes. The bug that is put in
for `power` is a commit that does not wait for the disk (synchronous=NORMAL).
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import select

from benchmarks import under_load
from benchmarks.disk import NoDisk
from benchmarks.faulty import ACTIONS
from benchmarks.measure import add_line, described_machine, read_lines
from benchmarks.site import FACTS, HEAD_STAYS, LEARN, SMALL, Site, Workshop
from benchmarks.trial import arguments
from service import lineage
from service.db import reading
from service.facts import FactState
from service.models import Erasure


@dataclass(frozen=True, slots=True)
class Scenario:
    """A command, what is there before it, and what must be there once it was given again."""

    before: str  #: empty, waiting or promoted
    command: Callable[[Site], Sequence[str]]
    is_done: Callable[[Site], bool]
    states: frozenset[FactState]


#: What a fact of a promoted adapter may be, however few of its questions are answered.
IN_HEAD = frozenset(
    {FactState.LIVE, FactState.UNLEARNED, FactState.QUARANTINED, FactState.UNPROVEN}
)


def written_out(command: str) -> Scenario:
    """A command that changes nothing, and writes a folder which is there whole or not at all."""
    return Scenario(
        before="promoted",
        command=lambda site: (command, "--to", str(site.folder / "out"), "--json"),
        is_done=lambda site: (site.folder / "out").exists(),
        states=IN_HEAD,
    )


def erasures(site: Site) -> list[str]:
    with reading(site.engine) as session:
        rows = session.scalars(select(Erasure.completed_at))
        return ["open" if completed_at is None else "complete" for completed_at in rows]


SCENARIOS = {
    "init": Scenario(
        before="empty",
        command=lambda _: ("init", "--no-measure", "--json"),
        is_done=lambda site: site.head() is not None,
        states=frozenset(),
    ),
    "refresh": Scenario(
        before="waiting",
        command=lambda _: LEARN,
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
        is_done=lambda site: erasures(site) == ["complete"],
        states=IN_HEAD | {FactState.ERASED},
    ),
    "export": written_out("export"),
    "backup": written_out("backup"),
}


#: Under load: how many trials in full.
LONG = {
    "daemon": 200, "power": 40, "full disk": 20, "locked": 20, "two daemons": 20,
    "gone": 40, "unheard": 40,
}  # fmt: skip
ON_POSTGRESQL = ("gone", "unheard")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--long", action="store_true", help="every step, and all trials under load")
    parser.add_argument("--every", type=int, default=10, help="one step of so many, if not --long")
    parser.add_argument("--trials", type=int, default=3, help="under load, if not --long")
    parser.add_argument("--only", action="append", choices=[*SCENARIOS, *LONG])
    parser.add_argument("--step", default="", help="only those with this in their name")
    parser.add_argument("--action", action="append", choices=ACTIONS, help="default: all")
    parser.add_argument("--steps", action="store_true", help="only say which steps there are")
    parser.add_argument("--postgresql", help="the URL of an empty database, for some under load")
    parser.add_argument("--runs", type=Path, help="where each trial is kept; none is made twice")
    parser.add_argument("--plant", action="store_true", help="put a bug in: it must be found")
    parser.set_defaults(config=SMALL)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started ends, too
    trials = read_lines(options.runs) if options.runs else []
    with TemporaryDirectory() as nowhere:
        workshop = Workshop(Path(nowhere), options.config)
        stepwise = Steps(workshop, plant=options.plant)
        chosen = options.only or [*SCENARIOS, *LONG]
        if options.steps:
            for name in (name for name in chosen if name in SCENARIOS):
                steps = stepwise.of(name)
                for at in telling(steps):
                    print(f"{name} {at} of {len(steps)}: {steps[at - 1]}")
            return
        done = {trial["key"] for trial in trials}
        for name in chosen:
            made = (
                at_steps(stepwise, name, options, done)
                if name in SCENARIOS
                else loaded(workshop, name, options, done)
            )
            for trial in made:
                trials.append(trial)
                if options.runs:
                    add_line(options.runs, trial)
                said = "; ".join(trial["violations"]) or "holds"
                took = trial["recovery_s"]
                print(f"{trial['key']}: {said}, {took and round(took, 1)} s", flush=True)
    found = summed_up(trials)
    print(json.dumps({**described_machine(), **found} if options.json else found, indent=None))
    is_clean = not any(fault["violations"] for fault in found.values())
    sys.exit(is_clean if options.plant else not is_clean)


def at_steps(
    stepwise: "Steps", name: str, options: Any, done: set[str]
) -> Iterator[dict[str, Any]]:
    """The trials at the steps of a command that were not made yet."""
    steps = stepwise.of(name)
    chosen = [at for at in telling(steps) if options.step in steps[at - 1]]
    chosen = chosen[:: 1 if options.long else options.every]
    for action in options.action or ACTIONS:
        for at in chosen:
            key = f"{name} {action} {at} of {len(steps)}"
            if key not in done:
                yield {"key": key, **stepwise.trial(name, action, at, steps[at - 1])}


def loaded(workshop: Workshop, name: str, options: Any, done: set[str]) -> Iterator[dict[str, Any]]:
    """The trials of a fault under load; where they cannot be made here, it says why."""
    count = LONG[name] if options.long else options.trials
    url = options.postgresql
    if f"{name} {count} of {count}" in done:
        return
    if name in ON_POSTGRESQL and url is None:
        print(f"{name}: not tried: it needs --postgresql", file=sys.stderr, flush=True)
        return
    try:
        match name:
            case "daemon":
                yield from under_load.killed(workshop, count)
            case "power":
                yield from under_load.cut_off(workshop, count, hasty=options.plant)
            case "full disk":
                yield from under_load.full(workshop, count)
            case "locked":
                yield from under_load.locked(workshop, count)
            case "two daemons":
                yield from under_load.taken_over(workshop, count)
            case "gone":
                yield from under_load.gone(workshop, count, url=url)
            case "unheard":
                yield from under_load.unheard(workshop, count, url=url)
    except NoDisk as error:
        print(f"{name}: not tried: {error}", file=sys.stderr, flush=True)


def telling(steps: Sequence[str]) -> list[int]:
    """The first and the last step of every name: some, such as a training step's, come often."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for at, name in enumerate(steps, start=1):
        first.setdefault(name, at)
        last[name] = at
    return sorted({*first.values(), *last.values()})


class Steps:
    """Commands that meet one fault, each in a copy of its own."""

    def __init__(self, workshop: Workshop, *, plant: bool) -> None:
        self.workshop = workshop
        self.planted = ["--plant"] if plant else []
        self.undisturbed: dict[str, str] = {}  #: the head's weights after each scenario

    def of(self, name: str) -> list[str]:
        """What becomes lasting when the command meets no fault, in order."""
        site, scenario = self.workshop.copy_of(SCENARIOS[name].before), SCENARIOS[name]
        done = site.end_of(site.start_faulty(scenario.command(site), *self.planted))
        if done.returncode not in (0, HEAD_STAYS) or not scenario.is_done(site):
            raise RuntimeError(f"{name} fails without a fault: {done.stderr.decode()}")
        with reading(site.engine) as session:
            self.undisturbed[name] = lineage.read_head(session).snapshot_digest
        steps = site.steps()
        site.remove()
        return steps

    def trial(self, name: str, action: str, at: int, step: str) -> dict[str, Any]:
        """The fault, and then the same command until its work is done."""
        scenario = SCENARIOS[name]
        site = self.workshop.copy_of(scenario.before)
        fault = ("--at", str(at), "--action", action, *self.planted)
        violations = []
        process = site.start_faulty(scenario.command(site), *fault)
        began = time.monotonic()
        try:
            if action == "stop":
                # A pipe that nobody reads would hold what it is: it says little.
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                site.let_off_the_lock(process)
            else:
                site.end_of(process)
            began = time.monotonic()
            site.finish(scenario.command(site), lambda: scenario.is_done(site))
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            violations.append(str(error))
        took = time.monotonic() - began
        if action == "stop":  # it wakes up in a world that went on without it
            process.send_signal(signal.SIGCONT)
            try:
                site.end_of(process)
            except subprocess.TimeoutExpired as error:
                violations.append(str(error))
        is_hit = len(site.steps()) >= at
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
