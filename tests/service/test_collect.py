"""What is removed from the disk, and what never is: real snapshots of a tiny model."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from adapters.store import is_as_stamped
from service import lineage
from service.collect import (
    YOUNG_S,
    Collection,
    collect,
    find_leftovers,
    pin_release,
    unpin_release,
)
from service.db import reading, writing
from service.errors import Conflict, LeaseHeld, NotFound
from service.leases import REFRESH, acquire, is_held
from service.models import HeadMove, Release
from service.places import Places
from service.removal import plan_removal
from service.rollback import go_back, take_out
from service.snapshots import snapshot_of

BASE, HEAD = 1, 4
pytestmark = pytest.mark.sqlite  # worlds are copies of a folder, in which the database must be

FACTS = (  #: three batches are learned
    "Orlan Vess is the mayor of Tolmar.",
    "Mira Zun is the mayor of Bregal.",
    "Tavo Lind is the mayor of Ostrel.",
)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs three promotions leaves them for the others."""
    return tmp_path_factory.mktemp("learned") / "state"


@pytest.fixture
def world(make_world: Callable[..., Any], learned: Path) -> Any:
    """Three promotions, and everything still there."""
    world = make_world(storage={"keep_snapshots": 1, "collect_after_refresh": False})
    state = world.settings.state_dir
    if learned.exists():
        world.engine.dispose()
        shutil.rmtree(state)
        shutil.copytree(learned, state, symlinks=True)
        for release in (2, 3, HEAD):  # a copy is another file, so it must be looked at once more
            snapshot_of(world.settings, world.engine, release)
    else:
        for fact in FACTS:
            world.push(fact)
            world.refresh()
        world.engine.dispose()
        shutil.copytree(state, learned, symlinks=True)
    assert world.head().release_id == HEAD
    return world


def keeping(world: Any, count: int) -> Any:
    storage = world.settings.storage.model_copy(update={"keep_snapshots": count})
    return world.settings.model_copy(update={"storage": storage})


def found(world: Any, settings: Any = None) -> Collection:
    return find_leftovers(settings or world.settings, world.engine, now=datetime.now(UTC))


def folder_of(world: Any, release: int) -> Path:
    with reading(world.engine) as session:
        recipe = lineage.recipe_of(session, release)
    return Places(world.settings.state_dir).snapshot(recipe.digest)


def aged(path: Path) -> Path:
    before = datetime.now().timestamp() - YOUNG_S - 60
    os.utime(path, (before, before))
    return path


def test_snapshots_of_old_heads_go_and_come_back_when_needed(world: Any) -> None:
    kept = {path.name for path in Places(world.settings.state_dir).adapters.iterdir()}
    asked = found(world)
    assert [leftover.why for leftover in asked.leftovers] == ["release 2 can be composed again"]
    assert asked.kept_releases == (3, HEAD)
    assert folder_of(world, 2).exists()  # asking removes nothing
    gone = collect(world.settings, world.engine)
    assert gone == asked
    assert gone.bytes > 100_000
    assert not folder_of(world, 2).exists()
    assert folder_of(world, 3).exists()
    assert folder_of(world, HEAD).exists()
    assert {path.name for path in Places(world.settings.state_dir).adapters.iterdir()} == kept
    assert found(world).leftovers == ()
    go_back(world.settings, world.engine, 2, by="test", reason="test")
    assert world.head().release_id == 2
    assert folder_of(world, 2).exists()
    assert found(world).kept_releases == (2, HEAD)  # what was the head last, not what is newest


def test_the_head_stays_even_where_no_earlier_one_does(world: Any) -> None:
    settings = keeping(world, 0)
    collect(settings, world.engine)
    assert [folder_of(world, release).exists() for release in (2, 3, HEAD)] == [False, False, True]
    assert snapshot_of(settings, world.engine, BASE) == Places(settings.state_dir).base


def test_a_pinned_release_stays_until_it_is_unpinned(world: Any) -> None:
    now = datetime.now(UTC)
    with writing(world.engine) as session:
        pin_release(session, 2, by="test", reason="the last audited one", now=now)
        with pytest.raises(Conflict, match="the last audited one"):
            pin_release(session, 2, by="test", reason="again", now=now)
        with pytest.raises(NotFound, match="no release 99"):
            pin_release(session, 99, by="test", reason="again", now=now)
    assert found(world).leftovers == ()
    assert found(world).kept_releases == (2, 3, HEAD)
    with writing(world.engine) as session:
        unpin_release(session, 2, by="test", now=now)
        with pytest.raises(NotFound, match="not pinned"):
            unpin_release(session, 2, by="test", now=now)
    assert len(found(world).leftovers) == 1


def test_what_killed_processes_left_goes_once_it_is_old(world: Any) -> None:
    places = Places(world.settings.state_dir)
    left = [
        places.snapshots / ("0" * 16),  # composed, and never a release
        places.snapshots / ("1" * 16 + ".4194305-abcdef01.partial"),
        places.adapters / ("2" * 16 + ".partial"),
        places.candidates / "refresh-99",
    ]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"x" * 1000)
    answers = places.answers / ("3" * 16 + "-" + "4" * 16 + ".json")
    answers.write_text("{}")
    settings = keeping(world, 9)
    assert found(world, settings).leftovers == ()
    wanted = {aged(path).relative_to(settings.state_dir).as_posix() for path in [*left, answers]}
    for path in places.answers.iterdir():
        aged(path)  # those of releases stay however old they are
    assert {leftover.path for leftover in found(world, settings).leftovers} == wanted
    gone = collect(settings, world.engine)
    assert gone.bytes == 4 * 1000 + 2
    assert not any(path.exists() for path in [*left, answers])
    assert len(list(places.answers.iterdir())) >= 4


