"""What listings show of a backup without its manifest, and the search over titles and messages."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from torpor.db.words import can_have_words, make_words

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add tables. What is there already is entered by the way, behind the start (daemon/search_care.py)."""
    op.create_index("ix_sessions_updated", "sessions", ["updated_at", "id"])
    op.create_table(
        "previews",
        sa.Column("backup_id", sa.Text, sa.ForeignKey("backups.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("messages", sa.Integer, nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("media", sa.Integer, nullable=False),
        sa.Column("images", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "searched",
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("backup_id", sa.Text, nullable=False),
        sa.Column("title", sa.Text),
        sa.Column("whole", sa.Boolean, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "messages",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary(16), nullable=False),
        sa.UniqueConstraint("session_id", "position", name="uq_messages_position"),
    )
    # A backup of before 0006 may have been dated behind one that is gone.
    op.execute(
        "UPDATE sessions SET updated_at = (SELECT max(created_at) FROM backups WHERE session_id = sessions.id) "
        "WHERE EXISTS (SELECT 1 FROM backups WHERE session_id = sessions.id)"
    )
    if can_have_words(op.get_bind()):
        make_words(op.get_bind())
