"""What the daemon writes to stderr: lines to read, or a JSON object each for a log store.

What happens by plan carries `event` and the numbers of what it is about, under names that stay
(docs/running.md has the list). No line has a word of a fact, or of what a client sent.
"""

import logging
import time
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from service.settings import LogForm


def set_up(form: LogForm) -> None:
    """Let all that is logged appear in this form."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    if form is LogForm.JSON:
        formatter = JsonFormatter(
            ["asctime", "levelname", "name", "message"],
            datefmt="%Y-%m-%dT%H:%M:%SZ",
            rename_fields={"asctime": "at", "levelname": "level", "name": "logger"},
        )
        formatter.converter = time.gmtime
        for handler in root.handlers:
            handler.setFormatter(formatter)


def event(name: str, **about: Any) -> dict[str, Any]:
    """`extra` of a log line: what happened, and the numbers of what it is about."""
    return {"event": name, **about}
