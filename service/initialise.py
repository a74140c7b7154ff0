"""Make the state directory ready: database, pepper, first release, base model and what it says."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, select

from adapters.anchor import anchors_of
from adapters.backbones import convert_base, verify_base
from adapters.store import MANIFEST, read_manifest
from adapters.suites import read_prompts, read_suite
from service import auth, lineage
from service.current import follow_head
from service.db import opened, reading, upgrade, writing
from service.errors import Conflict
from service.examining import Examiner, Report
from service.models import ApiKey
from service.places import Places
from service.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Initialised:
    base: str
    base_digest: str
    head_release: int
    was_converted: bool  #: the base was not there yet


def initialise(settings: Settings) -> Initialised:
    """Do what is still to be done; a second call changes nothing.

    Raises ModelSourceError when the base cannot be had or is damaged, Conflict when the state
    directory already belongs to another base.
    """
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    upgrade(settings.url)
    if not (settings.state_dir / auth.PEPPER).exists():
        _refuse_a_lost_pepper(settings)
        auth.make_pepper(settings.state_dir)
    folder = Places(settings.state_dir).base
    was_converted = not (folder / MANIFEST).exists()
    if was_converted:
        digest = convert_base(settings.base, folder)
    else:
        manifest = read_manifest(folder)
        digest, name = str(manifest["digest"]), manifest["about"].get("name")
        if name != settings.base.name:
            raise Conflict(
                f"{settings.state_dir} holds the base {name!r}, the settings name "
                f"{settings.base.name!r}; give every base a state_dir of its own."
            )
        verify_base(folder, digest)
    with opened(settings.url) as engine:
        now = datetime.now(UTC)
        with writing(engine) as session:
            release = lineage.make_first_release(
                session, base_digest=digest, by=os.environ.get("USER", "init"), now=now
            )
            recorded = lineage.recipe_of(session, release).base_digest
        if recorded != digest:
            raise Conflict(
                f"The releases in the database stand on base {recorded[:12]}…, the base in "
                f"{folder} is {digest[:12]}…; put that one back, or start with an empty state_dir."
            )
        follow_head(settings, engine)
    return Initialised(
        base=settings.base.name,
        base_digest=digest,
        head_release=release,
        was_converted=was_converted,
    )


def measure_base(settings: Settings, *, report: Report) -> None:
    """Make what every refresh needs of the base alone: its anchors, and its general answers.

    What is there already stays; what is not made here, the first refresh makes. Raises
    ModelSourceError when the base is damaged, SuiteError for a suite that cannot be read.
    """
    suite = read_suite(settings.suites.regression)
    places = Places(settings.state_dir)
    digest = str(read_manifest(places.base)["digest"])
    anchors_of(
        places.base,
        settings.base,
        settings.training,
        read_prompts(settings.suites.general_prompts),
        digest=digest,
        kept=places.anchors,
    )
    Examiner(settings=settings, base_digest=digest).ask_base(suite, report=report)


def _refuse_a_lost_pepper(settings: Settings) -> None:
    """Raises Conflict where there are API keys, which only the pepper that made them can check."""
    with opened(settings.url) as engine, reading(engine) as session:
        good = select(func.count()).select_from(ApiKey).where(ApiKey.revoked_at.is_(None))
        count = session.scalar(good)
    if count:
        raise Conflict(
            f"{settings.state_dir / auth.PEPPER} is gone, and {count} API keys can be checked with "
            "nothing else: bring it back from a backup. If it is lost, revoke them "
            "(`lorewright keys list`, `keys revoke`), and run this again for a new one."
        )
