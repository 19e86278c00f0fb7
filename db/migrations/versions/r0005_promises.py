"""Retention, eviction and repair: what sessions want kept, when a backup was used, what was dropped or is damaged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns. A backup of before counts as used when it was made."""
    op.add_column("sessions", sa.Column("ttl_s", sa.Float))
    op.add_column("sessions", sa.Column("keep_newest", sa.Integer))
    op.add_column("backups", sa.Column("used_at", sa.Float, nullable=False, server_default="0"))
    op.add_column("backups", sa.Column("dropped_at", sa.Float))
    op.add_column("blobs", sa.Column("damaged_at", sa.Float))
    op.execute("UPDATE backups SET used_at = created_at")
    op.create_index("ix_backups_used", "backups", ["used_at"])
    op.create_index("ix_blobs_damaged", "blobs", ["digest"], sqlite_where=sa.text("damaged_at IS NOT NULL"))
