"""The second copy: the outbox by stages, what is known of the bucket, multipart uploads, sessions that stay here."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create columns and tables. No row was ever written to the outbox of before."""
    op.add_column("sessions", sa.Column("no_sync", sa.Boolean, nullable=False, server_default="0"))
    op.add_column("blobs", sa.Column("present", sa.Boolean, nullable=False, server_default="1"))
    op.create_index("ix_blobs_absent", "blobs", ["digest"], sqlite_where=sa.text("present = 0"))
    op.drop_table("outbox")
    op.create_table(
        "outbox",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("backup_id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_until", sa.Float),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Float, nullable=False),
        sa.Column("error_class", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("backup_id", "kind", "stage", name="uq_outbox_item"),
    )
    op.create_index("ix_outbox_due", "outbox", ["state", "next_at", "priority"])
    op.create_table(
        "remote_objects",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("stored_bytes", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_remote_objects_digest", "remote_objects", ["digest"])
    op.create_table(
        "remote_records",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("backup_id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("stages", sa.Text, nullable=False),
        sa.Column("checked", sa.Boolean, nullable=False),
        sa.Column("written_at", sa.Float, nullable=False),
        sa.Column("backup", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_remote_records_backup", "remote_records", ["backup_id"])
    op.create_index("ix_remote_records_session", "remote_records", ["session_id"])
    op.create_table(
        "remote_record_objects",
        sa.Column("record", sa.Text, sa.ForeignKey("remote_records.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("object", sa.Text, sa.ForeignKey("remote_objects.name", ondelete="CASCADE"), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_remote_record_objects_object", "remote_record_objects", ["object"])
    op.create_table(
        "uploads",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("upload_id", sa.Text, nullable=False),
        sa.Column("part_bytes", sa.Integer, nullable=False),
        sa.Column("etags", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_uploads_digest", "uploads", ["digest"])


def downgrade() -> None:
    """Drop them; an outbox of the form of before is made again."""
    for table in ("uploads", "remote_record_objects", "remote_records", "remote_objects", "outbox"):
        op.drop_table(table)
    op.drop_index("ix_blobs_absent", "blobs")
    op.drop_column("blobs", "present")
    op.drop_column("sessions", "no_sync")
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
