"""A backup while work goes on, and a restore that holds together and says what was said before."""

import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import select

from adapters.errors import ArtefactError
from service import backup
from service.asking import ask_release
from service.audit import Act
from service.backup import back_up, restore
from service.db import alembic_config, check_at_head, make_engine, reading, writing
from service.errors import Conflict
from service.fsck import check
from service.models import AuditEntry, Erasure, FactRow
from service.progress import Progress

QUESTIONS = ["Who is the mayor of Tolmar?", "Where?", "Go on."]


@pytest.fixture
def elsewhere(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """A world with the same settings and another state directory and database: another machine."""
    with ExitStack() as engines:

        def make(world: Any, name: str = "elsewhere") -> Any:
            changes: dict[str, Any] = {"state_dir": tmp_path / name}
            if world.settings.database_url is not None:
                changes["database_url"] = request.getfixturevalue("new_postgresql")()
            settings = world.settings.model_copy(update=changes)
            engine = make_engine(settings.url)
            engines.callback(engine.dispose)
            return world._replace(settings=settings, engine=engine)

        yield make


def test_a_restore_is_the_service_of_the_backup_and_says_the_same(
    make_world: Callable[..., Any], tmp_path: Path, elsewhere: Callable[..., Any]
) -> None:
    settings, engine = world = make_world(
        training={"rate": 0.05, "views_per_fact": 40, "shift_weight": 0.0, "general_weight": 0.0}
    )
    world.push("Orlan Vess is the mayor of Tolmar.")
    world.refresh()
    said = ask_release(settings, engine, QUESTIONS, release_id=None)
    done = back_up(settings, engine, tmp_path / "backup", by="me")
    assert (done.head_release, done.adapters) == (said.release_id, 1)
    world.push("Lake Ux lies in Ardun.")  # after it

    other = elsewhere(world)
    back = restore(other.settings, tmp_path / "backup")
    assert (back.head_release, back.adapters) == (said.release_id, 1)
    assert check(other.settings, other.engine, fast=False, now=datetime.now(UTC)).problems == ()
    assert ask_release(other.settings, other.engine, QUESTIONS, release_id=None) == said
    with reading(other.engine) as session:
        assert session.scalars(select(FactRow.statement)).all() == [
            "Orlan Vess is the mayor of Tolmar."
        ]
    for name in backup.SECRETS[:1]:
        here, there = (place.state_dir / name for place in (settings, other.settings))
        assert here.read_bytes() == there.read_bytes()
        assert stat.S_IMODE(there.stat().st_mode) == 0o600
    for folder in (tmp_path / "backup", other.settings.state_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    other.push("Mira Zun leads the Bregal choir.")
    assert other.refresh() is not None  # and it goes on


def test_a_backup_while_a_refresh_runs_is_whole(
    make_world: Callable[..., Any], tmp_path: Path, elsewhere: Callable[..., Any]
) -> None:
    settings, engine = world = make_world()
    world.push("Orlan Vess is the mayor of Tolmar.")
    made: list[Path] = []

    def watch(progress: Progress) -> None:
        if progress.phase not in [path.name for path in made]:
            made.append(tmp_path / progress.phase)
            back_up(settings, engine, made[-1], by="me")

    world.refresh(watch)
    assert len(made) > 2
    for folder in made:
        other = elsewhere(world, f"of-{folder.name}")
        assert restore(other.settings, folder).head_release == 1


def test_an_erasure_in_the_middle_of_a_backup_is_in_none(
    make_world: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database was copied before, and has the text still."""
    settings, engine = make_world()
    copy = backup._copy_artefact

    def erased_meanwhile(folder: Path, to: Path, digest: str) -> None:
        copy(folder, to, digest)
        now = datetime.now(UTC)
        with writing(engine) as session:
            asked = {"fact_ids": [1], "reason": "r", "requested_by": "me", "requested_at": now}
            session.add(Erasure(**asked, completed_at=now))

    monkeypatch.setattr(backup, "_copy_artefact", erased_meanwhile)
    with pytest.raises(Conflict, match="erased while the backup was made"):
        back_up(settings, engine, tmp_path / "backup", by="me")
    assert not (tmp_path / "backup").exists()


def test_a_backup_of_an_earlier_schema_is_brought_to_todays(
    make_world: Callable[..., Any], tmp_path: Path, elsewhere: Callable[..., Any]
) -> None:
    settings, engine = world = make_world()
    command.downgrade(alembic_config(settings.url), "0013")
    back_up(settings, engine, tmp_path / "backup", by="me")
    other = elsewhere(world)
    restore(other.settings, tmp_path / "backup")
    check_at_head(other.engine)


@pytest.mark.sqlite
def test_a_backup_is_in_the_audit_log_and_made_of_a_database_that_takes_no_more_too(
    make_world: Callable[..., Any], tmp_path: Path
) -> None:
    settings, engine = make_world()

    def told() -> list[tuple[str, Any]]:
        with reading(engine) as session:
            entries = session.scalars(select(AuditEntry).where(AuditEntry.act == Act.BACKED_UP))
            return [(entry.by, entry.about["head"]) for entry in entries]

    back_up(settings, engine, tmp_path / "first", by="me")
    assert told() == [("me", 1)]
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
    back_up(settings, engine, tmp_path / "second", by="me")
    assert (tmp_path / "second" / "lorewright.db").exists()
    assert told() == [("me", 1)]


def test_what_cannot_be_backed_up_leaves_nothing_behind(
    make_world: Callable[..., Any], tmp_path: Path
) -> None:
    settings, engine = make_world()
    to = tmp_path / "backup"
    to.mkdir()
    with pytest.raises(Conflict, match="is there already"):
        back_up(settings, engine, to, by="me")
    to.rmdir()
    with writing(engine) as session:
        session.add(
            Erasure(fact_ids=[1], reason="r", requested_by="me", requested_at=datetime.now(UTC))
        )
    with pytest.raises(Conflict, match="An erasure is not complete"):
        back_up(settings, engine, to, by="me")
    with writing(engine) as session:
        session.delete(session.scalars(select(Erasure)).one())
    weights = next((settings.state_dir / "base").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match="is corrupt"):
        back_up(settings, engine, to, by="me")
    assert not to.exists()
    assert list(tmp_path.glob("*.partial")) == []


def test_a_backup_that_was_touched_or_has_no_room_is_refused_and_changes_nothing(
    make_world: Callable[..., Any], tmp_path: Path, elsewhere: Callable[..., Any]
) -> None:
    world = make_world()
    back_up(world.settings, world.engine, tmp_path / "backup", by="me")
    with pytest.raises(Conflict, match="restore into an empty one"):
        restore(world.settings, tmp_path / "backup")
    other = elsewhere(world)
    (tmp_path / "backup" / "pepper").write_bytes(b"x" * 32)
    with pytest.raises(ArtefactError, match="pepper is corrupt"):
        restore(other.settings, tmp_path / "backup")
    assert not other.settings.state_dir.exists()
    with pytest.raises(ArtefactError, match="is no backup"):
        restore(other.settings, world.settings.state_dir / "base")
    with pytest.raises(ArtefactError, match=r"has no manifest\.json"):
        restore(other.settings, tmp_path)


@pytest.mark.sqlite
@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
def test_a_log_that_is_left_of_another_database_is_not_played_into_a_restored_one(
    make_world: Callable[..., Any], elsewhere: Callable[..., Any], tmp_path: Path, end: str
) -> None:
    world = make_world()
    back_up(world.settings, world.engine, tmp_path / "backup", by="me")
    other = elsewhere(world)
    other.settings.state_dir.mkdir()
    left = other.settings.state_dir / f"lorewright.db{end}"
    left.write_bytes(b"pages of another database")
    with pytest.raises(Conflict, match=f"There is a database at .*{end} already"):
        restore(other.settings, tmp_path / "backup")
    assert left.read_bytes() == b"pages of another database"
    left.unlink()
    assert restore(other.settings, tmp_path / "backup").head_release == 1
