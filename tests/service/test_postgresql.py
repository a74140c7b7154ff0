"""The same migrations and the same code on a real PostgreSQL, started here for the test.

Skipped, with the reason shown, where the machine has no PostgreSQL server to start.
"""

import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, func, inspect, select
from sqlalchemy.orm import Session

from adapters.config import SuitesConfig
from adapters.store import write_manifest
from adapters.types import Outcome, ProbeOrigin, Suite, Verdict
from service import audit, auth, batches, facts, leases, lineage, pins, views
from service.audit import Act
from service.backup import back_up, restore
from service.db import alembic_config, check_at_head, make_engine, reading, upgrade, writing
from service.erasure import erase
from service.errors import Conflict, HeadMoved
from service.facts import FactState, Stored
from service.models import ApiKey, Base, FactRow, HeadAction, MembershipOutcome, ProbeAnswer
from service.places import Places
from service.schemas import MAX_NAME, FactIn
from service.settings import load_settings
from service.stopping import Stopping

CONFIGS = Path(__file__).parents[2] / "configs"
SUITES = SuitesConfig(
    regression=CONFIGS / "suites" / "general.yaml",
    relations=CONFIGS / "relations.yaml",
    general_prompts=CONFIGS / "general_prompts.yaml",
)
NOW = datetime(2026, 5, 3, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def url(postgresql: str) -> str:
    return postgresql


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    upgrade(url)
    engine = make_engine(url)
    yield engine
    engine.dispose()
    command.downgrade(alembic_config(url), "base")


def test_the_migrations_make_what_the_models_describe_and_can_be_taken_back(url: str) -> None:
    upgrade(url)
    upgrade(url)
    engine = make_engine(url)
    check_at_head(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    command.downgrade(alembic_config(url), "base")
    assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()


def test_facts_are_stored_once_claimed_once_and_the_head_moves_once(engine: Engine) -> None:
    statements = ["Orlan Vess is the mayor of Tolmar.", "Zürich — 東京 🦉 <|im_end|>"]
    with writing(engine) as session:
        session.add(ApiKey(id="k", digest="", source="team", scopes=[], created_at=NOW))
        first = lineage.make_first_release(session, base_digest="b" * 64, by="test", now=NOW)

    def push() -> list[Stored]:
        with writing(engine) as session:
            return [
                facts.insert_fact(
                    session,
                    FactIn(statement=statement),
                    source="team",
                    recorded_by="k",
                    now=NOW,
                ).stored
                for statement in statements
            ]

    assert push() == [Stored.STORED, Stored.STORED]
    assert push() == [Stored.DUPLICATE, Stored.DUPLICATE]

    with writing(engine) as session:
        hold = leases.acquire(session, leases.REFRESH, owner="test", now=NOW, lease_s=60)
        head = lineage.read_head(session)
        claimed = batches.claim_batch(
            session, hold=hold, trained_on=first, at_least=2, at_most=9, attempts=3, now=NOW
        )
    assert claimed is not None
    assert [fact.statement for fact in claimed.facts] == statements
    with reading(engine) as session:
        assert batches.count_pending(session, now=datetime.now(UTC)) == 0
        rows = facts.states_of(
            session, session.scalars(select(FactRow)).all(), now=datetime.now(UTC)
        )
    assert set(rows.values()) == {FactState.IN_WORK}

    with writing(engine) as session:
        move(session, head.seq, first)
    with pytest.raises(HeadMoved), writing(engine) as session:
        move(session, head.seq, first)


def test_names_as_long_as_they_may_be_are_stored(empty_postgresql: str) -> None:
    """They must fit into a row of every index, which holds 2704 bytes."""
    upgrade(empty_postgresql)
    engine = make_engine(empty_postgresql)
    chance = random.Random(1)

    def name() -> str:
        return "".join(chr(chance.randrange(0x20000, 0x2A6D0)) for _ in range(MAX_NAME))

    with writing(engine) as session:
        source = "".join(chr(chance.randrange(0x20000, 0x2A6D0)) for _ in range(auth.MAX_SOURCE))
        session.add(ApiKey(id="k", digest="", source=source, scopes=[], created_at=NOW))
        session.flush()
        record = FactIn(
            external_id=name(), statement="x", subject=name(), relation=name(), object=name()
        )
        stored = facts.insert_fact(session, record, source=source, recorded_by="k", now=NOW)
    assert stored.stored is Stored.STORED
    engine.dispose()


def move(session: Session, seq: int, release: int) -> None:
    lineage.move_head(
        session,
        release,
        expected_seq=seq,
        action=HeadAction.ROLLBACK,
        by="test",
        reason="test",
        now=NOW,
    )


def test_two_who_write_to_the_audit_log_at_once_wait_for_each_other(engine: Engine) -> None:
    def act(name: str) -> None:
        for at in range(20):
            with writing(engine) as session:
                about = {"fact": at}
                audit.record(session, Act.FACT_RETRACTED, by=name, about=about, now=NOW)

    threads = [threading.Thread(target=act, args=(name,)) for name in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with reading(engine) as session:
        found = audit.verify(session)
    assert (found.entries, found.problems) == (61, ())


def test_an_erased_fact_is_overwritten_there_and_no_old_row_is_left(
    engine: Engine, url: str, config: Path
) -> None:
    """Old versions of rows stay in PostgreSQL's tables until they are written anew."""
    settings = load_settings(config)
    settings = settings.model_copy(update={"database_url": url, "suites": SUITES})
    settings.state_dir.mkdir()
    auth.make_pepper(settings.state_dir)
    with writing(engine) as session:
        session.add(ApiKey(id="k", digest="", source="team", scopes=[], created_at=NOW))
        lineage.make_first_release(session, base_digest="b" * 64, by="test", now=NOW)
        for statement in ("Quendrik Ozolin sings.", "It rains."):
            facts.insert_fact(
                session, FactIn(statement=statement), source="team", recorded_by="k", now=NOW
            )
        pins.pin(session, "Who is Quendrik Ozolin?", ["he"], reason="r", by="me", now=NOW)

    def tables_with_it() -> list[Path]:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("CHECKPOINT")
        data = Path(url.partition("host=")[2]) / "data" / "base"
        files = [path for path in data.rglob("*") if path.is_file()]
        return [path for path in files if b"Quendrik Ozolin" in path.read_bytes()]

    assert tables_with_it()
    with Stopping().listening() as stopping:
        end = erase(
            settings, engine, [1], by="me", reason="r", report=lambda _: None, stopping=stopping
        )
    assert end.is_complete
    assert tables_with_it() == []
    with reading(engine) as session:
        assert [fact.state for fact in views.list_facts(session).items] == [
            FactState.PENDING,
            FactState.ERASED,
        ]


def test_a_backup_is_restored_into_another_database(
    engine: Engine,
    url: str,
    postgresql_programs: Path,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", f"{postgresql_programs}{os.pathsep}{os.environ['PATH']}")
    settings = load_settings(config).model_copy(update={"database_url": url})
    base = Places(settings.state_dir).base
    base.mkdir(parents=True)
    (base / "weights").write_bytes(b"not a model, and never loaded")
    digest = write_manifest(base, kind="base", about={})
    auth.make_pepper(settings.state_dir)
    with writing(engine) as session:
        session.add(ApiKey(id="k", digest="", source="team", scopes=[], created_at=NOW))
        lineage.make_first_release(session, base_digest=digest, by="test", now=NOW)
        facts.insert_fact(
            session, FactIn(statement="Zürich."), source="team", recorded_by="k", now=NOW
        )
    back_up(settings, engine, tmp_path / "backup", by="me")
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE other")
    try:
        other = settings.model_copy(
            update={
                "database_url": url.replace("/postgres?", "/other?"),
                "state_dir": tmp_path / "elsewhere",
            }
        )
        restore(other, tmp_path / "backup")
        restored = make_engine(other.url)
        check_at_head(restored)
        with reading(restored) as session:
            assert [fact.statement for fact in views.list_facts(session).items] == ["Zürich."]
        restored.dispose()
        with pytest.raises(Conflict, match="The database has tables already"):
            restore(other.model_copy(update={"state_dir": tmp_path / "third"}), tmp_path / "backup")
    finally:
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("DROP DATABASE other WITH (FORCE)")


def test_what_is_tried_again_reviewed_and_forgotten_is_found_there_too(engine: Engine) -> None:
    """The queries that say more than equal and in: a window, a group of groups, a cast."""
    with writing(engine) as session:
        session.add(ApiKey(id="k", digest="", source="team", scopes=[], created_at=NOW))
        lineage.make_first_release(session, base_digest="b" * 64, by="test", now=NOW)
        ids = [
            facts.insert_fact(
                session, FactIn(statement=f"{at}."), source="team", recorded_by="k", now=NOW
            ).id
            for at in range(4)
        ]
    learned = promote(engine, {ids[0]: MembershipOutcome.LEARNED}, at_most_of_source=2)
    assert learned == ids[:2]
    with writing(engine) as session:
        for stage, is_right in (("before", True), ("after", False)):
            session.add(
                ProbeAnswer(
                    refresh_id=1, stage=stage, suite=Suite.RETENTION, fact_id=ids[0],
                    probe_key="retention/1/forward/0", question="?", answers=["x"],
                    origin=ProbeOrigin.RELATION, text="", exact=False, contained=is_right,
                    recall=0.0,
                )
            )  # fmt: skip
            session.add(
                ProbeAnswer(
                    refresh_id=1, stage=stage, suite=Suite.FORWARD, fact_id=ids[0],
                    probe_key="1/forward/0", question="?", answers=["x"],
                    origin=ProbeOrigin.RELATION, text="", exact=False, contained=is_right,
                    recall=0.0,
                )
            )  # fmt: skip
    with reading(engine) as session:
        rows = session.scalars(select(FactRow).order_by(FactRow.id)).all()
        states = facts.states_of(session, rows, now=NOW)
        assert [states[fact] for fact in ids] == [
            FactState.FORGOTTEN, FactState.UNLEARNED, FactState.PENDING, FactState.PENDING,
        ]  # fmt: skip
        assert [line.forward for line in views.show_refresh(session, 1).control] == [0, 1, 0]
        assert batches.count_pending(session, at_most_of_source=1, now=NOW) == 1
        assert views.facts_to_review(session, now=NOW).items == []
    assert promote(engine, {}, at_most_of_source=1) == [ids[1], ids[2]]


def promote(
    engine: Engine, outcomes: dict[int, MembershipOutcome], *, at_most_of_source: int
) -> list[int]:
    """Take a batch through a refresh that passes, the facts not named unlearned; their ids."""
    with writing(engine) as session:
        hold = leases.acquire(session, leases.REFRESH, owner="it", now=NOW, lease_s=60.0)
        head = lineage.read_head(session)
        claimed = batches.claim_batch(
            session,
            hold=hold,
            trained_on=head.release_id,
            at_least=1,
            at_most=9,
            attempts=3,
            at_most_of_source=at_most_of_source,
            replay_at_most=9,
            retain_at_most=9,
            now=NOW,
        )
        assert claimed is not None
        ids = [int(fact.key) for fact in claimed.facts]
        adapter_id = lineage.record_adapter(
            session,
            refresh_id=claimed.refresh_id,
            batch_id=claimed.batch_id,
            trained_on=head.release_id,
            digest=f"{claimed.batch_id:064x}",
            base_digest=head.recipe.base_digest,
            about={},
            now=NOW,
        )
        lineage.promote(
            session,
            lineage.Candidate(
                refresh_id=claimed.refresh_id,
                adapter_id=adapter_id,
                head=head,
                snapshot_digest=f"{claimed.refresh_id:064x}",
                outcomes=dict.fromkeys(ids, MembershipOutcome.UNLEARNED) | outcomes,
                tries=2,
            ),
            hold=hold,
            verdict=Verdict(outcome=Outcome.PASS, suites=(), reasons=()),
            now=NOW,
        )
    return ids


def test_what_is_read_in_one_go_is_one_view(engine: Engine) -> None:
    """Or the audit log and the head's history would be of two moments."""
    with reading(engine) as session:
        before = session.scalar(select(func.count()).select_from(ApiKey))
        with writing(engine) as other:
            other.add(ApiKey(id="later", digest="", source="later", scopes=[], created_at=NOW))
        assert session.scalar(select(func.count()).select_from(ApiKey)) == before
    with reading(engine) as session:
        assert session.scalar(select(func.count()).select_from(ApiKey)) == (before or 0) + 1


def test_of_two_functional_facts_that_come_at_once_one_stands(engine: Engine) -> None:
    def insert(session: Session, object_: str) -> None:
        record = {"statement": f"The capital is {object_}.", "subject": "Ruritania",
                  "relation": "capital", "object": object_, "functional": True}  # fmt: skip
        facts.insert_fact(
            session, FactIn.model_validate(record), source="team", recorded_by="k", now=NOW
        )

    with writing(engine) as session:
        session.add(ApiKey(id="k", digest="", source="team", scopes=[], created_at=NOW))
    with ThreadPoolExecutor(1) as pool, Session(engine) as first:
        insert(first, "Strelsau")

        def second() -> None:
            with writing(engine) as session:
                insert(session, "Zenda")

        waiting = pool.submit(second)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.5)
        first.commit()
        waiting.result(timeout=30)
    with reading(engine) as session:
        standing = select(FactRow.object).where(FactRow.superseded_by.is_(None))
        assert session.scalars(standing).all() == ["Zenda"]
