"""A disk whose power can be cut, so that what was not on it by then is gone; it can be filled, too.

An ext4 filesystem in a file, mounted over a loop device. The ioctl EXT4_IOC_SHUTDOWN with its flag
NOLOGFLUSH (linux/fs/ext4/ext4.h) stops it as a power cut does: the journal is not written out,
every call fails from then on, and the next mount finds what had reached the disk. Needs root, loop
devices and mkfs.ext4.
"""

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2
SIZE = 1 << 30  #: of the file, which has holes
WITHIN_S = 30.0
BALLAST = "ballast"


class NoDisk(Exception):
    """Such a disk cannot be had here."""


class Disk:
    """One filesystem, mounted at `at`."""

    def __init__(self, image: Path, at: Path) -> None:
        self.image, self.at = image, at

    def mount(self) -> None:
        """Raises NoDisk."""
        _run("mount", "-o", "loop", str(self.image), str(self.at))

    def cut(self) -> None:
        """From now on nothing reaches it any more."""
        folder = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(folder)

    def fill(self, *, but: int) -> None:
        """Leave so many bytes free, or fewer."""
        with (self.at / BALLAST).open("wb") as file:
            while True:
                free = os.statvfs(self.at)
                size = free.f_bfree * free.f_frsize - but  # root may use what is kept for it
                if size <= 0:
                    return
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
                    return
                except OSError as error:  # the filesystem needs some of it for itself
                    if error.errno != errno.ENOSPC:
                        raise
                    but += free.f_frsize

    def make_room(self) -> None:
        """As it was before it was filled."""
        (self.at / BALLAST).unlink()

    def unmount(self) -> None:
        """Raises NoDisk where somebody uses it for too long."""
        until = time.monotonic() + WITHIN_S
        while True:
            try:
                return _run("umount", str(self.at))
            except NoDisk:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """A new disk in a folder, mounted. Raises NoDisk where there can be none."""
    image, at = folder / "disk.img", folder / "disk"
    at.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZE)
    if shutil.which("mkfs.ext4") is None:
        raise NoDisk("mkfs.ext4 is not installed")
    _run("mkfs.ext4", "-q", "-F", str(image))
    made = Disk(image, at)
    made.mount()
    try:
        yield made
    finally:
        # Whoever was cut short may still be there, and what went wrong before is what is said.
        subprocess.run(["umount", "--lazy", str(at)], capture_output=True, check=False)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoDisk(f"{command[0]}: {done.stderr.strip() or done.returncode}")
