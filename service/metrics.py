"""What Prometheus is told (`GET /metrics`).

All but the requests is read from the database and the disk when it is asked for: refreshes run in
processes of their own, and several daemons must tell the same.
"""

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, Engine, case, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import batches, facts, leases, lineage, webhooks
from service.audit import Act
from service.db import reading
from service.models import (
    AuditEntry,
    Erasure,
    FactRow,
    HeadAction,
    HeadMove,
    Membership,
    MembershipOutcome,
    Operation,
    Refresh,
    RefreshOutcome,
    Release,
)
from service.places import Places
from service.settings import Settings

METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})  #: a client may send any word as one
#: Seconds of a request, from its head to the last byte of its answer.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One daemon's registry."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route")
        self.requests = Counter(
            "lorewright_http_requests",
            "Requests by route and status.",
            (*labels, "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "lorewright_http_request_seconds",
            "How long requests took, by route.",
            labels,
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.failed = Counter(  # without labels: it is there, at 0, before the first of them
            "lorewright_server_errors",
            "Requests that were answered with an error that nobody foresaw (500).",
            registry=self.registry,
        )
        self.registry.register(_State(settings, engine))

    def text(self) -> bytes:
        """In Prometheus' text format. Raises what the database raises."""
        return generate_latest(self.registry)


class Counted:
    """Counts and times every request, by its route and never by what a client put into the path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = [500]

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path_format", "none")
            if status[0] == HTTPStatus.INTERNAL_SERVER_ERROR:
                self.metrics.failed.inc()
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(method, route, str(status[0])).inc()
            self.metrics.seconds.labels(method, route).observe(time.perf_counter() - began)


class _State(Collector):
    """The database and the disk, as they are when it is asked for."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine

    def describe(self) -> list[Metric]:
        return []  # so that registering it asks for nothing

    def collect(self) -> Iterator[Metric]:
        now = datetime.now(UTC)
        with reading(self.engine) as session:
            yield from _facts(session, now)
            yield from _refreshes(session, now)
            yield from _head(session, now)
            yield from _waiting(session, self.settings, now)
            yield from _backups(session, now)
        yield from _disk(self.settings, self.engine)
        yield _labelled(
            "build_info", "1, of the version that runs.", "version", {version("lorewright"): 1.0}
        )


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"lorewright_{name}", about, value=value)


def _labelled(name: str, about: str, label: str, values: dict[str, float]) -> Metric:
    gauge = GaugeMetricFamily(f"lorewright_{name}", about, labels=[label])
    for key, value in sorted(values.items()):
        gauge.add_metric([key], value)
    return gauge


def _counted(
    session: Session, column: InstrumentedAttribute[Any], known: Iterable[str]
) -> dict[str, float]:
    """How many rows have each value. What is `known` and has none is 0: a series must be there
    before it rises, or nobody sees it rise for the first time.
    """
    counts = dict.fromkeys(map(str, known), 0.0)
    rows = session.execute(select(column, func.count()).group_by(column))
    return counts | {str(key or "in_work"): float(count) for key, count in rows}


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())


def _since() -> ColumnElement[datetime]:
    """SQL for: since when a fact may be trained."""
    begun = case(
        (FactRow.valid_from > FactRow.recorded_at, FactRow.valid_from), else_=FactRow.recorded_at
    )
    return case((FactRow.approved_at > begun, FactRow.approved_at), else_=begun)


def _facts(session: Session, now: datetime) -> Iterator[Metric]:
    stored = session.scalar(select(func.count()).select_from(FactRow)) or 0
    oldest = session.scalar(select(func.min(_since())).where(facts.is_pending(now)))
    yield _gauge("facts_stored", "Facts that were ever stored.", stored)
    yield _gauge("facts_pending", "Facts in no batch yet.", batches.count_pending(session, now=now))
    yield _gauge(
        "facts_held", "Facts that wait for an admin.", batches.count_held(session, now=now)
    )
    yield _gauge(
        "facts_oldest_pending_seconds",
        "For how long the oldest fact in no batch yet could be learned; 0 where there is none.",
        _age(oldest, now),
    )
    outcomes = _counted(session, Membership.outcome, MembershipOutcome)
    yield _labelled("memberships", "Facts in batches, by what came of it.", "outcome", outcomes)


