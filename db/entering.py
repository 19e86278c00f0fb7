"""How a backup enters the index, as functions of a connection: its session, its row, its blobs, what is shown of it."""

from __future__ import annotations

import sqlite3
from dataclasses import fields, replace
from typing import Any

from sqlalchemy import and_, bindparam, case, func, insert, literal_column, null, or_, select
from sqlalchemy.dialects.sqlite import insert as upsert

from ..state.backup import Backup
from ..state.errors import Conflict
from ..state.manifest import REBUILDABLE
from ..state.outbox import stage_sizes
from .block_keys import insert_keys
from .engine import AnyConnection
from .outbox_rows import insert_pushes
from .prepared import Prepared
from .presence import note_here
from .previews import insert_preview
from .records import NewBackup
from .schema import backup_blobs, backups, blobs, sessions

_OF_OTHER_TABLES = ("title", "absent_bytes", "damaged_bytes")
_COLUMNS = tuple(each.name for each in fields(Backup) if each.name not in _OF_OTHER_TABLES)


def _upsert_session() -> Any:
    statement = upsert(sessions).values(
        {name: bindparam(name) for name in ("id", "title", "no_sync", "created_at", "updated_at")}
    )
    statement = statement.on_conflict_do_update(
        index_elements=[sessions.c.id],
        set_={
            "updated_at": func.max(sessions.c.updated_at, statement.excluded.updated_at),
            "title": func.coalesce(statement.excluded.title, sessions.c.title),
            # Only `set_no_sync` takes it off: a sidecar that cannot be read must not send a session away.
            "no_sync": or_(sessions.c.no_sync, statement.excluded.no_sync),
        },
    )
    return statement.returning(sessions.c.title)


def _upsert_blob() -> Any:
    statement = upsert(blobs).values(
        {name: bindparam(name) for name in ("digest", "size_bytes", "layer", "created_at", "present")}
    )
    seen = statement.excluded.present  # the newest look at the store counts, also for a blob that others name
    # The same bytes may be embeddings in one backup and a picture in another: then nothing can rebuild them.
    rebuildable: list[Any] = [literal_column(repr(layer)) for layer in REBUILDABLE]
    lasts = and_(blobs.c.layer.in_(rebuildable), statement.excluded.layer.not_in(rebuildable))
    return statement.on_conflict_do_update(
        index_elements=[blobs.c.digest],
        set_={
            "present": seen,
            "damaged_at": case((seen, null()), else_=blobs.c.damaged_at),
            "layer": case((lasts, statement.excluded.layer), else_=blobs.c.layer),
        },
        where=or_(blobs.c.present != seen, lasts),
    )


_DIGEST_OF = Prepared(select(backups.c.manifest_digest).where(backups.c.id == bindparam("backup_id")))
_STAYS_HERE = Prepared(select(sessions.c.no_sync).where(sessions.c.id == bindparam("session_id")))
_SESSION = Prepared(_upsert_session())
_BACKUP = Prepared(insert(backups).values({name: bindparam(name) for name in _COLUMNS}))
_BLOB = Prepared(_upsert_blob())
_LINK = Prepared(insert(backup_blobs).values(backup_id=bindparam("backup_id"), digest=bindparam("digest")))


def insert_new(connection: sqlite3.Connection, new: NewBackup, now: float, *, enqueue: bool) -> Backup | None:
    """Enter a backup, and return it with its session's title; None when it is there already.

    Raises: Conflict where another manifest has its id.
    """
    record = new.record
    known = _DIGEST_OF.value(connection, backup_id=record.id)
    if known is not None:
        if known.hex() != record.manifest_digest:
            raise Conflict(f"backup {record.id} exists with other content")
        note_here(connection, new.blob_sizes.keys() - new.absent)
        return None
    title = _insert_session(connection, record, new.no_sync)
    _insert_backup(connection, new, now)
    if new.glimpse is not None:
        insert_preview(connection, record.id, new.glimpse)
    insert_keys(connection, new.block_keys)
    if enqueue and not stays_here(connection, record.session_id):
        sizes = stage_sizes(record.layers, new.blob_sizes)
        insert_pushes(connection, record.id, record.session_id, sizes, now)
    return replace(record, title=title)


def stays_here(connection: AnyConnection, session_id: str) -> bool:
    """Tell whether a session is kept on this machine."""
    return bool(_STAYS_HERE.value(connection, session_id=session_id))


def _insert_session(connection: sqlite3.Connection, record: Backup, no_sync: bool) -> str | None:
    row = {"id": record.session_id, "title": record.title, "no_sync": no_sync}
    times = {"created_at": record.created_at, "updated_at": record.created_at}
    title: str | None = _SESSION.value(connection, **row, **times)
    return title


def _insert_backup(connection: sqlite3.Connection, new: NewBackup, now: float) -> None:
    row = {name: getattr(new.record, name) for name in _COLUMNS}
    row["layers"] = " ".join(new.record.layers)
    row["manifest_digest"] = bytes.fromhex(new.record.manifest_digest)
    _BACKUP.run(connection, row)
    if not new.blob_sizes:
        return
    keys = {digest: bytes.fromhex(digest) for digest in new.blob_sizes}
    rows = (
        {
            "digest": keys[digest],
            "size_bytes": size,
            "layer": layer,
            "created_at": now,
            "present": digest not in new.absent,
        }
        for digest, (size, layer) in new.blob_sizes.items()
    )
    _BLOB.run_each(connection, rows)
    _LINK.run_each(connection, ({"backup_id": new.record.id, "digest": key} for key in keys.values()))
