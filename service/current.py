"""The link that whatever serves the model follows: `current` leads to the head's composed model.

It is switched in one rename. A reader resolves it once and opens all files of what it led to, or it
may open some of one model and some of the next.
Whoever moved the head switches it; should that process die in between, the daemon does.
"""

import logging
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from adapters.store import clear_partials_of_the_dead, one_writer, partial_of, sync
from service import lineage
from service.db import reading
from service.logs import event
from service.places import Places
from service.settings import Settings

log = logging.getLogger(__name__)


def follow_head(settings: Settings, engine: Engine) -> Path | None:
    """Let the link lead to the head's model; where it leads, None where it could not be switched.

    A head whose model is not on the disk leaves it as it is: `lorewright ask` composes it anew.
    What goes wrong is logged and not raised, since the head has moved all the same.
    """
    link = Places(settings.state_dir).current
    try:
        with one_writer(link):  # of two that follow, the later one has read the later head
            with reading(engine) as session:
                head = lineage.read_head(session)
            places, recipe = Places(settings.state_dir), head.recipe
            target = places.snapshot(recipe.digest) if recipe.adapter_ids else places.base
            if not target.is_dir():
                log.error(
                    "the model of release %s, the head, is not on the disk; `lorewright ask` "
                    "composes it again",
                    head.release_id,
                )
                return None
            wanted = target.relative_to(settings.state_dir)
            if link.is_symlink() and link.readlink() == wanted:
                return target
            clear_partials_of_the_dead(link)
            partial = partial_of(link)
            partial.symlink_to(wanted)
            partial.replace(link)
            sync(link.parent)
    except (OSError, SQLAlchemyError) as error:
        log.error("%s does not lead to the head, and is tried again: %s", link, error)
        return None
    about = event("current_switched", release=head.release_id)
    log.info("%s leads to release %s", link, head.release_id, extra=about)
    return target
