"""The long-running process: API and clock. It never loads a model."""

import ipaddress
import logging
from pathlib import Path

import uvicorn

from service.api import create_app
from service.db import check_at_head, make_engine, reading
from service.errors import SettingsError
from service.lineage import read_head
from service.scheduler import Clock
from service.settings import ApiSettings, Settings

log = logging.getLogger(__name__)


def serve(settings: Settings, *, config: Path) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises SettingsError for a public bind that was not allowed, DatabaseNotReady before `init`.
    """
    check_bind(settings.api)
    engine = make_engine(settings.url)
    check_at_head(engine)
    with reading(engine) as session:
        head = read_head(session)
    clock = Clock(settings, engine, config=config)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, engine, clock),
            host=settings.api.host,
            port=settings.api.port,
            limit_concurrency=settings.api.limit_concurrency,
            timeout_graceful_shutdown=settings.api.drain_s,
            server_header=False,
            log_config=None,
        )
    )
    clock.start()
    log.info(
        "serving release %s on http://%s:%s",
        head.release_id,
        settings.api.host,
        settings.api.port,
    )
    try:
        server.run()
    finally:
        clock.stop()
        engine.dispose()


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
