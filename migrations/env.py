"""Run by alembic: from `lorewright init`, `lorewright db upgrade` or the command itself."""

import os

from alembic import context

from service.db import make_engine
from service.models import Base, Utc

url = context.config.attributes.get("url") or os.environ.get("LOREWRIGHT_DATABASE_URL")
if not url:
    raise SystemExit("Set LOREWRIGHT_DATABASE_URL, or use `lorewright db upgrade`.")


def plain_types(kind: str, column: object, _: object) -> str | bool:
    """Write this project's moment type as what it is in the database, so that a migration
    never depends on code that may change after it."""
    if kind == "type" and isinstance(column, Utc):
        return "sa.DateTime(timezone=True)"
    return False


engine = make_engine(url)
with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite alters a table by copying it
        compare_type=True,
        render_item=plain_types,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
engine.dispose()  # an open connection would keep SQLite's log from being folded into the file
