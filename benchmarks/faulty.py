"""`lorewright` that meets one fault at one step: what `benchmarks.faults` starts.

    python -m benchmarks.faulty --steps FILE [--at 7 --action kill] [--plant] -- refresh --json

A step is a call by which something becomes lasting, on the main thread: a commit, an fsync, a
rename, a link, or a removal. All are numbered and written to FILE as they come, so a run without
`--at` says which there are. At the step of that number the process kills itself with SIGKILL just
before the call (`kill`) or just after it (`kill-after`), or stops itself after it (`stop`), until
somebody lets it go on; or the call fails with an input/output error (`error`); or the clock jumps a
day ahead (`ahead`) or back (`back`), and stays there; or the process gets no more memory from then
on (`memory`).
"""

import argparse
import errno
import os
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import time_machine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import OperationalError

ROOT = f"{Path(__file__).parents[1]}/"
OURS = (f"{ROOT}service/", f"{ROOT}adapters/")
PLUMBING = ("service/db.py", "adapters/store.py")
ACTIONS = ("kill", "kill-after", "stop", "error", "ahead", "back", "memory")
JUMPS = {"ahead": timedelta(days=1), "back": timedelta(days=-1)}
CALLS = ("fsync", "rename", "replace", "link", "symlink", "unlink", "rmdir")


class Steps:
    """Counts the steps, and lets the fault happen at one of them."""

    def __init__(self, path: str, at: int, action: str) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.at, self.action = at, action
        self.count = 0

    def take(self, name: str, call: Callable[[], Any], error: Callable[[], Exception]) -> Any:
        if threading.current_thread() is not threading.main_thread():
            return call()
        self.count += 1
        os.write(self.file, f"{self.count} {name} by {_callers()}\n".encode())
        if self.count != self.at:
            return call()
        if self.action == "error":
            raise error()
        if self.action in JUMPS:
            moment = datetime.now(UTC) + JUMPS[self.action]
            time_machine.travel(moment, tick=True).start()
            return call()
        if self.action == "memory":
            now = psutil.Process().memory_info().vms
            resource.setrlimit(resource.RLIMIT_AS, (now, now))
            return call()
        done = call() if self.action != "kill" else None
        os.kill(os.getpid(), signal.SIGSTOP if self.action == "stop" else signal.SIGKILL)
        return done


def watch(steps: Steps) -> None:
    """Stand between this process and what makes its work lasting."""
    for name in CALLS:
        setattr(os, name, _watched(steps, name, getattr(os, name)))
    commit = DefaultDialect.do_commit

    def do_commit(dialect: Any, connection: Any) -> None:
        broken = OSError(errno.EIO, os.strerror(errno.EIO))
        steps.take(
            "commit",
            lambda: commit(dialect, connection),
            lambda: OperationalError("COMMIT", {}, broken),
        )

    DefaultDialect.do_commit = do_commit  # type: ignore[method-assign]


def _watched(steps: Steps, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **how: Any) -> Any:
        what = arguments[1] if name in ("rename", "replace", "link", "symlink") else arguments[0]
        shown = "" if isinstance(what, int) else f" {_place(os.fspath(what))}"
        return steps.take(
            f"{name}{shown}",
            lambda: real(*arguments, **how),
            lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
        )

    return call


def _callers() -> str:
    """The two functions of ours that it is for; that they write or commit is known."""
    names: list[str] = []
    frame: FrameType | None = sys._getframe(2)
    while frame and len(names) < 2:
        path = frame.f_code.co_filename
        if path.startswith(OURS) and not path.endswith(PLUMBING):
            module = path.removeprefix(ROOT).removesuffix(".py")
            names.append(f"{module}:{frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(names)


def _place(path: str) -> str:
    """A path's last two parts without what differs from run to run."""
    parts = "/".join(str(path).split("/")[-2:])
    return re.sub(r"[0-9a-f]{8,}|\d+|_\w{8}\b", "*", parts)


def plant() -> None:
    """A bug to be found: the head moves in one transaction, its facts' outcomes in another."""
    from service import lineage

    real = lineage.move_head

    def move_and_commit(session: Any, *arguments: Any, **how: Any) -> int:
        moved = real(session, *arguments, **how)
        connection = session.connection()
        connection.dialect.do_commit(connection.connection)
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return moved

    lineage.move_head = move_and_commit


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", required=True)
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--action", choices=ACTIONS, default="kill")
    parser.add_argument("--plant", action="store_true")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    from service.cli import main as lorewright

    watch(Steps(options.steps, options.at, options.action))
    if options.plant:
        plant()
    sys.argv = ["lorewright", *options.command]
    lorewright()


if __name__ == "__main__":
    main()
