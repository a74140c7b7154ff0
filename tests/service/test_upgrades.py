"""A database of every earlier schema, with data in all of its tables, comes to the newest one."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, Boolean, Column, DateTime, Integer, MetaData, Numeric, Table, select
from sqlalchemy.orm import Session

from service import audit, facts, lineage
from service.db import alembic_config, check_at_head, make_engine, reading, upgrade, writing
from service.facts import FactState
from service.models import Base, FactRow

NOW = datetime(2026, 5, 3, 12, tzinfo=UTC)
VERSIONS = [
    script.revision for script in ScriptDirectory.from_config(alembic_config("")).walk_revisions()
]
#: What columns of these names hold, wherever they are; others hold what fits their type.
VALUES = {"outcome": "promoted", "action": "init", "phase": "done", "suite": "regression"}
OF_TABLE = {("memberships", "outcome"): "learned"}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'old.db'}"
    return str(request.getfixturevalue("empty_postgresql"))


@pytest.mark.parametrize("version", sorted(VERSIONS))
def test_an_earlier_database_keeps_what_it_has(url: str, version: str) -> None:
    command.upgrade(alembic_config(url), version)
    engine = make_engine(url)
    before = MetaData()
    with engine.begin() as connection:
        before.reflect(connection)
        tables = [table for table in before.sorted_tables if table.name != "alembic_version"]
        for table in tables:
            rows = connection.execute(select(table)).all()
            if not rows:  # a migration begins the audit log itself
                connection.execute(table.insert().values(row_of(table)))
        kept = {table.name: contents(connection.execute, table) for table in tables}

    upgrade(url)

    check_at_head(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
        now = MetaData()
        now.reflect(connection)
        for name, rows in kept.items():
            there = contents(connection.execute, now.tables[name])
            for row, as_it_is in zip(rows, there, strict=True):
                assert as_it_is.items() >= row.items(), name
    with reading(engine) as session:
        for mapper in Base.registry.mappers:
            session.scalars(select(mapper.class_)).all()  # today's code reads each of them
        assert lineage.read_head(session).release_id == 1
        [fact] = session.scalars(select(FactRow)).all()
        assert facts.states_of(session, [fact], now=NOW) == {1: FactState.LIVE}
    with writing(engine) as session:
        audit.record(session, audit.Act.PIN_ADDED, by="test", about={"pin": 1}, now=NOW)
    with Session(engine) as session:
        assert audit.verify(session).entries >= 2
    engine.dispose()


def row_of(table: Table) -> dict[str, Any]:
    """One row in which every column has a value that says something."""
    row = {}
    for column in table.columns:
        known = OF_TABLE.get((table.name, column.name), VALUES.get(column.name))
        if column.name in NOTHING:
            row[column.name] = None
        elif column.foreign_keys:
            row[column.name] = "1" if is_text(column) else 1
        else:
            row[column.name] = known if known and is_text(column) else value_of(column)
    return row


#: Columns that would make the one fact, adapter or batch something else than in the head.
NOTHING = (
    "superseded_by", "retracted_at", "erased_at", "held_reason", "valid_from", "valid_to",
    "retention_until",
)  # fmt: skip


def value_of(column: Column[Any]) -> Any:
    if isinstance(column.type, Boolean):
        return True
    if isinstance(column.type, DateTime):
        return NOW
    if isinstance(column.type, JSON):
        return {}
    if isinstance(column.type, Integer):
        return 1
    if isinstance(column.type, Numeric):
        return 0.5
    return "1"


def is_text(column: Column[Any]) -> bool:
    return not isinstance(column.type, Boolean | DateTime | JSON | Integer | Numeric)


def contents(execute: Callable[..., Any], table: Table) -> list[dict[str, Any]]:
    return [dict(row._mapping) for row in execute(select(table).order_by(*table.primary_key))]
