"""Which facts of earlier batches were replayed while a batch was trained."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replays",
        sa.Column("batch_id", sa.Integer(), nullable=False),
        sa.Column("fact_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_replays_batch_id")),
        sa.ForeignKeyConstraint(["fact_id"], ["facts.id"], name=op.f("fk_replays_fact_id")),
        sa.PrimaryKeyConstraint("batch_id", "fact_id", name=op.f("pk_replays")),
    )
    op.create_index(op.f("ix_replays_fact_id"), "replays", ["fact_id"])


def downgrade() -> None:
    op.drop_table("replays")
