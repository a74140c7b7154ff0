"""Which facts each batch replaced when it was claimed: `superseded_by` goes on to the next one."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replacements",
        sa.Column("batch_id", sa.Integer(), nullable=False),
        sa.Column("fact_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.id"], name=op.f("fk_replacements_batch_id")
        ),
        sa.ForeignKeyConstraint(["fact_id"], ["facts.id"], name=op.f("fk_replacements_fact_id")),
        sa.PrimaryKeyConstraint("batch_id", "fact_id", name=op.f("pk_replacements")),
    )
    op.create_index(op.f("ix_replacements_fact_id"), "replacements", ["fact_id"])
    op.execute(
        "INSERT INTO replacements (batch_id, fact_id) "
        "SELECT DISTINCT memberships.batch_id, facts.id "
        "FROM facts JOIN memberships ON memberships.fact_id = facts.superseded_by"
    )


def downgrade() -> None:
    op.drop_table("replacements")
