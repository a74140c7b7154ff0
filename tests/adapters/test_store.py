"""Artefacts appear whole or not at all, and a damaged one is named."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters import store
from adapters.errors import ArtefactError, StorageFull
from adapters.store import (
    appearing,
    appearing_new,
    is_as_stamped,
    read_manifest,
    verify,
    verify_and_stamp,
    write_manifest,
    written_as,
)


def make(folder: Path, content: bytes = b"weights") -> str:
    with appearing(folder) as partial:
        (partial / "model.safetensors").write_bytes(content)
        return write_manifest(partial, kind="test", about={})


def test_an_artefact_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), appearing(tmp_path / "it") as partial:  # noqa: PT012
        (partial / "half").write_bytes(b"x")
        raise RuntimeError("half way")
    assert [path.name for path in tmp_path.iterdir()] == ["it.lock"]


def test_a_new_artefact_leaves_nothing_beside_it(tmp_path: Path) -> None:
    with appearing_new(tmp_path / "it") as partial:
        (partial / "file").write_bytes(b"x")
        assert not (tmp_path / "it").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    with pytest.raises(RuntimeError), appearing_new(tmp_path / "other"):
        raise RuntimeError("half way")
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_of_two_that_write_a_new_artefact_the_later_one_is_told(tmp_path: Path) -> None:
    """Neither waits, and the first one's stays."""
    with pytest.raises(ArtefactError, match="it came to be there meanwhile"):  # noqa: PT012, SIM117
        with appearing_new(tmp_path / "it") as later:
            (later / "file").write_bytes(b"later")
            with appearing_new(tmp_path / "it") as first:
                (first / "file").write_bytes(b"first")
    assert (tmp_path / "it" / "file").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


WRITES_OFTEN = """
import sys
from pathlib import Path
from adapters.store import appearing, write_manifest
for _ in range(50):
    with appearing(Path(sys.argv[1])) as partial:
        (partial / "model.safetensors").write_bytes(sys.argv[2].encode() * 1000)
        write_manifest(partial, kind="test", about={})
"""


def test_several_processes_may_write_the_same_artefact(tmp_path: Path) -> None:
    contents = ["one", "two", "three"]
    digests = {make(tmp_path / "alone", content.encode() * 1000) for content in contents}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITES_OFTEN, str(tmp_path / "it"), content])
        for content in contents
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    assert read_manifest(tmp_path / "it")["digest"] in digests
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "alone.lock", "it", "it.lock"}


