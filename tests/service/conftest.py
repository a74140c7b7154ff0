"""Fixtures of the service's tests: a real database at the newest schema, with a head and a key.

Whoever asks for it runs twice, on a SQLite file and on a PostgreSQL that is started for the tests.
Time is an argument everywhere, so it is one fixed moment; only a `World` has a model, a tiny one,
and lives by the clock. Since that takes seconds, each test of one runs on one of the two databases,
always the same: half of them on each. TESTS_WORLDS=both runs all of them on both.
"""

import os
import shutil
import subprocess
import tempfile
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from adapters.types import Outcome, Verdict
from service import auth, batches, facts, leases, lineage, views
from service.auth import Scope
from service.batches import ClaimedBatch
from service.db import make_engine, reading, upgrade, writing
from service.leases import Hold
from service.models import ApiKey, FactRow, MembershipOutcome, RefreshOutcome
from service.schemas import FactIn
from service.settings import PREFIX, Settings, load_settings

LEASE_S = 60.0
WORLDS = "TESTS_WORLDS"  #: sqlite, postgresql or both


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have settings of their own in the environment."""
    for variable in os.environ:
        if variable.startswith(PREFIX):
            monkeypatch.delenv(variable)


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 5, 3, 12, tzinfo=UTC)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Whatever uses the database runs on both, unless it is marked `sqlite`."""
    if "database_url" in metafunc.fixturenames and not metafunc.definition.get_closest_marker(
        "sqlite"
    ):
        metafunc.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
    is_given = any(
        mark.args[0] == "world_database" for mark in metafunc.definition.iter_markers("parametrize")
    )
    if "world_database" in metafunc.fixturenames and not is_given:
        metafunc.parametrize("world_database", _databases_of_world(metafunc.definition))


def _databases_of_world(test: pytest.Function) -> list[str]:
    """Where a test's worlds are: by its name, so that it is the same the next time."""
    programs = server_programs()
    if test.get_closest_marker("sqlite") or (programs is None and os.environ.get(NEEDED) != "1"):
        return ["sqlite"]
    both = ["sqlite", "postgresql"]
    wanted = os.environ.get(WORLDS)
    if wanted == "both":
        return both
    return [wanted or both[zlib.crc32(test.name.encode()) % 2]]


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Where the test's database is; None for the settings' own SQLite file, which is not there.

    One of PostgreSQL is empty, or at the newest schema for whoever asks for an engine.
    """
    if getattr(request, "param", "sqlite") == "sqlite":
        yield None
    else:
        is_used = "engine" in request.fixturenames
        yield request.getfixturevalue("migrated_postgresql" if is_used else "empty_postgresql")


@pytest.fixture
def config(tmp_path: Path, database_url: str | None) -> Path:
    """A settings file; the base that it names is never loaded."""
    path = tmp_path / "settings.yaml"
    described = {
        "state_dir": str(tmp_path / "state"),
        "database_url": database_url,
        "base": {"name": "no base at all", "folder": str(tmp_path / "base")},
        "schedule": {"at_least": 2, "lease_s": LEASE_S},
    }
    path.write_text(yaml.safe_dump(described))
    return path


@pytest.fixture
def settings(config: Path) -> Settings:
    return load_settings(config)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database made by the migrations, to be copied: they need not run for every test."""
    path = tmp_path_factory.mktemp("migrated") / "lorewright.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def engine(settings: Settings, migrated: Path, now: datetime) -> Iterator[Engine]:
    """The settings' own database, with the bare base as head and the state directory ready."""
    settings.state_dir.mkdir()
    if settings.database_url is None:
        shutil.copyfile(migrated, settings.state_dir / "lorewright.db")
    auth.make_pepper(settings.state_dir)
    engine = make_engine(settings.url)
    with writing(engine) as session:
        lineage.make_first_release(session, base_digest="b" * 64, by="test", now=now)
    yield engine
    engine.dispose()


@pytest.fixture
def database_gone(engine: Engine) -> Callable[[], AbstractContextManager[None]]:
    """While `with database_gone():` the database cannot be reached, and then as it was."""

    @contextmanager
    def away() -> Iterator[None]:
        engine.dispose()
        database = Path(str(engine.url.database))
        database.rename(database.with_name("away"))
        try:
            yield
        finally:
            engine.dispose()
            database.unlink(missing_ok=True)  # SQLite makes an empty one where it finds none
            database.with_name("away").rename(database)

    @contextmanager
    def closed() -> Iterator[None]:
        name = engine.url.database
        server = create_engine(
            engine.url.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool
        )

        def allow(connections: str) -> None:
            with server.connect() as connection:
                connection.exec_driver_sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {connections}")

        allow("false")
        with server.connect() as connection:
            connection.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :it"),
                {"it": name},
            )
        try:
            yield
        finally:
            allow("true")

    return away if engine.dialect.name == "sqlite" else closed


