"""The database: SQLite by default, PostgreSQL where one machine is outgrown.

SQLite runs with a write-ahead log, full durability and foreign keys; a write transaction takes its
lock at the start (BEGIN IMMEDIATE), so two writers wait for each other instead of failing late.
"""

import importlib
import logging
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from service.errors import Conflict, DatabaseNotReady

ROOT = Path(__file__).parent.parent
BUSY_TIMEOUT_MS = 15_000
POOL_TIMEOUT_S = 5  #: for a connection; whoever waits for longer is told to come again
CONNECT_TIMEOUT_S = 5
REWRITE_TRIES = 10  #: seconds of waiting for whoever reads what is to go
LOCK_NOT_AVAILABLE = "55P03"  #: SQLSTATE
#: The first SQLite whose write-ahead log survives several processes writing at once.
FIRST_SAFE_SQLITE = (3, 51, 3)

log = logging.getLogger(__name__)


def make_engine(url: str) -> Engine:
    """An engine with this project's settings for the database that the URL names."""
    # Parameters are fact text: an error that is logged or recorded must not repeat them.
    if make_url(url).get_backend_name() != "sqlite":
        engine = create_engine(
            url,
            pool_pre_ping=True,
            pool_timeout=POOL_TIMEOUT_S,
            hide_parameters=True,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "tcp_user_timeout": 15_000,  # ms
                # A host that dies while a statement runs there leaves nothing unacknowledged.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )
        event.listen(engine, "handle_error", _leave_out_values)
        return engine
    engine = create_engine(url, module=sqlite_driver(), hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def first_line(error: SQLAlchemyError) -> str:
    """What the driver said of it."""
    return next(iter(str(getattr(error, "orig", error)).splitlines()), type(error).__name__)


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    """An engine for the block, without a connection left open after it."""
    engine = make_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def sqlite_driver() -> ModuleType:
    """The newest SQLite at hand: pysqlite3 bundles one, the standard library has the system's."""
    try:
        driver = importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        driver = sqlite3
    if driver.sqlite_version_info < FIRST_SAFE_SQLITE:
        log.warning(
            "SQLite %s can corrupt its write-ahead log when several processes write; "
            "%s or newer is wanted (pip install pysqlite3).",
            driver.sqlite_version,
            ".".join(map(str, FIRST_SAFE_SQLITE)),
        )
    return driver


def _leave_out_values(context: ExceptionContext) -> None:
    """PostgreSQL says in an error's detail which value it was; its first line goes without."""
    error = context.original_exception
    told = getattr(getattr(error, "diag", None), "message_primary", None)
    if told:
        whole = str(error)
        for said in (error, context.sqlalchemy_exception):
            if said is not None and said.args:
                said.args = (str(said.args[0]).replace(whole, told), *said.args[1:])


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",  # first: even the change to WAL may have to wait
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    is_reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """One write transaction: committed when the block ends well, aborted otherwise."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """One consistent view of the database, without a write lock."""
    view: dict[str, Any] = {"reading": True}
    if engine.url.get_backend_name() != "sqlite":  # there, each statement would have its own
        view |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with Session(engine.execution_options(**view)) as session:
        yield session


def rewrite(engine: Engine) -> None:
    """Write the database's files anew, so that nothing overwritten or deleted is left in them.

    Raises Conflict where somebody still reads what was there before.
    """
    if engine.url.get_backend_name() != "sqlite":
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql(f"SET lock_timeout = '{REWRITE_TRIES}s'")
            try:
                connection.exec_driver_sql("ANALYZE")  # what it knew of common values is text, too
                connection.exec_driver_sql("VACUUM FULL")
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                    raise
                raise Conflict(
                    f"Somebody still reads the database {engine.url.database}; once they have "
                    "ended, do it again."
                ) from error
            finally:
                connection.exec_driver_sql("RESET lock_timeout")  # the connection is used again
        return
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        try:
            cursor.execute("VACUUM")
        except engine.dialect.loaded_dbapi.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise Conflict(
                f"Somebody is using {engine.url.database}; once they have ended, do it again."
            ) from error
        for _ in range(REWRITE_TRIES):
            is_busy, *_ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not is_busy:
                return
            time.sleep(1)
    finally:
        raw.close()
    raise Conflict(
        f"Somebody still reads {engine.url.database} as it was; once they have ended, do it again."
    )


def alembic_config(url: str) -> Config:
    config = Config(toml_file=ROOT / "pyproject.toml")
    config.attributes["url"] = url
    return config


def upgrade(url: str) -> None:
    """Create the database or bring it to the newest schema (`alembic upgrade head`)."""
    database = make_url(url).database
    if make_url(url).get_backend_name() == "sqlite" and database:
        Path(database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with opened(url) as engine, engine.connect() as connection:
        _refuse_newer(MigrationContext.configure(connection).get_current_revision())
    command.upgrade(alembic_config(url), "head")


def _refuse_newer(found: str | None) -> None:
    """Raises DatabaseNotReady for a schema that this version has no migration to."""
    known = ScriptDirectory.from_config(alembic_config(""))
    if found is not None and found not in {step.revision for step in known.walk_revisions()}:
        raise DatabaseNotReady(
            f"The database is at schema {found}, which this version does not know: a newer one "
            "made it. Install that one again, or restore a backup from before."
        )


def check_writable(engine: Engine) -> None:
    """Raises DatabaseNotReady where SQLite cannot be written to now, or soon: locked, or read-only.

    Through a connection of its own, which waits for a second where the others wait for longer.
    """
    if engine.url.get_backend_name() != "sqlite":
        return
    driver = engine.dialect.loaded_dbapi
    try:
        with closing(
            driver.connect(str(engine.url.database), timeout=1, isolation_level=None)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except driver.OperationalError as error:
        raise DatabaseNotReady(f"The database cannot be written to: {error}.") from error


def check_at_head(engine: Engine) -> None:
    """Raises DatabaseNotReady when the schema is not the one that this version needs."""
    url = engine.url
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        raise DatabaseNotReady(f"There is no database at {url.database}; run `lorewright init`.")
    wanted = ScriptDirectory.from_config(alembic_config("")).get_current_head()
    with engine.execution_options(reading=True).connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    if found is None:
        raise DatabaseNotReady("The database is empty; run `lorewright init`.")
    _refuse_newer(found)
    if found != wanted:
        raise DatabaseNotReady(
            f"The database is at schema {found}, this version needs {wanted}; "
            "run `lorewright db upgrade`."
        )
