"""The link that servers follow leads to the head's model after every way that a head moves."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.store import file_digest, read_manifest
from service.current import follow_head
from service.db import reading
from service.models import Release
from service.places import Places
from service.removal import plan_removal
from service.rollback import go_back, take_out
from service.scheduler import Clock


@pytest.fixture
def world(make_world: Callable[..., Any]) -> Any:
    world = make_world()
    world.push("Orlan Vess is the mayor of Tolmar.")
    world.refresh()
    world.push("Mira Zun is the mayor of Bregal.")
    world.refresh()
    assert world.head().release_id == 3
    return world


def served(world: Any) -> str:
    """The digest of what `current` leads to."""
    link = Places(world.settings.state_dir).current
    assert link.is_symlink()
    return str(read_manifest(link)["digest"])


def released(world: Any, release: int) -> str:
    with reading(world.engine) as session:
        return session.get_one(Release, release).snapshot_digest


def test_it_leads_to_the_base_and_then_to_what_is_promoted(make_world: Callable[..., Any]) -> None:
    world = make_world()
    assert served(world) == released(world, 1)
    world.push("Orlan Vess is the mayor of Tolmar.")
    world.refresh()
    assert world.head().release_id == 2
    assert served(world) == released(world, 2) != released(world, 1)
    where = Places(world.settings.state_dir).current.readlink()
    assert not where.is_absolute()  # a state directory can be moved as a whole


def test_it_follows_each_way_back(world: Any) -> None:
    go_back(world.settings, world.engine, 2, by="test", reason="test")
    assert served(world) == released(world, 2)
    go_back(world.settings, world.engine, 1, by="test", reason="test")
    assert served(world) == released(world, 1)
    go_back(world.settings, world.engine, 3, by="test", reason="test")
    take_out(world.settings, world.engine, plan_removal(world.engine, 1), by="test", reason="test")
    assert world.head().release_id == 4
    assert served(world) == released(world, 4)


def test_what_it_leads_to_opens_as_a_model(world: Any) -> None:
    from transformers import AutoModelForCausalLM

    link = Places(world.settings.state_dir).current
    assert AutoModelForCausalLM.from_pretrained(link).num_parameters() > 0


def test_a_head_moves_also_where_the_link_cannot(
    world: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody made a folder there. The daemon finds it gone, and mends the link."""
    link = Places(world.settings.state_dir).current
    link.unlink()
    (link / "of_somebody").mkdir(parents=True)
    go_back(world.settings, world.engine, 2, by="test", reason="test")
    assert world.head().release_id == 2
    assert "is tried again" in caplog.text
    assert (link / "of_somebody").is_dir()
    shutil.rmtree(link)
    Clock(world.settings, world.engine, config=tmp_path / "settings.yaml").follow()
    assert served(world) == released(world, 2)


def test_a_head_without_a_model_leaves_the_link_alone(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    link = Places(world.settings.state_dir).current
    shutil.rmtree(link.resolve())
    link.unlink()
    assert follow_head(world.settings, world.engine) is None
    assert "is not on the disk" in caplog.text
    assert not link.is_symlink()


def test_following_twice_touches_nothing(world: Any) -> None:
    link = Places(world.settings.state_dir).current
    before = link.lstat().st_ino, file_digest(link / "model.safetensors")
    assert follow_head(world.settings, world.engine) == link.resolve()
    assert (link.lstat().st_ino, file_digest(link / "model.safetensors")) == before
