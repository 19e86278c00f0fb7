"""What takes room, as functions of a connection: by layer, by session; and what a plan of eviction names."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, select, text

from .schema import backups, tallies


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Blobs of one layer on this machine, and those of them that backups name and that are not here."""

    layer: str
    blobs: int
    size_bytes: int
    absent_blobs: int
    absent_bytes: int


@dataclass(frozen=True, slots=True)
class SessionBytes:
    """What the blobs of a session take here, each once, with its manifests; `shared_bytes` other sessions need too.

    `logical_bytes` is what its backups would take if nothing were shared.
    """

    session_id: str
    title: str | None
    backups: int
    size_bytes: int
    shared_bytes: int
    logical_bytes: int


@dataclass(frozen=True, slots=True)
class Named:
    """A backup as a plan of eviction shows it."""

    session_id: str
    title: str | None
    created_at: float
    used_at: float


def bytes_by_layer(connection: Connection) -> list[LayerBytes]:
    """Return what each layer takes, the largest first."""
    found: dict[str, list[int]] = {}
    for layer, present, count, size in connection.execute(
        select(tallies.c.layer, tallies.c.present, tallies.c.count, tallies.c.size_bytes).where(tallies.c.count > 0)
    ):
        counts = found.setdefault(layer, [0, 0, 0, 0])
        at = 0 if present else 2
        counts[at], counts[at + 1] = count, size
    return sorted((LayerBytes(layer, *counts) for layer, counts in found.items()), key=lambda each: -each.size_bytes)


def manifest_bytes(connection: Connection) -> int:
    """Return what all manifests take."""
    return connection.scalar(select(func.coalesce(func.sum(backups.c.manifest_bytes), 0))) or 0


_LARGEST = """
    WITH held AS (
        SELECT session_id, sum(b.size_bytes) AS size, sum(b.size_bytes * (sessions > 1)) AS shared
        FROM (SELECT session_id, digest, count(*) OVER (PARTITION BY digest) AS sessions
              FROM (SELECT DISTINCT k.session_id, l.digest
                    FROM backups k CROSS JOIN backup_blobs l ON l.backup_id = k.id)) p
        CROSS JOIN blobs b ON b.digest = p.digest
        WHERE b.present GROUP BY session_id
    ), mine AS (
        SELECT session_id, count(*) AS backups, sum(manifest_bytes) AS manifests, sum(bytes_total) AS logical
        FROM backups GROUP BY session_id
    )
    SELECT s.id, s.title, m.backups, m.manifests + coalesce(h.size, 0) AS size, coalesce(h.shared, 0), m.logical
    FROM mine m JOIN sessions s ON s.id = m.session_id LEFT JOIN held h ON h.session_id = m.session_id
    ORDER BY size DESC, s.id LIMIT :limit
"""


def largest_sessions(connection: Connection, limit: int) -> list[SessionBytes]:
    """Return the sessions that take most here. The cost is that of all links between backups and blobs."""
    return [SessionBytes(*row) for row in connection.execute(text(_LARGEST), {"limit": limit})]


def named(connection: Connection, backup_ids: Collection[str]) -> dict[str, Named]:
    """Return of some backups what there is to say, by id."""
    statement = text(
        "SELECT k.id, k.session_id, s.title, k.created_at, k.used_at"
        " FROM backups k JOIN sessions s ON s.id = k.session_id WHERE k.id IN :ids"
    ).bindparams(bindparam("ids", expanding=True))
    rows = connection.execute(statement, {"ids": list(backup_ids)})
    return {row[0]: Named(*row[1:]) for row in rows}
