"""Keep what was found when an adapter was taken out of the head."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("head_moves", sa.Column("report", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("head_moves", "report")
