"""The index of subjects alone: with the relation a row could be longer than PostgreSQL's may be."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_facts_subject_relation", table_name="facts")
    op.create_index("ix_facts_subject", "facts", ["subject"])


def downgrade() -> None:
    op.drop_index("ix_facts_subject", table_name="facts")
    op.create_index("ix_facts_subject_relation", "facts", ["subject", "relation"])