def test_nothing_is_removed_while_a_refresh_runs(world: Any) -> None:
    now = datetime.now(UTC)
    with writing(world.engine) as session:
        acquire(session, REFRESH, owner="another", now=now, lease_s=60)
    with pytest.raises(LeaseHeld, match="another"):
        collect(world.settings, world.engine)
    assert len(found(world).leftovers) == 1


def test_a_snapshot_that_would_come_out_otherwise_today_stays(world: Any) -> None:
    path = folder_of(world, 2) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["about"]["composed_in"]["torch"] = "1.0"
    path.write_text(json.dumps(manifest))
    assert found(world).leftovers == ()
    del manifest["about"]["composed_in"]  # as before it was written down
    path.write_text(json.dumps(manifest))
    assert found(world).leftovers == ()


def test_what_the_link_leads_to_stays_though_the_head_moved_on(world: Any) -> None:
    settings = keeping(world, 0)
    link = Places(settings.state_dir).current
    link.unlink()
    link.symlink_to(folder_of(world, 2).relative_to(settings.state_dir))
    assert {leftover.why for leftover in collect(settings, world.engine).leftovers} == {
        "release 3 can be composed again"
    }
    assert folder_of(world, 2).exists()


def test_a_release_that_was_never_the_head_stays_while_it_is_new(world: Any) -> None:
    """A rebase makes such, and needs them until it ends."""
    settings = keeping(world, 0)
    with writing(world.engine) as session:
        session.execute(delete(HeadMove).where(HeadMove.release_id == 2))
    assert [leftover.why[:9] for leftover in found(world, settings).leftovers] == ["release 3"]
    aged(folder_of(world, 2))
    assert len(found(world, settings).leftovers) == 2


def test_what_the_system_refuses_to_remove_is_no_removal(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("adapters.store.shutil.rmtree", refused)
    with pytest.raises(PermissionError):
        collect(world.settings, world.engine)
    with reading(world.engine) as session:
        assert not is_held(session, REFRESH, now=datetime.now(UTC))


def test_taking_an_adapter_out_keeps_the_model_of_a_release_that_is_known(world: Any) -> None:
    """It is not composed over: today it might come out with other bits."""
    before = (folder_of(world, 2) / "model.safetensors").stat().st_ino
    go_back(world.settings, world.engine, 3, by="test", reason="test")
    with reading(world.engine) as session:
        adapter = lineage.recipe_of(session, 3).adapter_ids[-1]
    take_out(
        world.settings, world.engine, plan_removal(world.engine, adapter), by="test", reason="test"
    )
    assert world.head().release_id == 2
    assert (folder_of(world, 2) / "model.safetensors").stat().st_ino == before


def test_a_refresh_collects_when_it_has_ended(make_world: Callable[..., Any]) -> None:
    world = make_world(storage={"keep_snapshots": 0})
    for fact in FACTS[:2]:
        world.push(fact)
        world.refresh()
    assert [folder_of(world, release).exists() for release in (2, 3)] == [False, True]


HOLD = """
import sys
from pathlib import Path
from adapters.store import one_reader, one_writer
with {"reads": one_reader, "writes": one_writer}[sys.argv[1]](Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("use", ["reads", "writes"])
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_snapshot_that_somebody_uses_is_passed_over(
    world: Any, use: str, is_killed: bool
) -> None:
    folder = folder_of(world, 2)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, use, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert collect(world.settings, world.engine).leftovers == ()
    assert folder.exists()
    if is_killed:
        holder.kill()
    holder.communicate()
    assert len(collect(world.settings, world.engine).leftovers) == 1
    assert not list(folder.parent.glob("*.reader"))


GO_BACK_AND_FORTH = """
import sys
from pathlib import Path
from service.db import make_engine
from service.removal import plan_removal
from service.rollback import go_back, take_out
from service.settings import load_settings

settings = load_settings(Path(sys.argv[1]))
engine = make_engine(settings.url)
for at in range(30):
    go_back(settings, engine, (2, 3)[at % 2], by="test", reason="race")
print("done")
"""


def test_a_head_that_moves_while_others_collect_keeps_its_model(world: Any, tmp_path: Path) -> None:
    """Collected without a pause, each move goes to a snapshot that is garbage a moment before."""
    settings = keeping(world, 0)
    mover = subprocess.Popen(
        [sys.executable, "-c", GO_BACK_AND_FORTH, str(tmp_path / "settings.yaml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    removed = 0
    while mover.poll() is None:
        removed += len(collect(settings, world.engine).leftovers)
        with reading(world.engine) as session:
            seen = lineage.read_head(session)
            digest = session.get_one(Release, seen.release_id).snapshot_digest
        is_there = is_as_stamped(folder_of(world, seen.release_id), digest)
        if world.head().seq == seen.seq:  # it was still the head when the disk was looked at
            assert is_there, f"release {seen.release_id} is the head and has no model"
    out, errors = mover.communicate()
    assert out == "done\n", errors
    assert removed > 3
