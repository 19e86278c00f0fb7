"""Reads of the index, as functions of a connection."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, select, tuple_

from ..state.backup import Backup
from ..state.errors import BackupNotFound, SessionNotFound
from .records import Totals
from .schema import backups, blobs, outbox, sessions


def _selection() -> Select[Any]:
    return select(backups, sessions.c.title).join(sessions, sessions.c.id == backups.c.session_id)


def _record(row: RowMapping) -> Backup:
    values = dict(row)
    values["layers"] = tuple(values["layers"].split())
    values["manifest_digest"] = values["manifest_digest"].hex()
    return Backup(**values)


def backup(connection: Connection, backup_id: str) -> Backup:
    """Return one backup. Raises: BackupNotFound."""
    row = connection.execute(_selection().where(backups.c.id == backup_id)).mappings().first()
    if row is None:
        raise BackupNotFound(f"there is no backup {backup_id}")
    return _record(row)


def newest(connection: Connection, session_id: str) -> Backup:
    """Return the newest backup of a session. Raises: SessionNotFound."""
    statement = _selection().where(backups.c.session_id == session_id)
    row = connection.execute(statement.order_by(*_newest_first()).limit(1)).mappings().first()
    if row is None:
        raise SessionNotFound(f"there is no session {session_id}")
    return _record(row)


def list_backups(connection: Connection, session_id: str | None, limit: int, before: str | None) -> list[Backup]:
    """Return backups, newest first. Raises: BackupNotFound when `before` is unknown."""
    statement = _selection()
    if session_id is not None:
        statement = statement.where(backups.c.session_id == session_id)
    if before is not None:
        mark = backup(connection, before)
        statement = statement.where(tuple_(backups.c.created_at, backups.c.id) < (mark.created_at, mark.id))
    rows = connection.execute(statement.order_by(*_newest_first()).limit(limit)).mappings()
    return [_record(row) for row in rows]


def _newest_first() -> tuple[Any, Any]:
    return backups.c.created_at.desc(), backups.c.id.desc()


def totals(connection: Connection) -> Totals:
    """Return counts over the whole index."""
    blob_count, blob_bytes = connection.execute(
        select(func.count(), func.coalesce(func.sum(blobs.c.size_bytes), 0)).select_from(blobs)
    ).one()
    return Totals(
        sessions=connection.scalar(select(func.count()).select_from(sessions)) or 0,
        backups=connection.scalar(select(func.count()).select_from(backups)) or 0,
        blobs=blob_count,
        blob_bytes=blob_bytes,
        outbox_waiting=connection.scalar(select(func.count()).where(outbox.c.state != "done")) or 0,
        last_backup_at=connection.scalar(select(func.max(backups.c.created_at))),
    )
