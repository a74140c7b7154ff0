"""The composed model of a release: a cache on disk with a digest, rebuilt from its recipe."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import Engine

from adapters.backbones import verify_base
from adapters.compose import environment, write_snapshot
from adapters.errors import ArtefactError
from adapters.store import (
    is_as_stamped,
    one_reader,
    one_writer,
    stamp_new,
    verify,
    verify_and_stamp,
)
from service.db import reading
from service.lineage import Recipe, check_not_erased, recipe_of
from service.models import Release
from service.places import Places
from service.settings import Settings

log = logging.getLogger(__name__)


def snapshot_of(
    settings: Settings, engine: Engine, release_id: int, *, at_once: bool = False
) -> Path:
    """The folder of a release's model, verified byte for byte; composed anew if it is not there.

    `at_once` is content with a folder that looks as it did when it was last verified.

    Raises NotFound for an unknown release, Conflict for one that an erasure took an adapter of,
    ArtefactError when an adapter is damaged or the rebuilt snapshot is not the one that was
    released, ModelSourceError when the base is damaged.
    """
    with reading(engine) as session:
        recipe = recipe_of(session, release_id)
        digest = session.get_one(Release, release_id).snapshot_digest
        check_not_erased(session, release_id)
    places = Places(settings.state_dir)
    if not recipe.adapter_ids:
        if not (at_once and is_as_stamped(places.base, digest)):
            verify_base(places.base, recipe.base_digest)
        return places.base
    folder = places.snapshot(recipe.digest)
    if at_once and is_as_stamped(folder, digest):
        return folder
    if not _is_whole(folder, digest, release_id):
        with one_writer(folder):
            if not _is_whole(folder, digest, release_id):
                compose_recipe(settings, recipe, wanted=digest)
    return folder


@contextmanager
def held(settings: Settings, recipe: Recipe) -> Iterator[None]:
    """Let nobody collect a recipe's snapshot, or write it, until the block ends.

    Whoever makes a release the head composes or verifies it inside, and moves the head inside. A
    mark says so, too: beside somebody who is stuck, this goes on without the lock.
    """
    folder = Places(settings.state_dir).snapshot(recipe.digest)
    with one_reader(folder), one_writer(folder):
        yield


@contextmanager
def opened(settings: Settings, engine: Engine, release_id: int) -> Iterator[Path]:
    """A release's model, which nobody collects until the block ends; others may use it, too.

    Raises what `snapshot_of` raises.
    """
    with reading(engine) as session:
        recipe = recipe_of(session, release_id)
    with ExitStack() as stack:
        with held(settings, recipe):  # not between a collector's look at the readers and its work
            stack.enter_context(one_reader(Places(settings.state_dir).snapshot(recipe.digest)))
        yield snapshot_of(settings, engine, release_id)


def _is_whole(folder: Path, digest: str, release_id: int) -> bool:
    if not folder.exists():  # as it is once `gc` was there
        log.info("the model of release %s is not there, and is composed", release_id)
        return False
    try:
        verify_and_stamp(folder, digest=digest)
    except ArtefactError as error:
        log.warning("snapshot of release %s must be rebuilt: %s", release_id, error)
        return False
    return True


def compose_recipe(
    settings: Settings, recipe: Recipe, *, to: Path | None = None, wanted: str | None = None
) -> str:
    """Write a recipe's snapshot from its verified parts and return its digest.

    Into its own place, unless `to` names a folder for a model that may never be a release; the base
    alone is written nowhere. Where it comes out with another digest than the `wanted` one, which
    nobody examined, it is not kept, and ArtefactError is raised.
    """
    places = Places(settings.state_dir)
    verify_base(places.base, recipe.base_digest)
    if not recipe.adapter_ids:
        return recipe.base_digest
    for digest in recipe.adapter_digests:
        verify(places.adapter(digest), digest=digest)
    folder = places.snapshot(recipe.digest) if to is None else to
    digest = write_snapshot(
        places.base,
        [places.adapter(digest) for digest in recipe.adapter_digests],
        folder,
        settings.base,
        about={
            "base": recipe.base_digest,
            "adapters": list(recipe.adapter_digests),
            "composed_in": environment(settings.base),
        },
        wanted=wanted,
    )
    stamp_new(folder, digest)
    return digest
