"""An index of what was replaced: without it every such question goes through all facts."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

REPLACED = sa.text("superseded_by IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        "ix_facts_superseded_by",
        "facts",
        ["superseded_by"],
        sqlite_where=REPLACED,
        postgresql_where=REPLACED,
    )


def downgrade() -> None:
    op.drop_index("ix_facts_superseded_by", table_name="facts")
