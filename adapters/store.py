"""Artefacts on disk: folders that appear whole or not at all, each with a manifest and a digest.

A folder is written under a name of its writer's own that ends in `.partial`, every file flushed to
the disk, the manifest last, and then renamed. The digest covers the bytes of every file but the
manifest, so it can be recomputed from the folder alone; safetensors itself has no checksum.
"""

import errno
import glob
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adapters.errors import ArtefactError, StorageFull

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PARTIAL = ".partial"  #: behind the name of what is still being written
MARK = re.compile(r"\.(\d+)-[0-9a-f]{8}(-old)?")  #: before that, of a process and what it does
STUCK_S = 30.0  #: without a change in what somebody writes, until others go on beside it
LOOK_S = 1.0  #: from one look at it to the next
CHUNK_BYTES = 1 << 20


def canonical_digest(value: Any) -> str:
    """sha256 of a value's canonical JSON form, in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def file_digests(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """sha256 by relative name of every file in the folder but the manifest; the known unread.

    Raises ArtefactError for anything that is not a plain file, so a link cannot lead outside.
    """
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ArtefactError(f"{path} is not a plain file; an artefact holds nothing else.")
        if path.is_file() and path.name != MANIFEST:
            name = path.relative_to(folder).as_posix()
            digests[name] = (known or {}).get(name) or file_digest(path)
    return digests


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Wait for whoever else writes this folder, and let others wait; a process that dies lets go.

    Who waited may find there what it was going to make, so look again inside. Re-entrant.

    It saves work, and nothing is safe because of it: a process that was stopped, or that hangs,
    holds it for ever. Where what it writes has not changed for STUCK_S, others go on beside it, and
    it may wake up at any moment.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_of(folder), is_singleton=True)
    is_owner = _acquired_or_stuck(lock, folder)
    try:
        yield
    finally:
        if is_owner:
            lock.release()


def _acquired_or_stuck(lock: FileLock, folder: Path) -> bool:
    seen: dict[str, list[int]] = {}
    since = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=LOOK_S)
            return True
        except Timeout:
            pass
        looks: dict[str, list[int]] = {}
        with suppress(FileNotFoundError):  # it is at work: something went while it was looked at
            for partial in _partials(folder):
                for name, look in _looks(partial).items():
                    looks[f"{partial.name}/{name}"] = look
        if looks != seen:
            seen, since = looks, time.monotonic()
        elif time.monotonic() - since > STUCK_S:
            log.warning(
                "whoever writes %s has written nothing for %g s; this process goes on beside it",
                folder,
                STUCK_S,
            )
            return False


@contextmanager
def writer_if_free(folder: Path) -> Iterator[bool]:
    """The same without waiting: whether nobody else writes this folder, or needs it as it is."""
    lock = FileLock(_lock_of(folder), is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def one_reader(folder: Path) -> Iterator[None]:
    """Let others know that this process reads the folder; a process that dies lets go.

    Readers keep nobody out; whoever removes folders asks `is_read` under the writer's lock.
    """
    mark = folder.with_name(f"{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.reader")
    mark.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(mark):
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)


def is_read(folder: Path) -> bool:
    """Whether any process reads the folder now. What dead ones left behind is removed."""
    for mark in folder.parent.glob(f"{glob.escape(folder.name)}.*.reader"):
        try:
            with FileLock(mark, timeout=0):
                mark.unlink(missing_ok=True)
        except Timeout:
            return True
    return False


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Give a `.partial` folder to write into; it becomes `folder` only if the block ends well.

    Raises StorageFull when the disk filled up, and leaves nothing half-written behind either way.
    A folder that is there already is replaced. One process at a time: others wait, unless it is
    stuck; then whoever ends last has written what is there.
    """
    with _full_disk_told(folder), one_writer(folder):
        clear_partials_of_the_dead(folder)
        partial = partial_of(folder)
        with _made_for_now(partial):
            yield partial
            _sync_all(partial)
            _put_in_place(partial, folder)
            sync(folder.parent)


def _put_in_place(partial: Path, folder: Path) -> None:
    """Rename it, and what is there out of its way first: at no moment is half of one there."""
    aside = partial.with_name(f"{partial.name.removesuffix(PARTIAL)}-old{PARTIAL}")
    while True:
        try:
            partial.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with suppress(FileNotFoundError):
            folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def written_as(partial: Path) -> Path:
    """What a folder that is still being written is to become; any other path is that itself."""
    if not partial.name.endswith(PARTIAL):
        return partial
    name = partial.name.removesuffix(PARTIAL)
    mark = list(MARK.finditer(name))
    return partial.with_name(name[: mark[-1].start()] if mark else name)


def partial_of(folder: Path, *, hidden: bool = False) -> Path:
    """A name beside it of this process's own, for what is to be renamed to it."""
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    return folder.with_name(f"{'.' if hidden else ''}{folder.name}.{mark}{PARTIAL}")


def _partials(folder: Path, *, hidden: bool = False) -> list[Path]:
    """What is being written to become the folder, by whoever."""
    name = f"{'.' if hidden else ''}{glob.escape(folder.name)}"
    return sorted(folder.parent.glob(f"{name}.*{PARTIAL}"))


def clear_partials_of_the_dead(path: Path, *, hidden: bool = False) -> None:
    """Remove what processes of this machine left that were killed while they wrote it."""
    for left in _partials(path, hidden=hidden):
        mark = list(MARK.finditer(left.name))
        if mark and not is_alive(int(mark[-1].group(1))):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