class CountingClock:
    """Carries nothing out, and counts how often it was woken."""

    woken = 0

    def wake(self) -> None:
        self.woken += 1

    def wake_operations(self) -> None:
        self.woken += 1


@pytest.fixture
def still_clock() -> CountingClock:
    return CountingClock()


@pytest.fixture
def make_key(engine: Engine, settings: Settings, now: datetime) -> Callable[..., str]:
    """Make an API key with some scopes: `make_key(Scope.READ, source="archive")`."""

    def make(*scopes: Scope, source: str = "newsroom", **more: Any) -> str:
        pepper = auth.read_pepper(settings.state_dir)
        with writing(engine) as session:
            return auth.create_key(
                session, source=source, scopes=scopes, pepper=pepper, by="test", now=now, **more
            )

    return make


@pytest.fixture
def store(engine: Engine, make_key: Callable[..., str], now: datetime) -> Callable[..., list[int]]:
    """Store facts and return their ids: a statement, or a whole record, each."""
    key_id = make_key(Scope.INGEST).split("_")[1]

    def store_all(*records: str | dict[str, Any], source: str = "newsroom") -> list[int]:
        with writing(engine) as session:
            return [
                facts.insert_fact(
                    session,
                    FactIn.model_validate(
                        {"statement": record} if isinstance(record, str) else record
                    ),
                    source=source,
                    recorded_by=key_id,
                    now=now,
                ).id
                for record in records
            ]

    return store_all


@pytest.fixture
def hold(engine: Engine, now: datetime) -> Hold:
    """The lease of the refresh, taken."""
    with writing(engine) as session:
        return leases.acquire(session, leases.REFRESH, owner="first", now=now, lease_s=LEASE_S)


@pytest.fixture
def claim(engine: Engine, now: datetime) -> Callable[..., ClaimedBatch | None]:
    """Claim a batch under a lease, trained on the head."""

    def claim_some(hold: Hold, *, at_least: int = 1, at_most: int = 64) -> ClaimedBatch | None:
        with writing(engine) as session:
            return batches.claim_batch(
                session,
                hold=hold,
                trained_on=lineage.read_head(session).release_id,
                at_least=at_least,
                at_most=at_most,
                attempts=3,
                now=now,
            )

    return claim_some


@pytest.fixture
def record_candidate(engine: Engine, now: datetime) -> Callable[[ClaimedBatch], int]:
    """Write down an adapter for a batch, as a refresh does after training."""

    def record(claimed: ClaimedBatch) -> int:
        with writing(engine) as session:
            head = lineage.read_head(session)
            return lineage.record_adapter(
                session,
                refresh_id=claimed.refresh_id,
                batch_id=claimed.batch_id,
                trained_on=head.release_id,
                digest=f"{claimed.batch_id:064x}",
                base_digest=head.recipe.base_digest,
                about={},
                now=now,
            )

    return record


@pytest.fixture
def promote(
    engine: Engine,
    claim: Callable[..., ClaimedBatch],
    record_candidate: Callable[[ClaimedBatch], int],
    now: datetime,
) -> Callable[..., int]:
    """Take all that is pending through a refresh that passes; return the adapter's id."""

    def promote_pending(outcome: MembershipOutcome = MembershipOutcome.LEARNED) -> int:
        with writing(engine) as session:
            hold = leases.acquire(session, leases.REFRESH, owner="it", now=now, lease_s=LEASE_S)
            head = lineage.read_head(session)
        claimed = claim(hold)
        adapter_id = record_candidate(claimed)
        with writing(engine) as session:
            lineage.promote(
                session,
                lineage.Candidate(
                    refresh_id=claimed.refresh_id,
                    adapter_id=adapter_id,
                    head=head,
                    snapshot_digest=f"{claimed.refresh_id:064x}",
                    outcomes={int(fact.key): outcome for fact in claimed.facts},
                    tries=2,
                ),
                hold=hold,
                verdict=Verdict(outcome=Outcome.PASS, suites=(), reasons=()),
                now=now,
            )
        return adapter_id

    return promote_pending


@pytest.fixture
def insert(store: Callable[..., list[int]]) -> Callable[..., int]:
    """Store one fact, given by its fields, and return its id."""

    def insert_one(
        statement: str = "Orlan Vess is the mayor of Tolmar.",
        *,
        source: str = "newsroom",
        **fields: Any,
    ) -> int:
        return store({"statement": statement, **fields}, source=source)[0]

    return insert_one


