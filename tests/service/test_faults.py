"""The short form of the benchmarks that look for what must never be found: CI runs it, too."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PUBLISH = "commit by service/record:guarded < service/refresh:_publish"


def run(*command: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and the object that the benchmark ends with."""
    done = subprocess.run(
        [sys.executable, "-m", *command, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_hostile_requests_break_nothing_and_are_never_repeated() -> None:
    code, found = run("benchmarks.hostile")
    assert found["cases"] > 60
    assert found["requests"] > 60 * 20
    faults = ("answers_5xx", "tracebacks", "echoes", "keys_in_log", "let_in", "unanswered")
    assert {name: found[name] for name in faults} == dict.fromkeys(faults, 0)
    assert (code, found["fsck_problems"]) == (0, 0)


@pytest.mark.slow
def test_a_refresh_killed_after_its_publication_publishes_once_and_a_planted_bug_is_found() -> None:
    chosen = ("--only", "refresh", "--step", PUBLISH, "--every", "1")
    code, found = run("benchmarks.faults", *chosen, "--action", "kill-after")
    assert code == 0, found
    fault = found["refresh kill-after"]
    assert (fault["trials"], fault["hits"], fault["violations"]) == (1, 1, 0)

    code, found = run("benchmarks.faults", *chosen, "--action", "kill", "--plant")
    assert code == 0, "the head moved, its facts' outcomes did not, and the harness saw nothing"
    assert found["refresh kill"]["violations"] == 1


@pytest.mark.slow
def test_a_power_cut_loses_nothing_that_was_acknowledged() -> None:
    code, found = run("benchmarks.faults", "--only", "power", "--trials", "1")
    assert code == 0, found
    if "power" not in found:
        pytest.skip("a disk whose power can be cut needs root, loop devices and mkfs.ext4")
    assert (found["power"]["trials"], found["power"]["violations"]) == (1, 0)

    code, found = run("benchmarks.faults", "--only", "power", "--trials", "1", "--plant")
    assert code == 0, "it acknowledged what had not reached the disk, and the harness saw nothing"


@pytest.mark.slow
def test_a_daemon_killed_at_random_loses_nothing_that_it_acknowledged() -> None:
    code, found = run("benchmarks.faults", "--only", "daemon", "--trials", "2")
    assert code == 0, found
    assert (found["daemon"]["trials"], found["daemon"]["violations"]) == (2, 0)
    assert found["daemon"]["hits"] > 0
