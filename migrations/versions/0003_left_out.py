"""Directions in which a fact was not asked, since other facts give another right answer."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "left_out",
        sa.Column("batch_id", sa.Integer(), nullable=False),
        sa.Column("fact_id", sa.Integer(), nullable=False),
        sa.Column("direction", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_left_out_batch_id")),
        sa.ForeignKeyConstraint(["fact_id"], ["facts.id"], name=op.f("fk_left_out_fact_id")),
        sa.PrimaryKeyConstraint("batch_id", "fact_id", "direction", name=op.f("pk_left_out")),
    )
    op.create_index(op.f("ix_left_out_fact_id"), "left_out", ["fact_id"])


def downgrade() -> None:
    op.drop_table("left_out")
