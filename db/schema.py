"""Tables of the index. Times are seconds since the epoch (UTC), digests 32 raw bytes, sizes bytes."""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

# The newest migration under migrations/versions; a test compares the two.
REVISION = "0003"

metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("title", Text),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
)

backups = Table(
    "backups",
    metadata,
    Column("id", Text, primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.id"), nullable=False),
    Column("parent_id", Text),  # no foreign key: a parent may be removed, or live on another machine
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("pinned", Boolean, nullable=False),
    Column("adapter", Text, nullable=False),
    Column("model_name", Text),
    Column("weights_hash", Text),
    Column("encoder_hash", Text),
    Column("tokenizer_hash", Text),
    Column("layers", Text, nullable=False),  # names, separated by spaces
    Column("tokens", Integer, nullable=False),
    Column("bytes_total", Integer, nullable=False),
    Column("bytes_written", Integer, nullable=False),
    Column("manifest_digest", LargeBinary(32), nullable=False),
    Column("manifest_bytes", Integer, nullable=False),
    Column("group_id", Text),  # saved with others, all or none
    Column("group_name", Text),
    Index("ix_backups_group", "group_name", "group_id"),
    Index("ix_backups_session", "session_id", "created_at", "id"),
    Index("ix_backups_created", "created_at", "id"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("size_bytes", Integer, nullable=False),
    Column("layer", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    sqlite_with_rowid=False,
)

backup_blobs = Table(
    "backup_blobs",
    metadata,
    Column("backup_id", Text, ForeignKey("backups.id", ondelete="CASCADE"), primary_key=True),
    Column("digest", LargeBinary(32), ForeignKey("blobs.digest"), primary_key=True),
    Index("ix_backup_blobs_digest", "digest"),
    sqlite_with_rowid=False,
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("backup_id", Text, ForeignKey("backups.id", ondelete="CASCADE"), nullable=False),
    Column("layer", Text, nullable=False),
    Column("priority", Integer, nullable=False),  # lower goes first
    Column("state", Text, nullable=False),  # pending | leased | done | dead
    Column("lease_owner", Text),  # boot id and pid
    Column("lease_until", Float),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float, nullable=False),
    Column("error_class", Text),
    Column("error", Text),
    Column("created_at", Float, nullable=False),
    Index("ix_outbox_due", "state", "next_at", "priority"),
    Index("ix_outbox_backup", "backup_id"),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("level", Text, nullable=False),  # info | warning | error
    Column("kind", Text, nullable=False),
    Column("session_id", Text),
    Column("backup_id", Text),
    Column("detail", Text, nullable=False),
    Index("ix_events_at", "at"),
)

watched_files = Table(
    "watched_files",
    metadata,
    Column("path", LargeBinary, primary_key=True),  # as the system has it: names need not be UTF-8
    Column("folder", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("mtime_ns", Integer, nullable=False),
    Column("inode", Integer, nullable=False),
    Column("ctime_ns", Integer, nullable=False),
    Column("state", Text, nullable=False),  # ok | failed
    Column("code", Text),
    Column("detail", Text),
    Column("backup_id", Text),  # no foreign key: a backup may be removed while its file stays
    Column("at", Float, nullable=False),
    Index("ix_watched_files_folder", "folder"),
    sqlite_with_rowid=False,
)

# Logical keys of KV blocks (state/block_keys.py): they find prefixes, and prove nothing about bytes.
block_keys = Table(
    "block_keys",
    metadata,
    Column("key", LargeBinary(32), primary_key=True),
    Column("digest", LargeBinary(32), ForeignKey("blobs.digest", ondelete="CASCADE"), primary_key=True),
    Index("ix_block_keys_digest", "digest"),
    sqlite_with_rowid=False,
)

# What may be forgotten: digests of files (kind `digest`), rates measured on this machine (kind `rate`).
remembered = Table(
    "remembered",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),  # JSON
    Column("used_at", Float, nullable=False),
    Index("ix_remembered_used", "kind", "used_at"),
    sqlite_with_rowid=False,
)