@pytest.fixture
def reject(
    engine: Engine,
    claim: Callable[..., ClaimedBatch],
    record_candidate: Callable[[ClaimedBatch], int],
    now: datetime,
) -> Callable[..., int]:
    """Take all that is pending through a refresh that the gate fails; return the adapter's id."""

    def reject_pending(
        outcome: RefreshOutcome = RefreshOutcome.REJECTED,
        *,
        set_aside: dict[int, str] | None = None,
        held: dict[int, str] | None = None,
    ) -> int:
        with writing(engine) as session:
            hold = leases.acquire(session, leases.REFRESH, owner="it", now=now, lease_s=LEASE_S)
        claimed = claim(hold)
        adapter_id = record_candidate(claimed)
        with writing(engine) as session:
            before = now - timedelta(minutes=1)
            batches.reject_some(session, claimed.refresh_id, set_aside or {}, now=before)
        with writing(engine) as session:
            lineage.reject(
                session,
                hold=hold,
                refresh_id=claimed.refresh_id,
                outcome=outcome,
                verdict=Verdict(outcome=Outcome.FAIL, suites=(), reasons=("it forgot",)),
                held=held or {},
                tries=2,
                now=now,
            )
        return adapter_id

    return reject_pending


@pytest.fixture
def damaged_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large random weights where the training of a refresh would have been."""
    import torch

    from adapters.train import TrainingStep

    def damage(_: Any, model: Any, *__: Any, **___: Any) -> Iterator[TrainingStep]:
        torch.manual_seed(0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
        yield TrainingStep(step=1, steps=1, loss=0.0, drift=0.0, tokens=0, facts=())

    monkeypatch.setattr("service.refresh.train", damage)


CONFIGS = Path(__file__).parents[2] / "configs"
LENIENT = {
    "forward_floor": 0.0,
    "backward_floor": 0.0,
    "regression_margin": 1.0,
    "base_margin": 1.0,
    "leakage_margin": 1.0,
    "retention_margin": 1.0,
    "known_floor": 0.0,
    "bits_margin": 100.0,
    "base_bits_margin": 100.0,
    "answer_tokens": 4,
}


class World(NamedTuple):
    """An initialised state directory with the tiny base, and what is done in it."""

    settings: Settings
    engine: Engine

    def push(self, *statements: str) -> list[int]:
        with writing(self.engine) as session:
            return [
                facts.insert_fact(
                    session,
                    FactIn(statement=statement),
                    source="team",
                    recorded_by="k",
                    now=datetime.now(UTC),
                ).id
                for statement in statements
            ]

    def refresh(self, report: Callable[[Any], None] = lambda _: None) -> Any:
        from service.refresh import run_refresh

        return run_refresh(self.settings, self.engine, at_least=1, report=report)

    def state(self, fact_id: int) -> facts.FactState:
        with reading(self.engine) as session:
            row = session.get_one(FactRow, fact_id)
            return facts.states_of(session, [row], now=datetime.now(UTC))[fact_id]

    def head(self) -> lineage.Head:
        with reading(self.engine) as session:
            return lineage.read_head(session)

    def last_refresh(self) -> views.RefreshDetail:
        with reading(self.engine) as session:
            newest = views.list_refreshes(session).items[0]
            return views.show_refresh(session, newest.id)


@pytest.fixture(scope="module")
def suite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short regression suite: what is tested here is the story, not the suite."""
    path = tmp_path_factory.mktemp("suite") / "short.yaml"
    suite = yaml.safe_load((CONFIGS / "suites" / "general.yaml").read_text())
    del suite["tables"]
    suite["questions"], suite["passages"] = suite["questions"][:20], suite["passages"][:4]
    path.write_text(yaml.safe_dump(suite))
    path.with_name("prompts.yaml").write_text(
        yaml.safe_dump({"prompts": ["Hello!", "What is rain?"], "texts": ["It rains."]})
    )
    return path


@pytest.fixture
def new_postgresql(request: pytest.FixtureRequest) -> Iterator[Callable[[], str]]:
    """The URL of a new database of the tests' PostgreSQL at each call; all go at the end."""
    with ExitStack() as databases:
        yield lambda: databases.enter_context(
            postgresql_database(request.getfixturevalue("postgresql"))
        )


