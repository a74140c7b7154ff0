"""What `/openapi.json` promises: requests made from it, good and bad, are answered as it says.

The requests are Schemathesis's, sent to a server on a real socket, with all of its checks.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from sqlalchemy import Engine

from service.api import create_app
from service.auth import Scope
from service.settings import Settings

EACH = 20  #: requests made at random for an operation, beside those that its limits give
START = """
import schemathesis
from schemathesis.cli import schemathesis as run

@schemathesis.serializer("application/x-ndjson")
def lines(context, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")

run()
"""
#: Too long a list is too large. A description cannot say that two fields do not go together, or
#: that a question must not contain its answer.
EXPECTED = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422]
"""
SAY_MORE = ("POST /v1/facts", "POST /v1/rollbacks", "POST /v1/erasures", "GET /v1/held")
EXPECTED += "".join(
    f"""
[[operations]]
include-name = "{name}"
checks.positive_data_acceptance.expected-statuses = ["2xx", 403, 404, 409, 422]
"""
    for name in SAY_MORE
)


@pytest.fixture
def address(engine: Engine, settings: Settings, still_clock: Any) -> Iterator[str]:
    """Where the API answers."""
    app = create_app(settings, engine, still_clock)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_every_request_is_answered_as_described(
    address: str,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    make_key: Callable[..., str],
    tmp_path: Path,
) -> None:
    store("Orlan Vess is the mayor of Tolmar.", {"statement": "Two.", "trust": "low"})
    promote()
    (tmp_path / "schemathesis.toml").write_text(EXPECTED)
    command = [
        *(sys.executable, "-c", START, "--config-file", str(tmp_path / "schemathesis.toml")),
        *(
            "run",
            f"{address}/openapi.json",
            "--header",
            f"Authorization: Bearer {make_key(*Scope)}",
        ),
        *("--checks", "all", "--max-examples", str(EACH), "--seed", "1", "--no-color"),
        "--continue-on-failure",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_path_says_all_that_it_can_be_asked_with(address: str) -> None:
    said = {
        "/v1/facts": "GET, POST",
        "/v1/facts/bulk": "POST",
        "/v1/facts/1": "GET",
        "/v1/facts/1/approval": "POST",
        "/openapi.json": "GET, HEAD",
    }
    for path, methods in said.items():
        answer = httpx2.delete(address + path)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)
    assert httpx2.get(f"{address}/v1/facts/bulk").headers["allow"] == "POST"
