"""What Prometheus is told: as its own parser reads it, over HTTP."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine
from starlette.testclient import TestClient

from service import audit, auth, leases, lineage, operations
from service.api import create_app
from service.audit import Act
from service.auth import Scope
from service.db import reading, writing
from service.models import AuditEntry, MembershipOutcome
from service.settings import Settings

Values = dict[tuple[str, ...], float]


@pytest.fixture
def http(
    engine: Engine, settings: Settings, make_key: Callable[..., str], still_clock: Any
) -> Iterator[httpx2.Client]:
    app = create_app(settings, engine, still_clock)
    with TestClient(app, raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {make_key(Scope.READ, source='prometheus')}"
        yield client


def told(http: httpx2.Client) -> Callable[..., float]:
    """What is told now, as `value("facts_stored")` or `value("refreshes", "promoted")`."""
    answer = http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    return lambda name, *labels: found[f"lorewright_{name}", *labels]


def test_facts_are_counted_by_where_they_stand(
    http: httpx2.Client,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    now: datetime,
) -> None:
    assert told(http)("facts_oldest_pending_seconds") == 0
    store("One.", "Two.")
    value = told(http)
    assert (value("facts_stored"), value("facts_pending")) == (2, 2)
    assert value("build_info", metadata.version("lorewright")) == 1
    age = (datetime.now(UTC) - now).total_seconds()
    assert 0 <= age - value("facts_oldest_pending_seconds") < 60
    promote(MembershipOutcome.LEARNED)
    value = told(http)
    assert (value("facts_stored"), value("facts_pending")) == (2, 0)
    assert value("facts_oldest_pending_seconds") == 0
    assert value("memberships", "learned") == 2
    begun = datetime.now(UTC) - timedelta(minutes=1)
    store({"statement": "Told ahead, and it has begun.", "valid_from": begun.isoformat()})
    assert told(http)("facts_oldest_pending_seconds") < 120


def test_it_is_told_how_old_the_last_backup_is(http: httpx2.Client, engine: Engine) -> None:
    day, hour = timedelta(days=1), timedelta(hours=1)
    with writing(engine) as session:  # as if the database were a day old
        session.get_one(AuditEntry, 1).at = datetime.now(UTC) - day
    assert 0 <= told(http)("backup_age_seconds") - day.total_seconds() < 60
    with writing(engine) as session:
        now = datetime.now(UTC) - hour
        audit.record(session, Act.BACKED_UP, by="me", about={}, now=now)
    assert 0 <= told(http)("backup_age_seconds") - hour.total_seconds() < 60


def test_the_head_the_last_refresh_and_what_waits_are_told(
    http: httpx2.Client,
    engine: Engine,
    store: Callable[..., list[int]],
    promote: Callable[..., int],
    reject: Callable[..., int],
    now: datetime,
) -> None:
    value = told(http)
    assert (value("head_release"), value("head_adapters"), value("refresh_lease_held")) == (1, 0, 0)
    store("One.")
    promote()
    store("Two.")
    reject()
    with writing(engine) as session:
        leases.acquire(session, leases.REFRESH, owner="x", now=datetime.now(UTC), lease_s=60)
        kind = operations.Kind.ROLLBACK
        operations.enqueue(session, kind, ["rollback"], reason="r", by="me", now=now)
    with reading(engine) as session:
        head = lineage.read_head(session).release_id
    value = told(http)
    assert (value("head_release"), value("head_adapters")) == (head, 1)
    assert value("head_moves", "promotion") == 1
    assert (value("refreshes", "promoted"), value("refreshes", "rejected")) == (1, 1)
    assert value("database_bytes") > 1000
    assert value("refresh_lease_held") == 1
    assert value("refresh_last_end_age_seconds") > 0
    assert value("operations_open") == 1


def test_the_last_verdict_is_told_suite_by_suite(
    make_world: Callable[..., Any], still_clock: Any
) -> None:
    settings, engine = world = make_world()
    world.push("Orlan Vess is the mayor of Tolmar.")
    world.refresh()
    verdict = world.last_refresh().verdict
    with TestClient(create_app(settings, engine, still_clock)) as http:
        http.headers["Authorization"] = f"Bearer {key_for(settings, engine)}"
        value = told(http)
        for line in verdict["suites"]:
            assert value("gate_passed", line["suite"]) == (line["outcome"] == "pass")
            assert value("gate_after", line["suite"]) == pytest.approx(line["after"])
        assert value("refresh_last_phase_seconds", "training") > 0
        for part in ("base", "adapters", "snapshots"):
            assert value("store_bytes", part) > 1000
        assert value("database_bytes") > 1000
        assert value("disk_free_bytes") > 0


def key_for(settings: Settings, engine: Engine) -> str:
    with writing(engine) as session:
        return auth.create_key(
            session,
            source="prometheus",
            scopes={Scope.READ},
            pepper=auth.read_pepper(settings.state_dir),
            by="test",
            now=datetime.now(UTC),
        )


def test_requests_are_counted_by_route_and_never_by_what_a_client_sent(
    http: httpx2.Client,
) -> None:
    for path in ("/v1/facts/1", "/v1/facts/2", "/secret-path", "/v1/facts/x", "/v1/facts/0"):
        http.get(path)
    http.request("INVENTED", "/v1/facts")
    http.get("/metrics")
    value = told(http)
    assert value("http_requests_total", "GET", "/v1/facts/{fact_id}", "404") == 2
    assert value("http_requests_total", "GET", "/v1/facts/{fact_id}", "422") == 1
    assert value("http_requests_total", "GET", "none", "404") == 2
    assert value("http_requests_total", "GET", "/metrics", "200") == 1
    text = http.get("/metrics").text
    assert "secret-path" not in text
    assert "INVENTED" not in text


def test_a_database_that_is_gone_is_a_problem_and_no_half_answer(
    http: httpx2.Client, database_gone: Callable[[], AbstractContextManager[None]]
) -> None:
    with database_gone():
        assert http.get("/metrics").status_code == 503
    assert http.get("/metrics").status_code == 200


def test_the_alerts_in_the_documentation_are_about_what_is_told(
    http: httpx2.Client, store: Callable[..., list[int]], reject: Callable[..., int]
) -> None:
    store("One.")
    reject()
    http.get("/v1/facts")
    told_names = set(re.findall(r"^(lorewright_\w+)", http.get("/metrics").text, re.MULTILINE))
    docs = Path(__file__).parents[2] / "docs"
    rules = yaml.safe_load((docs / "alerts.yaml").read_text())["groups"][0]["rules"]
    for rule in rules:
        names = set(re.findall(r"lorewright_\w+", rule["expr"]))
        assert names <= told_names, rule["alert"]
        assert names or rule["alert"] == "LorewrightDown"
    described = (docs / "running.md").read_text()
    alerts = {rule["alert"] for rule in rules}
    assert alerts <= set(re.findall(r"^\| (\w+) \|", described, re.MULTILINE))
    for name in told_names:
        plain = re.sub(r"_(created|bucket|count|sum)$", "", name).removeprefix("lorewright_")
        assert plain in described, name


def test_what_has_not_happened_yet_is_told_as_none(http: httpx2.Client) -> None:
    """A series that appears with its first event never rises, and no alert sees it."""
    value = told(http)
    assert value("refreshes", "promoted") == value("refreshes", "rejected") == 0
    assert value("head_moves", "rollback") == value("head_moves", "forced_rollback") == 0
    assert value("memberships", "quarantined") == 0


def test_the_alerts_ring_when_they_should() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool, which comes with Prometheus, is not installed")
    docs = Path(__file__).parents[2] / "docs"
    done = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yaml"],
        cwd=docs,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