def _refreshes(session: Session, now: datetime) -> Iterator[Metric]:
    counts = _counted(session, Refresh.outcome, RefreshOutcome)
    yield _labelled("refreshes", "Refreshes, by how they ended.", "outcome", counts)
    running = leases.is_held(session, leases.REFRESH, now=now)
    yield _gauge("refresh_lease_held", "1 while a refresh or rebase runs.", running)
    ended = select(Refresh).where(Refresh.ended_at.is_not(None)).order_by(Refresh.id.desc())
    last = session.scalar(ended.limit(1))
    if last is None:
        return
    yield _gauge(
        "refresh_last_end_age_seconds", "Since the last refresh ended.", _age(last.ended_at, now)
    )
    yield _labelled(
        "refresh_last_phase_seconds", "Phases of the last refresh.", "phase", dict(last.timings)
    )
    judged = session.scalar(ended.where(Refresh.verdict.is_not(None)).limit(1))
    lines = [] if judged is None or judged.verdict is None else judged.verdict["suites"]
    for name, about in (
        ("before", "What the head scored at the last verdict."),
        ("after", "What the candidate scored at the last verdict."),
        ("margin", "What the last verdict held it against."),
    ):
        values = {line["suite"]: line[name] for line in lines if line[name] is not None}
        yield _labelled(f"gate_{name}", about, "suite", values)
    passed = {line["suite"]: float(line["outcome"] == "pass") for line in lines}
    yield _labelled("gate_passed", "1 where the last verdict passed it.", "suite", passed)


def _head(session: Session, now: datetime) -> Iterator[Metric]:
    head = lineage.read_head(session)
    move = session.get_one(HeadMove, head.seq)
    yield _gauge("head_release", "The release that is the head.", head.release_id)
    yield _gauge("head_adapters", "Adapters in the head.", len(head.recipe.adapter_ids))
    yield _gauge("head_age_seconds", "Since the head moved.", _age(move.moved_at, now))
    yield _labelled(
        "head_moves", "Moves of the head.", "action", _counted(session, HeadMove.action, HeadAction)
    )
    yield _gauge("releases", "Releases.", session.scalar(select(func.count(Release.id))) or 0)


def _waiting(session: Session, settings: Settings, now: datetime) -> Iterator[Metric]:
    for name, about, open_ in (
        ("operations_open", "Requests of admins that have not ended.", Operation.ended_at),
        ("erasures_open", "Erasures that are not complete.", Erasure.completed_at),
    ):
        kind = open_.class_
        count = session.scalar(select(func.count()).select_from(kind).where(open_.is_(None)))
        yield _gauge(name, about, count or 0)
    failing = webhooks.count_failing(session, settings.webhook, now)
    yield _gauge(
        "deliveries_failing",
        "Head moves that the receiver has not taken and is told again.",
        failing,
    )


def _backups(session: Session, now: datetime) -> Iterator[Metric]:
    begun = select(func.max(AuditEntry.at)).where(
        AuditEntry.act.in_([Act.BACKED_UP, Act.LOG_BEGUN])
    )
    yield _gauge(
        "backup_age_seconds",
        "Since the last `lorewright backup`, or since the database was made where there is none.",
        _age(session.scalar(begun), now),
    )


def _disk(settings: Settings, engine: Engine) -> Iterator[Metric]:
    places = Places(settings.state_dir)
    parts = {
        path.name: float(_bytes(path))
        for path in (places.base, places.adapters, places.snapshots, places.answers, places.logs)
    }
    yield _labelled("store_bytes", "Under the state directory, by folder.", "part", parts)
    free = shutil.disk_usage(settings.state_dir).free
    yield _gauge("disk_free_bytes", "Where the state directory lies.", free)
    if engine.url.get_backend_name() == "sqlite":
        file = Path(str(engine.url.database))
        yield _gauge("database_bytes", "The SQLite file.", _bytes(file))
        log = file.with_name(f"{file.name}-wal")
        yield _gauge("database_wal_bytes", "Its write-ahead log.", _bytes(log))
    else:
        with reading(engine) as session:
            size = session.scalar(select(func.pg_database_size(func.current_database())))
        yield _gauge("database_bytes", "The PostgreSQL database.", int(size or 0))


def _bytes(path: Path) -> int:
    total = 0
    for part in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # it went meanwhile
            seen = part.lstat()
            total += 0 if part.is_dir() else seen.st_size
    return total
