"""Everything that cannot be made anew, in one folder, while the daemon runs; and the way back.

The database is copied first, in one consistent view. Whatever artefact it names was on the disk
before it was recorded and is never changed, so what is copied after it is at least what it needs.
Composed models, answers and anchors are left out: they are made anew.
"""

import logging
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import URL, Engine, func, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from adapters.errors import ArtefactError
from adapters.store import (
    appearing_new,
    partial_of,
    read_manifest,
    sync,
    verify,
    write_manifest,
)
from service import audit, lineage
from service.audit import Act
from service.auth import PEPPER
from service.db import opened, reading, upgrade, writing
from service.errors import Conflict
from service.fsck import check
from service.models import Adapter, Erasure
from service.places import Places
from service.settings import Settings

log = logging.getLogger(__name__)
SQLITE, POSTGRESQL = "lorewright.db", "lorewright.pgdump"
SECRETS = (PEPPER, "webhook_secret")
TOOLS_TIMEOUT_S = 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What a backup holds."""

    folder: str
    head_release: int
    adapters: int
    bytes: int


def back_up(settings: Settings, engine: Engine, to: Path, *, by: str) -> Backup:
    """Write a folder with all that a restore needs. It appears whole or not at all.

    That it was made is in the audit log, but for a database that cannot be written to: a backup is
    wanted then most of all. Raises Conflict where the folder is there already or an erasure is
    under way, ArtefactError for a damaged artefact, StorageFull, and OSError where PostgreSQL's own
    programs cannot be run.
    """
    if to.exists():
        raise Conflict(f"{to} is there already; name a folder that is not.")
    places = Places(settings.state_dir)
    with reading(engine) as session:
        _refuse_while_erasing(session)
    with appearing_new(to) as partial:
        partial.chmod(0o700)  # the pepper and the webhook's secret are in it
        _copy_database(engine, partial)
        with reading(engine) as session:
            _refuse_while_erasing(session)
            erasures = _newest_erasure(session)
            head = lineage.read_head(session).release_id
            base = lineage.read_head(session).recipe.base_digest
            kept = select(Adapter.digest).where(Adapter.erased_at.is_(None))
            digests = sorted(set(session.scalars(kept)))
        _copy_artefact(places.base, partial / "base", base)
        for digest in digests:
            folder = places.adapter(digest)
            _copy_artefact(folder, partial / "adapters" / folder.name, digest)
        for name in SECRETS:
            if (settings.state_dir / name).exists():
                shutil.copy2(settings.state_dir / name, partial / name)
        write_manifest(partial, kind="backup", about={"head": head, "adapters": digests})
        with reading(engine) as session:  # copying takes long
            _refuse_while_erasing(session)
            if _newest_erasure(session) != erasures:
                raise Conflict(
                    "Facts were erased while the backup was made, and it would keep them; make it "
                    "again."
                )
        size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
    try:
        with writing(engine) as session:
            about = {"head": head, "adapters": len(digests), "bytes": size}
            audit.record(session, Act.BACKED_UP, by=by, about=about, now=datetime.now(UTC))
    except SQLAlchemyError as error:
        log.warning("the backup is made; that it was could not be written down: %s", error)
    return Backup(folder=str(to), head_release=head, adapters=len(digests), bytes=size)


def _newest_erasure(session: Session) -> int | None:
    return session.scalar(select(func.max(Erasure.id)))


def _refuse_while_erasing(session: Session) -> None:
    if session.scalar(select(Erasure.id).where(Erasure.completed_at.is_(None)).limit(1)):
        raise Conflict(
            "An erasure is not complete yet, and the backup would keep what is to go: "
            "`lorewright erasures list`."
        )


def restore(settings: Settings, source: Path) -> Backup:
    """Make a state directory, and the database of the settings, what they were at a backup.

    Raises ArtefactError for a backup that is not whole, Conflict where there is anything in the
    place of what it holds, or the result does not hold together.
    """
    manifest = read_manifest(source)
    if manifest["kind"] != "backup":
        raise ArtefactError(f"{source} is no backup, but of the kind {manifest['kind']!r}.")
    verify(source, digest=str(manifest["digest"]))
    places = Places(settings.state_dir)
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = [
        path.name
        for path in (*(settings.state_dir / name for name in SECRETS), places.base, places.adapters)
        if path.exists()
    ]
    if held:
        raise Conflict(
            f"{settings.state_dir} holds {', '.join(held)} already; restore into an empty one."
        )
    secrets = [name for name in SECRETS if (source / name).exists()]
    for name in secrets:  # first: a database without them would be given others
        shutil.copy2(source / name, settings.state_dir / name)
    try:
        _restore_database(settings, source)
    except BaseException:
        for name in secrets:
            (settings.state_dir / name).unlink()
        raise
    for name in ("base", "adapters"):
        if (source / name).is_dir():
            shutil.copytree(source / name, settings.state_dir / name)
    upgrade(settings.url)  # it may be of an earlier version
    with opened(settings.url) as engine:
        problems = check(settings, engine, fast=False, now=datetime.now(UTC)).problems
        if problems:
            raise Conflict(f"What was restored does not hold together: {' '.join(problems)}")
        with reading(engine) as session:
            head = lineage.read_head(session).release_id
    return Backup(
        folder=str(source),
        head_release=head,
        adapters=len(manifest["about"]["adapters"]),
        bytes=sum(path.stat().st_size for path in source.rglob("*") if path.is_file()),
    )


def _copy_artefact(folder: Path, to: Path, digest: str) -> None:
    shutil.copytree(folder, to)
    verify(to, digest=digest)


def _copy_database(engine: Engine, folder: Path) -> None:
    if engine.url.get_backend_name() == "sqlite":
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("VACUUM INTO ?", (str(folder / SQLITE),))
        finally:
            raw.close()
        return
    arguments = ["--format=custom", "--no-owner", "--no-privileges"]
    _run("pg_dump", engine.url, *arguments, f"--file={folder / POSTGRESQL}")


def _restore_database(settings: Settings, source: Path) -> None:
    with opened(settings.url) as engine:
        if engine.url.get_backend_name() == "sqlite":
            file = Path(str(engine.url.database))
            for end in ("", "-wal", "-shm", "-journal"):  # of another one, SQLite would play it in
                if (left := file.with_name(file.name + end)).exists():
                    raise Conflict(f"There is a database at {left} already; restore into none.")
            if not (source / SQLITE).exists():
                raise Conflict(f"{source} is of PostgreSQL, and database_url names SQLite.")
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = partial_of(file)
            try:
                shutil.copyfile(source / SQLITE, partial)
                sync(partial)
                partial.rename(file)
                sync(file.parent)
            finally:
                partial.unlink(missing_ok=True)
            return
        if inspect(engine).get_table_names():
            raise Conflict("The database has tables already; restore into an empty one.")
        if not (source / POSTGRESQL).exists():
            raise Conflict(f"{source} is of SQLite, and database_url names PostgreSQL.")
        arguments = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
        _run("pg_restore", engine.url, *arguments, str(source / POSTGRESQL))


def _run(program: str, url: URL, *arguments: str) -> None:
    """One of PostgreSQL's programs on the database of the URL, the password not on its line."""
    plain = url.set(drivername="postgresql", password=None)
    password = {"PGPASSWORD": str(url.password)} if url.password else {}
    try:
        subprocess.run(
            [program, f"--dbname={plain.render_as_string()}", *arguments],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **password},
            timeout=TOOLS_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise Conflict(
            f"{program} is not installed; a backup of PostgreSQL is made and restored by it."
        ) from error
    except subprocess.CalledProcessError as error:
        raise Conflict(f"{program} failed: {error.stderr.strip()[-500:]}") from error
