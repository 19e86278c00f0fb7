"""Commit records as they are listed and searched, as functions of a connection."""

from __future__ import annotations

from sqlalchemy import Connection, select

from .remote import KnownRecord, known_record
from .schema import remote_records as records


def every_record(connection: Connection) -> list[KnownRecord]:
    """Return all known commit records."""
    return [known_record(row) for row in connection.execute(select(records))]


def records_of_session(connection: Connection, session_id: str) -> list[KnownRecord]:
    """Return the known commit records of a session's backups."""
    mine = select(records).where(records.c.session_id == session_id)
    return [known_record(row) for row in connection.execute(mine)]
