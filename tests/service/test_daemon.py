"""The daemon as an operator starts it: a process, a port, signals, and no model inside."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import IO

import httpx2
import pytest
from sqlalchemy import Engine

from service.auth import Scope
from service.daemon import check_bind, listen
from service.errors import SettingsError
from service.settings import ApiSettings

WITHIN_S = 30.0
HEAVY = ("torch", "transformers", "peft", "safetensors")
#: The same entry point as the console script; what the clock starts as a refresh is given.
ENTRY = "import sys; sys.executable = {child!r}; from service.cli import main; main()"
#: It ends when its daemon is gone, so that a test that fails leaves no process behind.
REFRESH = """#!/bin/sh
trap 'echo ended >> "{record}"; exit 0' TERM
echo started >> "{record}"
while kill -0 $PPID 2>/dev/null; do sleep 0.05; done
"""


@dataclass
class Daemon:
    """A daemon of its own state directory; every `start` is a new process."""

    config: Path
    key: str
    folder: Path
    port: int
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    @property
    def record(self) -> Path:
        return self.folder / "record"

    def launch(self, **settings: str) -> "subprocess.Popen[bytes]":
        child = self.folder / "refresh"
        child.write_text(REFRESH.format(record=self.record))
        child.chmod(0o755)
        output: IO[bytes]
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", ENTRY.format(child=str(child))),
                    *("--config", str(self.config), "serve"),
                ],
                env={**os.environ, "LOREWRIGHT_API__PORT": str(self.port), **settings},
                stdout=output,
                stderr=output,
            )
        self.processes.append(process)
        return process

    def start(self, **settings: str) -> "subprocess.Popen[bytes]":
        process = self.launch(**settings)
        with self.client() as client:
            self.wait_until(lambda: is_ready(client), process)
        return process

    def client(self) -> httpx2.Client:
        return httpx2.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=WITHIN_S,
        )

    def wait_until(
        self, is_so: Callable[[], bool], process: "subprocess.Popen[bytes] | None" = None
    ) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not is_so():
            assert time.monotonic() < deadline, self.log.read_text()
            assert process is None or process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def recorded(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []


def is_ready(client: httpx2.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.fixture
def daemon(
    config: Path, engine: Engine, make_key: Callable[..., str], tmp_path: Path
) -> Iterator[Daemon]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    daemon = Daemon(config=config, key=make_key(*Scope), folder=tmp_path, port=port)
    yield daemon
    for process in daemon.processes:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_every_line_of_the_log_is_one_json_object_where_that_is_set(daemon: Daemon) -> None:
    process = daemon.start(LOREWRIGHT_LOG="json")
    secret = "a statement that nobody may find in a log"
    with daemon.client() as client:
        for at in range(2):
            body = {"statement": secret, "external_id": str(at)}
            assert client.post("/v1/facts", json=body).status_code == 200
        assert client.post("/v1/refreshes").status_code == 202
        daemon.wait_until(lambda: daemon.recorded() == ["started"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=WITHIN_S) == 0
    text = daemon.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert {"at", "level", "logger", "message"} <= line.keys()
        assert line["at"].endswith("Z")
    events = [line for line in lines if "event" in line]
    assert [line["event"] for line in events if line["event"] != "fsck_problem"] == [
        "serving", "refresh_begun", "refresh_ended",
    ]  # fmt: skip
    serving = next(line for line in events if line["event"] == "serving")
    assert (serving["release"], serving["port"]) == (1, daemon.port)
    assert secret not in text
    assert daemon.key not in text


def test_a_model_is_never_loaded_into_the_daemon(daemon: Daemon) -> None:
    """Every endpoint is called first, so that nothing is imported late."""
    process = daemon.start()
    with daemon.client() as client:
        assert client.post("/v1/facts", json={"statement": "One."}).status_code == 200
        assert client.post("/v1/refreshes").status_code == 202
        for kind in ("facts", "refreshes", "adapters", "releases", "head", "facts/1"):
            assert client.get(f"/v1/{kind}").status_code == 200
        assert client.get("/openapi.json").status_code == 200
    maps = Path(f"/proc/{process.pid}/maps")
    if not maps.exists():
        pytest.skip("This system does not show what a process has mapped (no /proc).")
    mapped = maps.read_text()
    assert "sqlite" in mapped  # the list shows libraries at all
    assert not [name for name in HEAVY if f"/{name}/" in mapped]


def test_what_the_daemon_imports_has_no_model_in_it() -> None:
    code = (
        "import sys, service.cli, service.daemon, service.api, service.scheduler, service.tables;"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sigterm_ends_the_running_refresh_and_then_the_daemon(
    daemon: Daemon, store: Callable[..., list[int]]
) -> None:
    store("One.", "Two.")
    process = daemon.start()
    daemon.wait_until(lambda: daemon.recorded() == ["started"])
    process.terminate()
    assert process.wait(timeout=WITHIN_S) == 0, daemon.log.read_text()
    assert daemon.recorded() == ["started", "ended"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_that_is_asked_to_end_says_so_with_success(
    daemon: Daemon, number: signal.Signals
) -> None:
    process = daemon.start()
    process.send_signal(number)
    assert process.wait(timeout=WITHIN_S) == 0, daemon.log.read_text()


def test_a_half_sent_request_does_not_hold_the_daemon_up(daemon: Daemon) -> None:
    process = daemon.start(LOREWRIGHT_API__DRAIN_S="1")
    head = f"POST /v1/facts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {daemon.key}\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port)) as half_sent:
        half_sent.sendall(head.encode() + b"Content-Type: application/json\r\n")
        half_sent.sendall(b"Content-Length: 100\r\n\r\n[{")
        process.terminate()
        assert process.wait(timeout=WITHIN_S) == 0, daemon.log.read_text()


def test_a_body_that_never_arrives_is_given_up(daemon: Daemon) -> None:
    daemon.start(LOREWRIGHT_API__BODY_DEADLINE_S="0.3")
    head = f"POST /v1/facts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {daemon.key}\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=WITHIN_S) as slow:
        slow.sendall(head.encode() + b"Content-Type: application/json\r\n")
        slow.sendall(b"Content-Length: 100\r\n\r\n[{")
        assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_goes_before_its_body_has_come_is_no_error_of_ours(daemon: Daemon) -> None:
    process = daemon.start()
    head = f"POST /v1/facts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {daemon.key}\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=WITHIN_S) as gone:
        gone.sendall(head.encode() + b"Content-Type: application/json\r\n")
        gone.sendall(b"Content-Length: 100\r\n\r\n[{")
        time.sleep(0.2)
    counted = 'lorewright_http_requests_total{method="POST",route="/v1/facts",status="408"} 1.0'
    with daemon.client() as client:
        daemon.wait_until(lambda: counted in client.get("/metrics").text, process)
        assert "lorewright_server_errors_total 0.0" in client.get("/metrics").text
    assert "Traceback" not in daemon.log.read_text()


def test_a_head_that_never_ends_is_given_up(daemon: Daemon) -> None:
    daemon.start(LOREWRIGHT_API__HEAD_DEADLINE_S="0.5")
    with (
        socket.create_connection(("127.0.0.1", daemon.port), timeout=WITHIN_S) as silent,
        socket.create_connection(("127.0.0.1", daemon.port), timeout=WITHIN_S) as slow,
    ):
        slow.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-More: ")
        assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert slow.recv(4096) == b""
        assert silent.recv(4096) == b""


def test_neither_a_slow_answer_nor_a_pause_between_requests_is_cut_off(daemon: Daemon) -> None:
    daemon.start(LOREWRIGHT_API__HEAD_DEADLINE_S="0.5")
    body = b'{"statement": "One."}'
    with closing(HTTPConnection("127.0.0.1", daemon.port, timeout=WITHIN_S)) as client:
        client.connect()
        own_port = client.sock.getsockname()
        for _ in range(2):
            client.putrequest("POST", "/v1/facts")
            client.putheader("Authorization", f"Bearer {daemon.key}")
            client.putheader("Content-Type", "application/json")
            client.putheader("Content-Length", str(len(body)))
            client.endheaders()
            time.sleep(1)  # the head has come, and the body has more time
            client.send(body)
            answer = client.getresponse()
            answer.read()
            assert answer.status == 200
            time.sleep(1)
        assert client.sock.getsockname() == own_port  # it was one connection all along


@pytest.mark.parametrize("line", [b"X-More: " + b"x" * 1000 + b"\r\n", b"x" * 1000])
def test_a_head_without_end_is_refused(daemon: Daemon, line: bytes) -> None:
    daemon.start()
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=WITHIN_S) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-First: ")
        sent = 0
        with suppress(ConnectionError):  # what was not read is refused with a reset
            while sent < 1 << 24:
                sent += client.send(line)
        assert sent < 1 << 24
    with daemon.client() as other:
        assert other.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("request_", "further"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n"),
        (b"POST /v1/facts HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n", b"x"),
    ],
)
def test_an_answered_request_is_no_way_to_hold_a_connection(
    daemon: Daemon, request_: bytes, further: bytes
) -> None:
    daemon.start(LOREWRIGHT_API__HEAD_DEADLINE_S="0.5")
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=WITHIN_S) as client:
        client.sendall(request_)
        assert client.recv(4096).startswith(b"HTTP/1.1 ")
        client.sendall(further)
        with suppress(ConnectionResetError):
            while client.recv(4096):  # the rest of the answer, and then the end
                pass


def test_what_follows_a_body_has_an_end_and_the_frames_of_a_long_one_do_not_count(
    daemon: Daemon,
) -> None:
    daemon.start()
    head = f"POST /v1/facts/bulk HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {daemon.key}\r\n"
    head += "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=WITHIN_S) as client:
        client.sendall(head.encode())
        blank = b"1e\r\n" + b" " * 29 + b"\n\r\n"  # 7 of 37 bytes are no body
        for _ in range(40):
            client.sendall(blank * 500)
        sent = 0
        with suppress(ConnectionError):
            client.sendall(b"0\r\n")
            while sent < 1 << 24:
                sent += client.send(b"X-More: " + b"x" * 1000 + b"\r\n")
        assert sent < 1 << 24
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=WITHIN_S) as client:
        client.sendall(head.encode() + blank * 20_000 + b"0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_large_request_with_the_next_ones_head_in_its_tail_is_answered(daemon: Daemon) -> None:
    daemon.start()
    body = b'{"statement": "One."}' + b" " * 200_000
    head = f"POST /v1/facts HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {daemon.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=WITHIN_S) as client:
        client.sendall(head.encode() + body + b"GET /livez HTTP/1.1\r\nHo")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_an_answered_fact_survives_a_kill(daemon: Daemon) -> None:
    process = daemon.start()
    with daemon.client() as client:
        answer = client.post("/v1/facts", json={"external_id": "a", "statement": "One."})
        assert answer.json()["stored"] == 1
        process.kill()
    process.wait()
    daemon.start()
    with daemon.client() as client:
        again = client.post("/v1/facts", json={"external_id": "a", "statement": "One."})
        assert again.json()["duplicates"] == 1


def test_neither_keys_nor_facts_are_logged(daemon: Daemon) -> None:
    process = daemon.start()
    with daemon.client() as client:
        client.post("/v1/facts", json={"statement": "Hush, hush."})
        client.post("/v1/facts", json={"statement": "Hush\x00"})
        client.get("/v1/facts", headers={"Authorization": f"Bearer {daemon.key}0"})
        client.get("/v1/facts", params={"source": "Hush", "key": daemon.key})
    process.terminate()
    process.wait(timeout=WITHIN_S)
    log = daemon.log.read_text()
    assert "serving release" in log
    assert "hush" not in log.lower()
    assert daemon.key.split("_")[2] not in log


def test_a_taken_port_is_one_sentence_and_starts_no_refresh(
    daemon: Daemon, store: Callable[..., list[int]]
) -> None:
    store("One.", "Two.")
    with socket.create_server(("127.0.0.1", daemon.port)):
        process = daemon.launch()
        assert process.wait(timeout=WITHIN_S) == 2
    assert f"api.port {daemon.port}" in daemon.log.read_text()
    assert "Traceback" not in daemon.log.read_text()
    assert daemon.recorded() == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_leave(host: str) -> None:
    check_bind(ApiSettings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", ""])
def test_a_public_bind_must_be_asked_for(host: str) -> None:
    with pytest.raises(SettingsError, match="allow_public_bind"):
        check_bind(ApiSettings(host=host))
    check_bind(ApiSettings(host=host, allow_public_bind=True))


def test_an_answer_does_not_wait_until_its_first_packet_was_acknowledged() -> None:
    """Head and body are sent one after the other: some 40 ms of every request, without this."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with listen(ApiSettings(port=port)) as listening, socket.create_connection(("127.0.0.1", port)):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
