"""What a purge takes out of the index beside the backup itself."""

from __future__ import annotations

from sqlalchemy import Connection, delete, or_

from .schema import events


def forget_events(connection: Connection, backup_id: str, session_id: str | None) -> None:
    """Delete the events that name a backup, and with `session_id` those of its session."""
    named = [events.c.backup_id == backup_id, events.c.detail.contains(backup_id, autoescape=True)]
    if session_id is not None:
        named.append(events.c.session_id == session_id)
    connection.execute(delete(events).where(or_(*named)))
