"""Releases whose composed models stay on the disk."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pinned_releases",
        sa.Column("release_id", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("pinned_by", sa.String(), nullable=False),
        sa.Column("pinned_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["release_id"], ["releases.id"], name=op.f("fk_pinned_releases_release_id")
        ),
        sa.PrimaryKeyConstraint("release_id", name=op.f("pk_pinned_releases")),
    )


def downgrade() -> None:
    op.drop_table("pinned_releases")
