"""The long-running process: API and clock. It never loads a model."""

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import cast

import uvicorn
from sqlalchemy import Engine

from service.api import create_app
from service.connections import Connection
from service.db import check_at_head, make_engine, reading
from service.errors import SettingsError
from service.fsck import check
from service.lineage import read_head
from service.logs import event
from service.scheduler import Clock
from service.settings import ApiSettings, Settings

CONNECTIONS_A_REQUEST = 4

log = logging.getLogger(__name__)


def serve(settings: Settings, *, config: Path) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises SettingsError for a public bind that was not allowed or an address that is taken,
    DatabaseNotReady before `init`.
    """
    check_bind(settings.api)
    engine = make_engine(settings.url)
    try:
        _serve(settings, engine, config=config)
    finally:
        engine.dispose()


def _serve(settings: Settings, engine: Engine, *, config: Path) -> None:
    check_at_head(engine)
    # two lines for every look at the outbox, and for every look whether the database is at hand
    for talkative in ("apscheduler.executors", "httpx2", "alembic.runtime.migration"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    # It warns of every tick that comes while a refresh is under way, and nothing is missed by that.
    logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
    with reading(engine) as session:
        head = read_head(session)
    for problem in check(settings, engine, fast=True, now=datetime.now(UTC)).problems:
        log.error("fsck: %s", problem, extra=event("fsck_problem"))
    clock = Clock(settings, engine, config=config)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, engine, clock),
            http=cast(
                type[asyncio.Protocol],
                partial(Connection, head_deadline_s=settings.api.head_deadline_s),
            ),
            # Connections, idle ones too; requests are bounded with an answer (service.api.Bounded).
            limit_concurrency=CONNECTIONS_A_REQUEST * settings.api.limit_concurrency,
            timeout_graceful_shutdown=settings.api.drain_s,
            server_header=False,
            access_log=False,  # a line of it has what the client sent; metrics count requests
            log_config=None,
        )
    )
    # The address comes first: a daemon that cannot serve must not start a refresh either.
    with listen(settings.api) as listening, _drained_by_signals(server):
        clock.start()
        log.info(
            "serving release %s on http://%s:%s",
            head.release_id,
            settings.api.host,
            settings.api.port,
            extra=event("serving", release=head.release_id, port=settings.api.port),
        )
        try:
            server.run(sockets=[listening])
        finally:
            clock.stop()


@contextmanager
def _drained_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """SIGTERM and SIGINT end the server, and never the process before its clock has stopped.

    uvicorn handles both while it runs, then raises the one it got once more for whoever handled
    signals before. By default that ends the process on the spot and leaves a refresh behind.
    """

    def drain(_: int, __: FrameType | None) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, drain) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(api: ApiSettings) -> socket.socket:
    """A listening socket on the address of the settings. Raises SettingsError when it is taken."""
    family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
    try:
        listening = socket.create_server((api.host, api.port), family=family)
    except OSError as error:
        raise SettingsError(
            f"Nothing can listen on api.host {api.host}, api.port {api.port}: "
            f"{error.strerror or error}. Is another daemon running?"
        ) from error
    # Connections take it over. asyncio sets it on its own sockets alone, and without it the body of
    # an answer waits some 40 ms for the client's acknowledgement of the head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    return listening


def check_bind(api: ApiSettings) -> None:
    """Raises SettingsError for a host other than loopback without the flag that allows it."""
    try:
        is_loopback = api.host == "localhost" or ipaddress.ip_address(api.host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback and not api.allow_public_bind:
        raise SettingsError(
            f"api.host is {api.host}, which others can reach, and this server speaks no TLS. "
            "Put a reverse proxy in front, or set api.allow_public_bind: true."
        )
