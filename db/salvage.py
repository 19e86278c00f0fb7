"""What a damaged index still says and no file does: removals that wait for the bucket, and when backups were used.

Everything read here may be garbage, so each value is checked for what it claims to be.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, select, update

from ..state.errors import TorporError
from ..state.ids import is_backup_id, parse_session_id
from .outbox_rows import insert_removal
from .schema import backups


@dataclass(slots=True)
class Salvage:
    """Removals by backup id (with their session), and by backup id when it was used."""

    removals: dict[str, str] = field(default_factory=dict)
    used_at: dict[str, float] = field(default_factory=dict)


def salvage(path: Path, now: float) -> Salvage:
    """Read what can be read of an index that was set aside. Never raises for what it holds."""
    found = Salvage()
    for backup_id, session_id in _rows(path, "SELECT backup_id, session_id FROM outbox WHERE kind = 'remove'"):
        if is_backup_id(str(backup_id)) and _is_session(session_id):
            found.removals[str(backup_id)] = str(session_id)
    for backup_id, used_at in _rows(path, "SELECT id, used_at FROM backups"):
        if is_backup_id(str(backup_id)) and isinstance(used_at, float) and math.isfinite(used_at) and used_at <= now:
            found.used_at[str(backup_id)] = used_at
    return found


def enter_salvage(connection: Connection, found: Salvage, now: float) -> int:
    """Enter it into a new index; return how many removals wait again.

    A removal is entered only of what is not on this machine: it left the index together with its backup.
    """
    here = {row.id: row.used_at for row in connection.execute(select(backups.c.id, backups.c.used_at))}
    waiting = {backup_id: session for backup_id, session in found.removals.items() if backup_id not in here}
    for backup_id, session_id in waiting.items():
        insert_removal(connection, backup_id, session_id, now)
    for backup_id, used_at in found.used_at.items():
        if used_at > here.get(backup_id, math.inf):
            connection.execute(update(backups).where(backups.c.id == backup_id).values(used_at=used_at))
    return len(waiting)


def _rows(path: Path, statement: str) -> Iterator[tuple[object, ...]]:
    """Yield the rows of a statement up to the first that cannot be read."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            connection.text_factory = lambda raw: raw.decode(errors="replace")
            yield from connection.execute(statement)
    except sqlite3.Error:
        return


def _is_session(value: object) -> bool:
    try:
        parse_session_id(str(value))
    except TorporError:
        return False
    return True
