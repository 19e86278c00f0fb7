"""What is measured of the index when somebody asks, as functions of a connection."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from .schema import backups, blobs, outbox, remote_objects, sessions, tallies


@dataclass(frozen=True, slots=True)
class Queue:
    """Items of the outbox in one state. `oldest_at` is when the first of them was queued."""

    state: str
    count: int
    size_bytes: int
    oldest_at: float


def logical_bytes(connection: Connection) -> int:
    """Return what all backups would take if none shared anything."""
    return connection.scalar(select(func.coalesce(func.sum(backups.c.bytes_total), 0))) or 0


def blob_bytes_by_layer(connection: Connection) -> dict[str, tuple[int, int]]:
    """Return how many blobs of each layer are on this machine, and their bytes."""
    here = (tallies.c.present, tallies.c.count > 0)
    counts = select(tallies.c.layer, tallies.c.count, tallies.c.size_bytes).where(*here)
    return {layer: (count, size) for layer, count, size in connection.execute(counts)}


def damaged_blobs(connection: Connection) -> int:
    """Return how many blobs are known to be damaged."""
    return connection.scalar(select(func.count()).where(blobs.c.damaged_at.is_not(None))) or 0


def queues(connection: Connection) -> list[Queue]:
    """Return the outbox by state."""
    counts = select(
        outbox.c.state, func.count(), func.sum(outbox.c.size_bytes), func.min(outbox.c.created_at)
    ).group_by(outbox.c.state)
    return [Queue(*row) for row in connection.execute(counts)]


def bucket_bytes(connection: Connection) -> tuple[int, int]:
    """Return the raw bytes of what the bucket is known to hold, and what they take there."""
    sums = select(
        func.coalesce(func.sum(remote_objects.c.size_bytes), 0),
        func.coalesce(func.sum(remote_objects.c.stored_bytes), 0),
    )
    raw, stored = connection.execute(sums).one()
    return raw, stored


def last_successes(connection: Connection, limit: int) -> list[tuple[str, float]]:
    """Return the sessions that were saved last, each with the time of its newest backup."""
    newest = select(sessions.c.id, sessions.c.updated_at).order_by(sessions.c.updated_at.desc()).limit(limit)
    return [(row.id, row.updated_at) for row in connection.execute(newest)]
