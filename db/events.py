"""Reads of the events, as functions of a connection."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, func, select

from .schema import events


def recent_events(connection: Connection, limit: int) -> list[dict[str, Any]]:
    """Return the newest events, newest first."""
    return [_event(row) for row in connection.execute(select(events).order_by(events.c.id.desc()).limit(limit))]


def events_after(connection: Connection, event_id: int, limit: int) -> list[dict[str, Any]]:
    """Return the events behind one, oldest first."""
    behind = select(events).where(events.c.id > event_id).order_by(events.c.id).limit(limit)
    return [_event(row) for row in connection.execute(behind)]


def newest_event_id(connection: Connection) -> int:
    """Return the id of the newest event, 0 where there is none."""
    return connection.scalar(select(func.max(events.c.id))) or 0


def _event(row: Row[Any]) -> dict[str, Any]:
    # Plain str keys: SQLAlchemy's own subclass of str is refused by orjson.
    return {str(name): value for name, value in row._mapping.items()}
