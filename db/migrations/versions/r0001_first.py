"""The first tables: sessions, backups, blobs, which backup needs which blob, outbox, events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("title", sa.Text),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
    )
    op.create_table(
        "backups",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id"), nullable=False),
        sa.Column("parent_id", sa.Text),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("adapter", sa.Text, nullable=False),
        sa.Column("model_name", sa.Text),
        sa.Column("weights_hash", sa.Text),
        sa.Column("encoder_hash", sa.Text),
        sa.Column("tokenizer_hash", sa.Text),
        sa.Column("layers", sa.Text, nullable=False),
        sa.Column("tokens", sa.Integer, nullable=False),
        sa.Column("bytes_total", sa.Integer, nullable=False),
        sa.Column("bytes_written", sa.Integer, nullable=False),
        sa.Column("manifest_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("manifest_bytes", sa.Integer, nullable=False),
    )
    op.create_index("ix_backups_session", "backups", ["session_id", "created_at", "id"])
    op.create_index("ix_backups_created", "backups", ["created_at", "id"])
    op.create_table(
        "blobs",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("layer", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "backup_blobs",
        sa.Column("backup_id", sa.Text, sa.ForeignKey("backups.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("digest", sa.LargeBinary(32), sa.ForeignKey("blobs.digest"), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_backup_blobs_digest", "backup_blobs", ["digest"])
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("backup_id", sa.Text, sa.ForeignKey("backups.id", ondelete="CASCADE"), nullable=False),
        sa.Column("layer", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_until", sa.Float),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Float, nullable=False),
        sa.Column("error_class", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_index("ix_outbox_due", "outbox", ["state", "next_at", "priority"])
    op.create_index("ix_outbox_backup", "outbox", ["backup_id"])
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("level", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text),
        sa.Column("backup_id", sa.Text),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("ix_events_at", "events", ["at"])


def downgrade() -> None:
    """Drop the tables."""
    for table in ("events", "outbox", "backup_blobs", "blobs", "backups", "sessions"):
        op.drop_table(table)
