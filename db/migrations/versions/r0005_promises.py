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
    op.create_index("ix_backups_parent", "backups", ["parent_id"], sqlite_where=sa.text("parent_id IS NOT NULL"))
    _tally()


def _tally() -> None:
    """Keep counts and bytes of blobs up to date, whoever changes the table."""
    op.create_table(
        "tallies",
        sa.Column("layer", sa.Text, primary_key=True),
        sa.Column("present", sa.Boolean, primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO tallies SELECT layer, present, count(*), sum(size_bytes) FROM blobs GROUP BY layer, present"
    )
    more = (
        "INSERT INTO tallies VALUES (NEW.layer, NEW.present, 1, NEW.size_bytes) ON CONFLICT (layer, present) "
        "DO UPDATE SET count = count + 1, size_bytes = size_bytes + NEW.size_bytes;"
    )
    less = (
        "UPDATE tallies SET count = count - 1, size_bytes = size_bytes - OLD.size_bytes "
        "WHERE layer = OLD.layer AND present = OLD.present;"
    )
    op.execute(f"CREATE TRIGGER tally_insert AFTER INSERT ON blobs BEGIN {more} END")
    op.execute(f"CREATE TRIGGER tally_delete AFTER DELETE ON blobs BEGIN {less} END")
    changes = "present, layer, size_bytes"
    op.execute(f"CREATE TRIGGER tally_update AFTER UPDATE OF {changes} ON blobs BEGIN {less} {more} END")