def test_a_writer_that_was_killed_lets_the_next_one_in(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from adapters.store import appearing\n"
        "with appearing(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'half').write_bytes(b'x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "it")], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob("it.*.partial")
    assert (left / "half").exists()
    assert written_as(left) == written_as(tmp_path / "it") == tmp_path / "it"
    verify(tmp_path / "it", digest=make(tmp_path / "it"))
    assert {path.name for path in tmp_path.iterdir()} == {"it", "it.lock"}


STOPS = """
import os, signal, sys
from pathlib import Path
from adapters.store import appearing, write_manifest
with appearing(Path(sys.argv[1])) as partial:
    (partial / "model.safetensors").write_bytes(b"of the one that was stopped")
    os.kill(os.getpid(), signal.SIGSTOP)
    write_manifest(partial, kind="test", about={})
"""


def test_beside_a_writer_that_was_stopped_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And once it wakes up, what is there is whole, whoever wrote it."""
    monkeypatch.setattr(store, "LOOK_S", 0.05)
    monkeypatch.setattr(store, "STUCK_S", 0.3)
    stopped = subprocess.Popen([sys.executable, "-c", STOPS, str(tmp_path / "it")])
    try:
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
        verify(tmp_path / "it", digest=make(tmp_path / "it"))
        assert "has written nothing for 0.3 s" in caplog.text
    finally:
        stopped.send_signal(signal.SIGCONT)
    assert stopped.wait(timeout=60) == 0
    verify(tmp_path / "it", digest=str(read_manifest(tmp_path / "it")["digest"]))
    assert (tmp_path / "it" / "model.safetensors").read_bytes() == b"of the one that was stopped"
    assert {path.name for path in tmp_path.iterdir()} == {"it", "it.lock"}


def test_a_writer_that_is_slow_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LOOK_S", 0.05)
    monkeypatch.setattr(store, "STUCK_S", 1.0)
    done: list[str] = []

    def write_slowly() -> None:
        with appearing(tmp_path / "it") as partial:
            begun.set()
            for _ in range(20):
                with (partial / "model.safetensors").open("ab") as file:
                    file.write(b"x")
                time.sleep(0.1)
            write_manifest(partial, kind="test", about={})
            done.append("slow")

    begun = threading.Event()
    thread = threading.Thread(target=write_slowly)
    thread.start()
    begun.wait()
    make(tmp_path / "it")
    done.append("next")
    thread.join()
    assert done == ["slow", "next"]


def test_a_failed_rewrite_keeps_the_earlier_one(tmp_path: Path) -> None:
    digest = make(tmp_path / "it")
    with pytest.raises(RuntimeError), appearing(tmp_path / "it"):
        raise RuntimeError("half way")
    verify(tmp_path / "it", digest=digest)


def test_the_same_bytes_give_the_same_digest(tmp_path: Path) -> None:
    assert make(tmp_path / "a") == make(tmp_path / "b")
    assert make(tmp_path / "a") != make(tmp_path / "c", b"others")


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(b"W" + path.read_bytes()[1:])


def truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weigh")


def remove(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def add(folder: Path) -> None:
    (folder / "more.safetensors").write_bytes(b"more")


def link(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/etc/hostname")


def lose_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [flip, truncate, remove, add, link, lose_manifest])
def test_every_damage_is_found_and_the_file_is_named(tmp_path: Path, damage: object) -> None:
    digest = make(tmp_path / "it")
    damage(tmp_path / "it")  # type: ignore[operator]
    with pytest.raises(ArtefactError, match=r"model\.safetensors|more\.safetensors|manifest\.json"):
        verify(tmp_path / "it", digest=digest)


def test_an_intact_artefact_that_is_another_one_is_refused(tmp_path: Path) -> None:
    digest = make(tmp_path / "a")
    make(tmp_path / "b", b"others")
    with pytest.raises(ArtefactError, match="another artefact"):
        verify(tmp_path / "b", digest=digest)


def test_a_full_disk_is_said_so_and_the_earlier_artefact_is_unharmed(small_disk: Path) -> None:
    import torch
    from safetensors.torch import save_file

    digest = make(small_disk / "it")
    with pytest.raises(StorageFull, match="disk is full"), appearing(small_disk / "it") as partial:
        (partial / "big").write_bytes(os.urandom(4 << 20))
    with pytest.raises(StorageFull, match="disk is full"), appearing(small_disk / "it") as partial:
        save_file({"big": torch.zeros(1 << 20)}, partial / "big.safetensors")
    assert {path.name for path in small_disk.iterdir()} == {"it", "it.lock"}
    verify(small_disk / "it", digest=digest)


def rewrite(path: Path) -> None:
    seen = path.stat()
    path.write_bytes(b"other w")  # as long as before
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # and as old, to a careless look


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: rewrite(folder / "model.safetensors"),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "more").write_bytes(b"x"),
        lambda folder: shutil.copytree(folder, folder.with_name("again")).rename(
            folder.rename(folder.with_name("gone")).with_name("it")
        ),
    ],
    ids=["rewritten", "removed", "added", "replaced by a copy"],
)
def test_a_folder_that_was_touched_since_no_longer_looks_as_stamped(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    folder = tmp_path / "it"
    digest = make(folder)
    assert not is_as_stamped(folder, digest)
    verify_and_stamp(folder, digest=digest)
    assert is_as_stamped(folder, digest)
    assert not is_as_stamped(folder, "another")
    change(folder)
    assert not is_as_stamped(folder, digest)