@contextmanager
def appearing_new(folder: Path) -> Iterator[Path]:
    """The same for a folder that is not there yet, in a place of somebody else's.

    Nothing else is left there, and nobody waits: of two processes the later one raises
    ArtefactError. What killed ones left goes with the next that writes the same folder.
    """
    clear_partials_of_the_dead(folder, hidden=True)
    partial = partial_of(folder, hidden=True)
    with _full_disk_told(folder), _made_for_now(partial):
        yield partial
        _sync_all(partial)
        try:
            partial.rename(folder)  # onto one that has something in it, this fails
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise ArtefactError(f"{folder} came to be there meanwhile; it stays.") from error
            raise
        sync(folder.parent)


@contextmanager
def _made_for_now(partial: Path) -> Iterator[None]:
    """Let a folder be there for the block and, under this name, no longer."""
    try:
        partial.mkdir(parents=True)
        yield
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """Raises StorageFull for whatever says that the disk is full."""
    try:
        yield
    except BaseException as error:
        if is_disk_full(error):
            raise StorageFull(
                f"The disk is full: {folder.name} could not be written under {folder.parent}. "
                "Free some space there and start again; what was there before is unharmed."
            ) from error
        raise


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # the latter is none at all
        return False
    except PermissionError:  # it is somebody else's
        pass
    return True


def _sync_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)
    sync(folder)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk or quota is used up; safetensors says so in words."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "os error 28" in str(error) or "No space left on device" in str(error)


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_manifest(
    folder: Path, *, kind: str, about: dict[str, Any], digests: Mapping[str, str] | None = None
) -> str:
    """Write the manifest beside the files it lists, and return the folder's digest.

    Files whose `digests` by name are known from writing them are not read.
    """
    files = file_digests(folder, digests)
    digest = canonical_digest(files)
    manifest = {
        "kind": kind,
        "digest": digest,
        "files": files,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "about": about,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return digest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an artefact. Raises ArtefactError when it is missing or unreadable."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtefactError(
            f"{folder} has no {MANIFEST}: it is not a complete artefact."
        ) from error
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}.") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ArtefactError(f"{path} is not a manifest of this project.")
    return manifest


def verify(folder: Path, *, digest: str) -> dict[str, Any]:
    """Read every byte of an artefact and compare; return its manifest.

    Raises ArtefactError that names the first file that is missing, added or changed.
    """
    manifest = read_manifest(folder)
    listed, found = manifest["files"], file_digests(folder)
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            raise ArtefactError(f"{folder / name} is missing.")
        if name not in listed:
            raise ArtefactError(f"{folder / name} is not part of this artefact.")
        if listed[name] != found[name]:
            raise ArtefactError(
                f"{folder / name} is corrupt: its sha256 is {found[name][:12]}…, "
                f"the manifest says {listed[name][:12]}…."
            )
    if canonical_digest(found) != digest:
        raise ArtefactError(f"{folder} is intact but another artefact than the one recorded.")
    return manifest


def verify_and_stamp(folder: Path, *, digest: str) -> None:
    """Verify an artefact, and note beside it how its files looked before: size, times, inode.

    Raises what `verify` raises. Where nothing can be written, nothing is noted.
    """
    looks = _looks(folder)
    verify(folder, digest=digest)
    _stamp(folder, digest, looks)


def stamp_new(folder: Path, digest: str) -> None:
    """The same for an artefact that was just written and has been read for its digest."""
    _stamp(folder, digest, _looks(folder))


def _stamp(folder: Path, digest: str, looks: dict[str, list[int]]) -> None:
    stamp = _stamp_of(folder)
    partial = stamp.with_name(f"{stamp.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(json.dumps({"digest": digest, "files": looks}), encoding="utf-8")
        partial.replace(stamp)
    except OSError as error:
        log.warning("%s could not be noted as verified: %s", folder, error)


def discard(folder: Path) -> None:
    """Remove a folder that nobody else writes, and what stands beside it for it."""
    shutil.rmtree(folder, ignore_errors=True)
    _stamp_of(folder).unlink(missing_ok=True)
    _lock_of(folder).unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove a folder, file or link, and its stamp; its lock stays, as others may wait for it.

    Raises OSError where the system refuses.
    """
    _stamp_of(folder).unlink(missing_ok=True)
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)


def is_as_stamped(folder: Path, digest: str) -> bool:
    """Whether a folder looks as it did when it was last verified to have this digest.

    No byte of the files is read, so this takes no longer for a large model. Whoever writes to a
    file changes its times; a disk that lost bits by itself is not found out, as `verify` does.
    """
    try:
        stamped = json.loads(_stamp_of(folder).read_text(encoding="utf-8"))
        return bool(stamped == {"digest": digest, "files": _looks(folder)})
    except (OSError, ValueError):
        return False


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _stamp_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.verified")


def _looks(folder: Path) -> dict[str, list[int]]:
    found = {path.relative_to(folder).as_posix(): path.lstat() for path in folder.rglob("*")}
    return {
        name: [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino]
        for name, seen in sorted(found.items())
    }


def copy_plain(source: Path, target: Path) -> None:
    """Copy one file's bytes, following a link to them (a hub cache consists of links)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target, follow_symlinks=True)
