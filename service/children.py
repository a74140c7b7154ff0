"""Commands of ours as child processes of the daemon, which never loads a model itself."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    output: bytes  #: what it printed, where that was asked for; else it is in the log, too


class Child:
    """At most one command at a time."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()
        self.is_stopping = False

    def run(
        self,
        *arguments: str,
        log_file: BinaryIO,
        captured: bool = False,
        hangs: Callable[[int], bool] | None = None,
        look_every_s: float | None = None,
    ) -> Ended | None:
        """Run `lorewright ARGUMENTS` to its end; None where nothing may be started any more.

        What it says goes into the log file, or with `captured` only what it says on stderr. Every
        `look_every_s` seconds, `hangs` is asked about the process of that id: True kills it.
        """
        with self.lock:
            if self.is_stopping:
                return None
            process = self.process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "--config", str(self.config), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if captured else log_file,
                stderr=log_file,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        output = None
        while process.returncode is None:
            try:
                output, _ = process.communicate(timeout=look_every_s if hangs else None)
            except subprocess.TimeoutExpired:
                if hangs is not None and hangs(process.pid):
                    log.error("process %s hangs and is killed", process.pid)
                    process.kill()
        self.process = None
        return Ended(code=process.returncode, output=output or b"")

    def ask_to_end(self) -> None:
        """Start nothing more, and ask what runs to end."""
        with self.lock:
            self.is_stopping = True
            if self.process is not None and self.process.poll() is None:
                self.process.terminate()

    def see_it_end(self, until: float) -> None:
        """Wait for what runs, and end it if it does not by then, a monotonic time."""
        process = self.process
        if process is not None:
            try:
                process.wait(timeout=max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("process %s did not end within its time and is killed", process.pid)
                process.kill()
