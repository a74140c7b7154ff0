"""The database: migrations, durability, and two writers that wait for each other."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.schema import CreateTable

from service import leases
from service.db import alembic_config, check_at_head, make_engine, reading, upgrade, writing
from service.errors import DatabaseNotReady
from service.leases import Hold
from service.models import Base, Lease, Release


def test_the_migrations_make_what_the_models_describe(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_migrations_can_be_run_twice_and_taken_back(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'lorewright.db'}"
    upgrade(url)
    upgrade(url)
    command.downgrade(alembic_config(url), "base")
    engine = make_engine(url)
    assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()


@pytest.mark.parametrize("table", Base.metadata.sorted_tables, ids=lambda table: table.name)
def test_every_table_can_be_written_for_postgresql(table: object) -> None:
    assert str(CreateTable(table).compile(dialect=postgresql.dialect()))  # type: ignore[arg-type]


def test_a_database_that_is_not_there_says_what_to_run(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(DatabaseNotReady, match="lorewright init"):
        check_at_head(engine)
    assert not (tmp_path / "none.db").exists()


def test_a_database_of_another_schema_says_what_to_run(engine: Engine) -> None:
    with writing(engine) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    with pytest.raises(DatabaseNotReady, match=r"at schema 0001.*lorewright db upgrade"):
        check_at_head(engine)


def test_a_database_of_a_newer_version_is_left_as_it_is(engine: Engine) -> None:
    with writing(engine) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    url = engine.url.render_as_string(hide_password=False)
    for refused in (lambda: check_at_head(engine), lambda: upgrade(url)):
        with pytest.raises(DatabaseNotReady, match=r"9999, which this version does not know"):
            refused()


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("pragma", "wanted"),
    [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("busy_timeout", 15_000)],
)
def test_every_connection_is_durable_and_checked(
    engine: Engine, pragma: str, wanted: object
) -> None:
    with engine.connect() as connection:
        assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == wanted


def test_reading_and_checking_the_schema_wait_for_no_writer(engine: Engine, hold: Hold) -> None:
    with writing(engine) as session:
        session.execute(text("UPDATE leases SET owner = 'not yet'"))
        check_at_head(engine)
        with reading(engine) as other:
            assert other.scalar(select(Lease.owner)) == hold.owner


def test_a_second_writer_waits_for_the_first(engine: Engine, hold: Hold) -> None:
    """With a late lock, the second would read the old token and fail when it writes."""

    after_it = datetime.now(UTC)  # the fixture's lease is long over, and these last for nothing

    def take_over() -> None:
        with writing(engine) as session:
            leases.acquire(session, hold.name, owner="another", now=after_it, lease_s=0)

    writers = [threading.Thread(target=take_over) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with reading(engine) as session:
        assert session.get_one(Lease, hold.name).token == hold.token + 8


def test_a_write_that_fails_leaves_nothing(engine: Engine, hold: Hold) -> None:
    def fail() -> None:
        with writing(engine) as session:
            session.execute(text("UPDATE leases SET owner = 'half'"))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    with reading(engine) as session:
        assert session.get_one(Lease, hold.name).owner == hold.owner


def test_an_error_of_the_database_repeats_no_value(engine: Engine) -> None:
    """What is stored is fact text, and errors are logged."""

    def store_twice() -> None:
        with writing(engine) as session:
            made_at = session.scalars(select(Release.created_at)).one()
            for _ in range(2):
                session.add(
                    Release(
                        recipe_digest="a secret",
                        base_digest="a secret",
                        snapshot_digest="a secret",
                        created_at=made_at,
                    )
                )
                session.flush()

    with pytest.raises(IntegrityError) as caught:
        store_twice()
    assert "a secret" not in str(caught.value)
