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
    UniqueConstraint,
    text,
)

# The newest migration under migrations/versions; a test compares the two.
REVISION = "0006"

metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("title", Text),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),  # when its newest backup was made
    Column("no_sync", Boolean, nullable=False, server_default="0"),  # never leaves this machine
    Column("ttl_s", Float),  # of its backups; null: the default
    Column("keep_newest", Integer),  # backups that outlive their TTL; null: the default
    Index("ix_sessions_updated", "updated_at", "id"),
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
    Column("used_at", Float, nullable=False, server_default="0"),  # saved, or restored the last time
    Column("dropped_at", Float),  # when its KV cache and embeddings were let go; null: they are wanted here
    Index("ix_backups_used", "used_at"),
    Index("ix_backups_group", "group_name", "group_id"),
    Index("ix_backups_session", "session_id", "created_at", "id"),
    Index("ix_backups_created", "created_at", "id"),
    Index("ix_backups_parent", "parent_id", sqlite_where=text("parent_id IS NOT NULL")),
)

blobs = Table(
    "blobs",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("size_bytes", Integer, nullable=False),
    Column("layer", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("present", Boolean, nullable=False, server_default="1"),  # false: only in the bucket, as far as is known
    Column("damaged_at", Float),  # when it was found damaged and put aside; null: nobody found it so
    Index("ix_blobs_damaged", "digest", sqlite_where=text("damaged_at IS NOT NULL")),
    Index("ix_blobs_absent", "digest", sqlite_where=text("present = 0")),
    sqlite_with_rowid=False,
)

# How many blobs there are and their bytes, kept by triggers (migration 0005): counting a million takes half a second.
tallies = Table(
    "tallies",
    metadata,
    Column("layer", Text, primary_key=True),
    Column("present", Boolean, primary_key=True),
    Column("count", Integer, nullable=False),
    Column("size_bytes", Integer, nullable=False),
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

# What waits to go to the bucket (state/outbox.py). What is done leaves; a removal outlives its backup.
outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),  # push | remove
    Column("backup_id", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("stage", Text, nullable=False),  # text | media | vision | kv; empty for a removal
    Column("priority", Integer, nullable=False),  # lower goes first
    Column("size_bytes", Integer, nullable=False),  # raw bytes of the stage's blobs
    Column("state", Text, nullable=False),  # pending | leased | dead | held
    Column("lease_owner", Text),  # boot id and pid
    Column("lease_until", Float),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float, nullable=False),
    Column("error_class", Text),
    Column("error", Text),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("backup_id", "kind", "stage", name="uq_outbox_item"),
    Index("ix_outbox_due", "state", "next_at", "priority"),
)

# What is known of the bucket. All of it is read from there again when it is lost.
remote_objects = Table(
    "remote_objects",
    metadata,
    Column("name", Text, primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("size_bytes", Integer, nullable=False),  # raw
    Column("stored_bytes", Integer, nullable=False),
    Index("ix_remote_objects_digest", "digest"),
    sqlite_with_rowid=False,
)

remote_records = Table(
    "remote_records",
    metadata,
    Column("name", Text, primary_key=True),
    Column("backup_id", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("machine", Text, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("stages", Text, nullable=False),  # that are in the bucket, separated by spaces
    Column("checked", Boolean, nullable=False),  # its objects were looked at after its commit
    Column("written_at", Float, nullable=False),
    Column("backup", Text, nullable=False),  # the backup as the index would list it, JSON
    Index("ix_remote_records_backup", "backup_id"),
    Index("ix_remote_records_session", "session_id"),
    sqlite_with_rowid=False,
)

remote_record_objects = Table(
    "remote_record_objects",
    metadata,
    Column("record", Text, ForeignKey("remote_records.name", ondelete="CASCADE"), primary_key=True),
    Column("object", Text, ForeignKey("remote_objects.name", ondelete="CASCADE"), primary_key=True),
    Index("ix_remote_record_objects_object", "object"),
    sqlite_with_rowid=False,
)

# Multipart uploads that were begun (state of sync/ports.py `Parts`).
uploads = Table(
    "uploads",
    metadata,
    Column("name", Text, primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("upload_id", Text, nullable=False),
    Column("part_bytes", Integer, nullable=False),
    Column("etags", Text, nullable=False),  # JSON: number -> ETag
    Column("created_at", Float, nullable=False),
    Index("ix_uploads_digest", "digest"),
    sqlite_with_rowid=False,
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

# What a listing shows of a backup without its manifest (state/glimpse.py). A backup without a row waits for one.
previews = Table(
    "previews",
    metadata,
    Column("backup_id", Text, ForeignKey("backups.id", ondelete="CASCADE"), primary_key=True),
    Column("messages", Integer, nullable=False),
    Column("text", Text),
    Column("media", Integer, nullable=False),  # how many there are
    Column("images", Text, nullable=False),  # the first of them that are pictures, JSON
    sqlite_with_rowid=False,
)

# Which backup of a session, and which title, can be searched.
searched = Table(
    "searched",
    metadata,
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    Column("backup_id", Text, nullable=False),
    Column("title", Text),
    Column("whole", Boolean, nullable=False),  # false: its messages are being entered
    sqlite_with_rowid=False,
)

# Messages that can be searched; their text lies under the same id in `words`, an FTS5 table (migration 0006).
messages = Table(
    "messages",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),  # in the conversation; -1 for the session's title
    Column("role", Text, nullable=False),
    Column("digest", LargeBinary(16), nullable=False),  # of the message as the manifest has it
    UniqueConstraint("session_id", "position", name="uq_messages_position"),
)
