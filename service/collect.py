"""What lies on the disk that nobody needs any more, and its removal.

Adapters stay for ever: with the base they are all that a release is made of. A snapshot is a cache
of one, so those of old heads go, and so does what processes left behind that were killed. Whoever
collects holds the refresh's lease, so no refresh or rebase is under way; a rollback, an approval
and an export hold the lock of the snapshot that they are about to use, and it is passed over.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from adapters.store import clear, writer_if_free
from service import leases, lineage
from service.db import reading, writing
from service.errors import Conflict, NotFound
from service.models import HeadMove, PinnedRelease, Release
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
    places = Places(settings.state_dir)
    with reading(engine) as session:
        kept = needed_releases(session, settings.storage.keep_snapshots)
        found = tuple(_leftovers(places, session, kept, now=now))
    return _collection(found, kept)


def collect(settings: Settings, engine: Engine, *, now: datetime) -> Collection:
    """Remove it, and say what was. The caller holds the refresh's lease.

    Each snapshot's release is looked up once more under the snapshot's lock: a head that moved to
    it since keeps it. Raises OSError where the system refuses.
    """
    places = Places(settings.state_dir)
    asked = find_leftovers(settings, engine, now=now)
    gone = []
    for leftover in asked.leftovers:
        path = settings.state_dir / leftover.path
        if path.is_file():
            path.unlink(missing_ok=True)
        elif path.parent != places.snapshots:
            clear(path)
        else:
            with writer_if_free(path) as is_free:
                still = find_leftovers(settings, engine, now=now).leftovers if is_free else ()
                if leftover not in still:
                    continue
                clear(path)
        gone.append(leftover)
        log.info("removed %s: %s", leftover.path, leftover.why)
    return _collection(gone, asked.kept_releases)


def _collection(leftovers: Sequence[Leftover], kept: tuple[int, ...]) -> Collection:
    return Collection(
        leftovers=tuple(leftovers),
        bytes=sum(leftover.bytes for leftover in leftovers),
        kept_releases=kept,
    )


def needed_releases(session: Session, earlier: int) -> tuple[int, ...]:
    """The head, so many releases that were the head before, the newest first, and the pinned."""
    newest = func.max(HeadMove.seq)
    heads = session.scalars(
        select(HeadMove.release_id).group_by(HeadMove.release_id).order_by(newest.desc())
    ).all()
    without_base = [head for head in heads[1:] if lineage.recipe_of(session, head).adapter_ids]
    pinned = session.scalars(select(PinnedRelease.release_id)).all()
    return tuple(sorted({heads[0], *without_base[:earlier], *pinned}))


def _leftovers(
    places: Places, session: Session, kept: tuple[int, ...], *, now: datetime
) -> Iterator[Leftover]:
    releases = {
        release.recipe_digest[:DIGEST_CHARACTERS]: release
        for release in session.scalars(select(Release))
    }
    for path in _inside(places.snapshots):
        if not path.is_dir():
            continue  # locks and stamps go with their folder, or stay
        release = releases.get(path.name)
        if release is None:
            if _is_old(path, now):
                yield _leftover(places, path, "no release is composed so")
        elif release.id not in kept:
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
            if path.name.endswith(".partial") and _is_old(path, now):
                yield _leftover(places, path, "whoever wrote it is gone")


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_old(path: Path, now: datetime) -> bool:
    try:
        return now.timestamp() - path.lstat().st_mtime > YOUNG_S
    except FileNotFoundError:  # whoever wrote it has finished
        return False


def _leftover(places: Places, path: Path, why: str) -> Leftover:
    parts = [path] if path.is_file() else path.rglob("*")
    return Leftover(
        path=path.relative_to(places.state_dir).as_posix(),
        why=why,
        bytes=sum(part.lstat().st_size for part in parts if part.is_file()),
    )


def collect_alone(settings: Settings, engine: Engine, *, now: datetime) -> Collection:
    """The same with the refresh's lease taken for it. Raises LeaseHeld while a refresh runs."""
    owner, lease_s = leases.this_process(), settings.schedule.lease_s
    with writing(engine) as session:
        hold = leases.acquire(session, leases.REFRESH, owner=owner, now=now, lease_s=lease_s)
    try:
        return collect(settings, engine, now=now)
    finally:
        with writing(engine) as session:
            leases.release(session, hold, now=now)


# --- pinned releases --------------------------------------------------------------------------


def pin_release(
    session: Session, release_id: int, *, by: str, reason: str, now: datetime
) -> PinnedRelease:
    """Keep a release's composed model. Raises NotFound, or Conflict where it is pinned already."""
    lineage.recipe_of(session, release_id)  # says so where there is none
    held = session.get(PinnedRelease, release_id)
    if held is not None:
        raise Conflict(f"Release {release_id} is pinned already: {held.reason}")
    row = PinnedRelease(release_id=release_id, reason=reason, pinned_by=by, pinned_at=now)
    session.add(row)
    session.flush()
    return row


def unpin_release(session: Session, release_id: int) -> None:
    """Let it go when its time comes. Raises NotFound where it is not pinned."""
    row = session.get(PinnedRelease, release_id)
    if row is None:
        raise NotFound(f"Release {release_id} is not pinned.")
    session.delete(row)
    session.flush()
