"""Facts over HTTP: stored together against each by itself, and a stream beside the raw driver.

    pip install -c constraints.txt -e '.[bench]'
    python -m benchmarks.ingest --json
    python -m benchmarks.ingest --postgresql postgresql+psycopg://me@/an_empty_database --json
    python -m benchmarks.ingest --rounds 1 --stream 1000000     # is its memory flat?

The service is a real one, `serve` in a process of its own on the small LLaDA of the tests, and its
clock starts nothing. `group_commit_ratio`: clients in this process send a fact a request for some
seconds; how many a second are stored, beside the same service with one request a transaction.
`bulk_ratio_to_raw`: a stream through `/v1/facts/bulk`, beside the driver's own `executemany` of the
same rows into the same table, as many in a transaction. Both are of medians, of rounds that take
turns. `p99_ms` is of the single requests that are stored together. What PostgreSQL answers is as
durable as its `fsync` and `synchronous_commit` say; they should be on. Single facts are sent with
aiohttp, which takes a fraction of the processor's time that the service takes to answer.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import httpx2
import psutil
from sqlalchemy import JSON

from benchmarks.measure import described_machine, spread
from benchmarks.trial import arguments
from service import auth
from service.auth import Scope
from service.db import make_engine, writing
from service.group_commit import ITEMS_A_TRANSACTION
from service.initialise import initialise
from service.models import FactRow
from service.settings import Settings, load_settings

SMALL = Path("tests/bases/small-llada/settings.yaml")
READY_WITHIN_S = 60.0
NEVER = 10**9  #: facts that the clock would wait for
TOGETHER = "from service.cli import main; main()"
START = {
    "together": TOGETHER,
    "apart": f"from service import group_commit; group_commit.ITEMS_A_TRANSACTION = 1; {TOGETHER}",
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0, help="of single facts, each time")
    parser.add_argument("--stream", type=int, default=20_000, help="facts in a stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgresql", help="the URL of an empty database, measured, too")
    parser.set_defaults(config=SMALL)
    options = parser.parse_args()
    found = {}
    for name, url in (("sqlite", None), ("postgresql", options.postgresql)):
        if name == "sqlite" or url:
            with TemporaryDirectory() as folder:
                found[name] = measured(Service(Path(folder), options.config, url), options)
            if not options.json:
                print(name, json.dumps(found[name]), flush=True)
    if options.json:
        print(json.dumps({**described_machine(), "clients": options.clients, **found}))


class Service:
    """A state directory, a key, and the service that is started over it."""

    def __init__(
        self,
        state: Path,
        config: Path,
        url: str | None,
        *,
        scopes: Sequence[Scope] = (Scope.INGEST,),
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        described = {
            "STATE_DIR": str(state),
            "API__PORT": str(self.port),
            "SCHEDULE__AT_LEAST": str(NEVER),
            **({"DATABASE_URL": url} if url else {}),
        }
        os.environ |= {f"LOREWRIGHT_{name}": value for name, value in described.items()}
        self.config = config
        self.log = state / "serve.log"
        self.settings: Settings = load_settings(config)
        initialise(self.settings)
        self.engine = make_engine(self.settings.url)
        with writing(self.engine) as session:
            key = auth.create_key(
                session,
                source="bench",
                scopes=scopes,
                pepper=auth.read_pepper(self.settings.state_dir),
                by="bench",
                now=datetime.now(UTC),
            )
        self.headers = {"Authorization": f"Bearer {key}"}

    @contextmanager
    def running(self, how: str) -> Iterator[psutil.Process]:
        """The daemon's process; `how` is together or apart."""
        command = [sys.executable, "-c", START[how], "--config", str(self.config), "serve"]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until = time.monotonic() + READY_WITHIN_S
            while not self.is_ready():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError("the service did not start")
                time.sleep(0.1)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait()

    def is_ready(self) -> bool:
        try:
            return httpx2.get(f"{self.address}/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Singles:
    """What single requests came to."""

    a_second: float
    p99_ms: float


def measured(service: Service, options: Any) -> dict[str, Any]:
    together, apart, streams, raws = [], [], [], []
    memory: list[int] = []
    for nth in range(options.rounds):
        for how, kept in (("together", together), ("apart", apart)):
            with service.running(how):
                name = f"{how} {nth}"
                kept.append(asyncio.run(singles(service, name, options.clients, options.seconds)))
        with service.running("together") as process:
            streams.append(
                asyncio.run(stream(service, f"stream {nth}", options.stream, process, memory))
            )
        raws.append(raw(service, f"raw {nth}", options.stream))
    each = {
        "singles_a_second": [one.a_second for one in together],
        "singles_a_second_apart": [one.a_second for one in apart],
        "bulk_a_second": streams,
        "raw_a_second": raws,
    }
    by_name = {name: median(values) for name, values in each.items()}
    return {
        "group_commit_ratio": by_name["singles_a_second"] / by_name["singles_a_second_apart"],
        "bulk_ratio_to_raw": by_name["bulk_a_second"] / by_name["raw_a_second"],
        "p99_ms": median(one.p99_ms for one in together),
        "rss_mib_along_the_last_stream": [value >> 20 for value in memory],
        **{name: spread(values) for name, values in each.items()},
    }


async def singles(service: Service, name: str, clients: int, seconds: float) -> Singles:
    """Every client sends a fact, waits for the answer, and sends the next."""
    waited: list[float] = []

    async def send(http: aiohttp.ClientSession, client: int) -> None:
        nth = 0
        while (began := time.perf_counter()) < until:
            body = fact(f"{name} {client} {nth}")
            async with http.post("/v1/facts", json=body) as answer:
                assert (await answer.json())["stored"] == 1
            waited.append(time.perf_counter() - began)
            nth += 1

    async with aiohttp.ClientSession(service.address, headers=service.headers) as http:
        began = time.perf_counter()
        until = began + seconds
        await asyncio.gather(*(send(http, client) for client in range(clients)))
        took = time.perf_counter() - began
    return Singles(len(waited) / took, 1000 * quantiles(waited, n=100)[-1])


async def stream(
    service: Service, name: str, count: int, process: psutil.Process, memory: list[int]
) -> float:
    """Facts a second of one stream; the service's memory at ten points of it, in bytes."""
    lines = [json.dumps(fact(f"{name} {nth}")).encode() + b"\n" for nth in range(count)]
    memory.clear()

    async def body() -> AsyncIterator[bytes]:
        for at in range(0, count, 100):
            if at % max(100, count // 10 // 100 * 100) == 0:
                memory.append(process.memory_info().rss)
            yield b"".join(lines[at : at + 100])

    began = time.perf_counter()
    headers = {**service.headers, "Content-Type": "application/x-ndjson"}
    async with httpx2.AsyncClient(base_url=service.address, headers=headers, timeout=600) as http:
        answer = await http.post("/v1/facts/bulk", content=body())
    assert answer.json()["stored"] == count, answer.text
    memory.append(process.memory_info().rss)
    return count / (time.perf_counter() - began)


def raw(service: Service, name: str, count: int) -> float:
    """Facts a second by the driver alone: the rows of the last stream, under other keys."""
    columns = [column for column in FactRow.__table__.columns if column.name != "id"]
    names = ", ".join(f'"{column.name}"' for column in columns)
    as_sent = ", ".join(
        f'CAST("{column.name}" AS TEXT)' if isinstance(column.type, JSON) else f'"{column.name}"'
        for column in columns
    )
    is_sqlite = service.engine.dialect.paramstyle == "qmark"
    marks = ", ".join(["?" if is_sqlite else "%s"] * len(columns))
    statement = f"INSERT INTO facts ({names}) VALUES ({marks})"
    key = [column.name for column in columns].index("external_id")
    with service.engine.execution_options(reading=True).connect() as connection:
        newest = f"SELECT {as_sent} FROM facts ORDER BY id DESC LIMIT {count}"
        rows = [
            (*row[:key], f"{name} {at}", *row[key + 1 :])
            for at, row in enumerate(connection.exec_driver_sql(newest))
        ]
    connection = service.engine.raw_connection()
    try:
        cursor = connection.cursor()
        began = time.perf_counter()
        for at in range(0, count, ITEMS_A_TRANSACTION):
            if is_sqlite:
                cursor.execute("BEGIN IMMEDIATE")
            cursor.executemany(statement, rows[at : at + ITEMS_A_TRANSACTION])
            connection.commit()
        return count / (time.perf_counter() - began)
    finally:
        connection.close()


def fact(key: str) -> dict[str, Any]:
    return {
        "external_id": key,
        "statement": f"Orlan Vess, who is on record as {key}, is the mayor of Tolmar.",
        "subject": "Orlan Vess",
        "relation": "holds_office",
        "object": "the mayor of Tolmar",
        "provenance": {"publisher": "The Tolmar Herald"},
        "tags": ["office"],
    }


if __name__ == "__main__":
    main()
