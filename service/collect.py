"""What lies on the disk that nobody needs any more, and its removal.

Adapters stay for ever: with the base they are all that a release is made of. A snapshot is a cache
of one, so those of old heads go, and so does what processes left behind that were killed. Whoever
collects holds the refresh's lease, so no refresh or rebase is under way; a rollback or an approval
holds the lock of the snapshot that it is about to use, and whoever reads one says so: these are
passed over.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from adapters.compose import environment
from adapters.config import BaseConfig
from adapters.errors import ArtefactError
from adapters.store import (
    PARTIAL,
    clear,
    is_read,
    read_manifest,
    writer_if_free,
    written_as,
)
from service import audit, leases, lineage
from service.audit import Act
from service.db import reading, writing
from service.errors import Conflict, LeaseLost, NotFound
from service.models import Adapter, HeadMove, PinnedRelease, Release, ReleaseAdapter
from service.places import DIGEST_CHARACTERS, Places
from service.settings import Settings

log = logging.getLogger(__name__)

#: What is newer may be somebody's who has not written it down yet.
YOUNG_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """One file or folder that may go."""

    path: str  #: under the state directory
    why: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """What may go, or what went."""

    leftovers: tuple[Leftover, ...]
    bytes: int
    kept_releases: tuple[int, ...]  #: whose snapshots stay


def find_leftovers(settings: Settings, engine: Engine, *, now: datetime) -> Collection:
    """What could be removed now; nothing is."""
    with reading(engine) as session:
        kept = needed_releases(session, settings.storage.keep_snapshots)
        found = tuple(_leftovers(settings, session, kept, now=now))
    return _collection(found, kept)


def collect(settings: Settings, engine: Engine) -> Collection:
    """Remove it under the refresh's lease, and say what was.

    Each snapshot's release is looked up once more under the snapshot's lock: a head that moved to
    it since keeps it. Raises LeaseHeld while a refresh runs, LeaseLost when one took over, and
    OSError where the system refuses.
    """
    lease_s = settings.schedule.lease_s
    with writing(engine) as session:
        hold = leases.acquire_refresh(session, now=_now(), lease_s=lease_s)
    try:
        asked = find_leftovers(settings, engine, now=_now())
        gone = []
        for leftover in asked.leftovers:
            with writing(engine) as session:
                leases.renew(session, hold, now=_now(), lease_s=lease_s)
            if _remove(settings, engine, leftover):
                gone.append(leftover)
                log.info("removed %s: %s", leftover.path, leftover.why)
        return _collection(gone, asked.kept_releases)
    finally:
        with writing(engine) as session, suppress(LeaseLost):
            leases.release(session, hold, now=_now())


def _remove(settings: Settings, engine: Engine, leftover: Leftover) -> bool:
    """Whether it was removed: not where somebody writes or reads it, or has come to need it."""
    path = settings.state_dir / leftover.path
    if path.parent != Places(settings.state_dir).snapshots:
        clear(path)
        return True
    snapshot = written_as(path)
    with writer_if_free(snapshot) as is_free:
        if not is_free or is_read(snapshot):
            return False
        still = find_leftovers(settings, engine, now=_now()).leftovers
        if leftover.path not in [other.path for other in still]:
            return False
        clear(path)
    return True


def _now() -> datetime:
    return datetime.now(UTC)


def _collection(leftovers: Sequence[Leftover], kept: tuple[int, ...]) -> Collection:
    return Collection(
        leftovers=tuple(leftovers),
        bytes=sum(leftover.bytes for leftover in leftovers),
        kept_releases=kept,
    )


def needed_releases(session: Session, earlier: int) -> tuple[int, ...]:
    """The head, so many releases that were the head before, the newest first, and the pinned."""
    head = lineage.read_head(session).release_id
    parts = select(ReleaseAdapter.release_id).join(Adapter, Adapter.id == ReleaseAdapter.adapter_id)
    before = session.scalars(
        select(HeadMove.release_id)
        .where(
            HeadMove.release_id != head,
            HeadMove.release_id.in_(parts),  # the base alone has no snapshot
            HeadMove.release_id.not_in(parts.where(Adapter.erased_at.is_not(None))),
        )
        .group_by(HeadMove.release_id)
        .order_by(func.max(HeadMove.seq).desc())
        .limit(earlier)
    ).all()
    pinned = session.scalars(select(PinnedRelease.release_id)).all()
    return tuple(sorted({head, *before, *pinned}))


def _leftovers(
    settings: Settings, session: Session, kept: tuple[int, ...], *, now: datetime
) -> Iterator[Leftover]:
    places = Places(settings.state_dir)
    releases = {
        release.recipe_digest[:DIGEST_CHARACTERS]: release
        for release in session.scalars(select(Release))
    }
    were_head = set(session.scalars(select(HeadMove.release_id)))
    served = places.current.resolve()
    for path in _inside(places.snapshots):
        if not path.is_dir() or path.resolve() == served:
            continue  # locks and stamps go with their folder, or stay
        release = releases.get(path.name)
        if release is None:
            if _is_old(path, now):
                yield _leftover(places, path, "no release is composed so")
        elif release.id in kept or not _comes_again(path, settings.base):
            continue
        elif release.id in were_head or _is_old(path, now):  # or a rebase is about to need it
            yield _leftover(places, path, f"release {release.id} can be composed again")
    weights = {release.snapshot_digest[:DIGEST_CHARACTERS] for release in releases.values()}
    for path in _inside(places.answers):
        if path.name.partition("-")[0] not in weights and _is_old(path, now):
            yield _leftover(places, path, "no release answers so")
    for path in _inside(places.candidates):
        if _is_old(path, now):
            yield _leftover(places, path, "whoever wrote it is gone")
    for folder in (places.adapters, places.state_dir):
        for path in _inside(folder):
            if path.name.endswith(PARTIAL) and _is_old(path, now):
                yield _leftover(places, path, "whoever wrote it is gone")


def _comes_again(snapshot: Path, described: BaseConfig) -> bool:
    """Whether composing it here and now would give the same bits, or it is of no use as it is."""
    try:
        return bool(read_manifest(snapshot)["about"]["composed_in"] == environment(described))
    except ArtefactError:
        return True
    except (KeyError, TypeError):  # composed before this was written down
        return False


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_old(path: Path, now: datetime) -> bool:
    try:
        return now.timestamp() - path.lstat().st_mtime > YOUNG_S
    except FileNotFoundError:  # whoever wrote it has finished
        return False


def _leftover(places: Places, path: Path, why: str) -> Leftover:
    sizes = []
    for part in [path, *(() if path.is_symlink() else path.rglob("*"))]:
        with suppress(FileNotFoundError):  # it went meanwhile
            seen = part.lstat()
            sizes.append(seen.st_size if S_ISREG(seen.st_mode) else 0)
    return Leftover(path=path.relative_to(places.state_dir).as_posix(), why=why, bytes=sum(sizes))


# --- pinned releases --------------------------------------------------------------------------


def pin_release(
    session: Session, release_id: int, *, by: str, reason: str, now: datetime
) -> PinnedRelease:
    """Keep a release's composed model.

    Raises NotFound, or Conflict where it is pinned already or an erasure took a part of it.
    """
    lineage.recipe_of(session, release_id)  # says so where there is none
    lineage.check_not_erased(session, release_id)
    held = session.get(PinnedRelease, release_id)
    if held is not None:
        raise Conflict(f"Release {release_id} is pinned already: {held.reason}")
    row = PinnedRelease(release_id=release_id, reason=reason, pinned_by=by, pinned_at=now)
    session.add(row)
    session.flush()
    audit.record(session, Act.RELEASE_PINNED, by=by, about={"release": release_id}, now=now)
    return row


def unpin_release(session: Session, release_id: int, *, by: str, now: datetime) -> None:
    """Let it go when its time comes. Raises NotFound where it is not pinned."""
    row = session.get(PinnedRelease, release_id)
    if row is None:
        raise NotFound(f"Release {release_id} is not pinned.")
    session.delete(row)
    audit.record(session, Act.RELEASE_UNPINNED, by=by, about={"release": release_id}, now=now)
