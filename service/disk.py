"""Room on the disk: what is begun must be able to end, so a reserve stays free."""

import shutil
from pathlib import Path

from sqlalchemy import make_url

from service.errors import StorageFull
from service.settings import Settings


def check_room(settings: Settings) -> None:
    """Raises StorageFull where less than the reserve is free beside the database or artefacts."""
    folders = [settings.state_dir]
    url = make_url(settings.url)
    if url.get_backend_name() == "sqlite" and url.database:
        folders.append(Path(url.database).parent)
    reserve = settings.storage.reserve_bytes
    for folder in folders:
        free = shutil.disk_usage(folder).free
        if free < reserve:
            raise StorageFull(
                f"The disk has {free} bytes free, and {reserve} are kept in reserve "
                "(storage.reserve_bytes); `lorewright gc` removes what nobody needs."
            )
