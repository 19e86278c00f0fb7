"""What was saved and restored, counted by quarters of an hour, as functions of a connection."""

from __future__ import annotations

from sqlalchemy import Connection, text

from ..state.activity import QUARTER_S, Quarter

_SAVED = f"""
    SELECT CAST(created_at / {QUARTER_S} AS INTEGER), count(*), sum(bytes_written)
    FROM backups WHERE created_at >= :since GROUP BY 1
"""  # noqa: S608
_RESTORED = f"""
    SELECT CAST(at / {QUARTER_S} AS INTEGER), count(*) FROM events
    WHERE kind = 'restored' AND at >= :since GROUP BY 1
"""  # noqa: S608


def quarters(connection: Connection, since: float) -> list[Quarter]:
    """Return the quarters of an hour from `since` on in which something happened, in no order.

    Backups that were removed are not counted any more, and restores no longer than their events are kept.
    """
    saved = connection.execute(text(_SAVED), {"since": since})
    found = [Quarter(number * QUARTER_S, backups=count, bytes_written=size) for number, count, size in saved]
    restored = connection.execute(text(_RESTORED), {"since": since})
    return found + [Quarter(number * QUARTER_S, restores=count) for number, count in restored]


def oldest_event_at(connection: Connection) -> float | None:
    """Return since when restores are known: the time of the oldest event that is kept."""
    found: float | None = connection.scalar(text("SELECT min(at) FROM events"))
    return found
