"""Groups of backups, logical keys of KV blocks, and what is remembered: digests of files, measured rates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create columns and tables."""
    op.add_column("backups", sa.Column("group_id", sa.Text))
    op.add_column("backups", sa.Column("group_name", sa.Text))
    op.create_index("ix_backups_group", "backups", ["group_name", "group_id"])
    op.create_table(
        "block_keys",
        sa.Column("key", sa.LargeBinary(32), primary_key=True),
        sa.Column("digest", sa.LargeBinary(32), sa.ForeignKey("blobs.digest", ondelete="CASCADE"), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_block_keys_digest", "block_keys", ["digest"])
    op.create_table(
        "remembered",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("used_at", sa.Float, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_remembered_used", "remembered", ["kind", "used_at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("remembered")
    op.drop_table("block_keys")
    op.drop_index("ix_backups_group", "backups")
    op.drop_column("backups", "group_name")
    op.drop_column("backups", "group_id")
