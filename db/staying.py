"""Removed backups of sessions that stay on this machine: what goes on from one of them stays here as well.

They are known by a digest of their ids alone, since a purge leaves no name behind.
"""

from __future__ import annotations

from hashlib import sha256

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert as upsert

from .schema import remembered, sessions

_KIND = "stayed"


def note_removed(connection: Connection, backup_id: str, session_id: str) -> None:
    """Note that a backup is being removed, if its session stays on this machine."""
    if connection.scalar(select(sessions.c.no_sync).where(sessions.c.id == session_id)):
        row = {"kind": _KIND, "key": _key(backup_id), "value": "true", "used_at": 0.0}
        connection.execute(upsert(remembered).values(row).on_conflict_do_nothing())


def stayed(connection: Connection, backup_id: str) -> bool:
    """Tell whether a backup was one of a session that stays here when it was removed."""
    mine = (remembered.c.kind == _KIND, remembered.c.key == _key(backup_id))
    return connection.scalar(select(remembered.c.key).where(*mine)) is not None


def _key(backup_id: str) -> str:
    return sha256(backup_id.encode()).hexdigest()
