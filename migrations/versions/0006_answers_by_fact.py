"""Find what a model said about a fact: its state depends on whether it is still known."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_probe_answers_fact_id"), "probe_answers", ["fact_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_probe_answers_fact_id"), table_name="probe_answers")
