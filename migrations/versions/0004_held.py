"""Facts that wait for an admin: why, and who let them go on."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("facts", sa.Column("held_reason", sa.String(), nullable=True))
    op.add_column("facts", sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("facts", sa.Column("approved_by", sa.String(), nullable=True))


def downgrade() -> None:
    for column in ("approved_by", "approved_at", "held_reason"):
        op.drop_column("facts", column)
