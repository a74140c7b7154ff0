"""Room on the disk: what is begun must be able to end, so a reserve stays free."""

import shutil
from pathlib import Path

from sqlalchemy import make_url

from service.errors import BelowReserve
from service.places import Places
from service.settings import Settings


def check_room(settings: Settings, *, needed: int = 0) -> None:
    """Raises BelowReserve where less is free than the reserve and what is about to be written.

    That is looked at beside the artefacts, and the reserve beside the database, too.
    """
    reserve = settings.storage.reserve_bytes
    _check(settings.state_dir, reserve, needed)
    url = make_url(settings.url)
    if url.get_backend_name() == "sqlite" and url.database:
        _check(Path(url.database).parent, reserve, 0)


def size_of_model(settings: Settings) -> int:
    """Bytes of a composed model: as many as of the base."""
    base = Places(settings.state_dir).base
    return sum(path.stat().st_size for path in base.rglob("*") if path.is_file())


def _check(folder: Path, reserve: int, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < reserve + needed:
        wanted = f"{needed} are needed and {reserve}" if needed else str(reserve)
        raise BelowReserve(
            f"The disk has {free} bytes free, and {wanted} are kept in reserve "
            "(storage.reserve_bytes); `lorewright gc` removes what nobody needs."
        )