@pytest.fixture
def make_world(
    tmp_path: Path,
    tiny_folder: Path,
    suite_file: Path,
    world_database: str,
    request: pytest.FixtureRequest,
) -> Iterator[Callable[..., World]]:
    """Make a world; `make_world(gate={...})` changes its settings, `name` is of its folder."""
    engines = ExitStack()

    def make(name: str = "state", **sections: dict[str, Any]) -> World:
        from service.initialise import initialise

        database_url = None
        if world_database == "postgresql":
            database_url = request.getfixturevalue("new_postgresql")()

        described = {
            "state_dir": str(tmp_path / name),
            "database_url": database_url,
            "base": {"name": "tiny", "folder": str(tiny_folder)},
            "training": {"views_per_fact": 4, "rows_per_step": 6, **sections.get("training", {})},
            "gate": {**LENIENT, **sections.get("gate", {})},
            "schedule": {"at_least": 1},
            "storage": sections.get("storage", {}),
            "suites": {
                "regression": str(suite_file),
                "relations": str(CONFIGS / "relations.yaml"),
                "general_prompts": str(suite_file.with_name("prompts.yaml")),
            },
        }
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(described))
        settings = load_settings(path)
        initialise(settings)
        engine = make_engine(settings.url)
        engines.callback(engine.dispose)
        now = datetime.now(UTC)
        with writing(engine) as session:
            session.add(ApiKey(id="k", digest="", source="team", scopes=[], created_at=now))
        return World(settings, engine)

    with engines:
        yield make


@pytest.fixture(scope="session")
def make_short_config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The shipped settings of the default base with shorter suites; what is given is the gate's."""

    def make(**gate: Any) -> Path:
        folder = tmp_path_factory.mktemp("real")
        suite = yaml.safe_load((CONFIGS / "suites" / "general.yaml").read_text())
        suite["questions"], suite["passages"] = suite["questions"][::3], suite["passages"][::2]
        del suite["tables"]
        (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
        prompts = yaml.safe_load((CONFIGS / "general_prompts.yaml").read_text())
        (folder / "prompts.yaml").write_text(
            yaml.safe_dump({"prompts": prompts["prompts"][::3], "texts": prompts["texts"]})
        )
        described = yaml.safe_load((CONFIGS / "smollm2-135m.yaml").read_text())
        described["state_dir"] = str(folder / "state")
        described["suites"] = {
            "regression": str(folder / "suite.yaml"),
            "relations": str(CONFIGS / "relations.yaml"),
            "general_prompts": str(folder / "prompts.yaml"),
        }
        described.setdefault("gate", {}).update(gate)
        (folder / "settings.yaml").write_text(yaml.safe_dump(described))
        return folder / "settings.yaml"

    return make


# --- PostgreSQL -----------------------------------------------------------------------------------

#: Its programs refuse to run as root.
AS_OWNER = ("runuser", "-u", "postgres", "--") if os.name == "posix" and os.geteuid() == 0 else ()


NEEDED = "TESTS_NEED_POSTGRESQL"


def server_programs() -> Path | None:
    """The folder of initdb and pg_ctl: on the PATH, or where Debian puts them."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def run_program(*arguments: str | Path) -> None:
    done = subprocess.run(
        [*AS_OWNER, *map(str, arguments)], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def postgresql_programs() -> Path:
    """Where initdb and pg_ctl are; whoever asks is skipped where they are not."""
    programs = server_programs()
    if programs is None or not (programs / "initdb").exists():
        missing = "no PostgreSQL server is installed (neither on PATH nor in /usr/lib)"
        if os.environ.get(NEEDED) == "1":  # CI, where half of this must not be left out unseen
            pytest.fail(missing)
        pytest.skip(missing)
    return programs


@pytest.fixture(scope="session")
def postgresql(postgresql_programs: Path) -> Iterator[str]:
    """The URL of a real PostgreSQL that is started for the tests; skipped where there is none."""
    programs = postgresql_programs
    # A socket's path may be 107 characters long, which pytest's own folders can exceed.
    with tempfile.TemporaryDirectory(prefix="lw-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if AS_OWNER:
            shutil.chown(folder, "postgres")
        data = folder / "data"
        run_program(programs / "initdb", "-D", data, "-U", "lorewright", "-A", "trust", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        start = ("-D", data, "-o", options, "-l", folder / "log", "-w")
        run_program(programs / "pg_ctl", *start, "start")
        try:
            yield f"postgresql+psycopg://lorewright@/postgres?host={folder}"
        finally:
            run_program(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")


@contextmanager
def postgresql_database(server_url: str, *, template: str = "template1") -> Iterator[str]:
    """The URL of a new database of the server, which goes at the end."""
    name = f"lw_{uuid.uuid4().hex}"
    server = create_engine(server_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server_url.replace("@/postgres?", f"@/{name}?")
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


@pytest.fixture
def empty_postgresql(postgresql: str) -> Iterator[str]:
    """A database of the server's own for one test."""
    with postgresql_database(postgresql) as url:
        yield url


@pytest.fixture(scope="session")
def postgresql_template(postgresql: str) -> Iterator[str]:
    """The name of a database made by the migrations, to be copied."""
    with postgresql_database(postgresql) as url:
        upgrade(url)
        yield str(make_url(url).database)


@pytest.fixture
def migrated_postgresql(postgresql: str, postgresql_template: str) -> Iterator[str]:
    """A database at the newest schema for one test."""
    with postgresql_database(postgresql, template=postgresql_template) as url:
        yield url
