"""The audit log, begun with an entry that says how often the head had moved until then."""

import hashlib
import json
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("act", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("about", sa.JSON(), nullable=False),
        sa.Column("previous", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )
    moves = op.get_bind().scalar(sa.text("SELECT count(*) FROM head_moves"))
    now, about, before = datetime.now(UTC), {"head_moves": moves}, "0" * 64
    said = [1, now.isoformat(), "log_begun", "migration", about, before]
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    audit = sa.table(
        "audit",
        sa.column("seq", sa.Integer()),
        sa.column("at", sa.DateTime(timezone=True)),
        sa.column("act", sa.String()),
        sa.column("by", sa.String()),
        sa.column("about", sa.JSON()),
        sa.column("previous", sa.String()),
        sa.column("digest", sa.String()),
    )
    op.bulk_insert(
        audit,
        [
            {
                "seq": 1,
                "at": now,
                "act": "log_begun",
                "by": "migration",
                "about": about,
                "previous": before,
                "digest": hashlib.sha256(text.encode()).hexdigest(),
            }
        ],
    )


def downgrade() -> None:
    op.drop_table("audit")
