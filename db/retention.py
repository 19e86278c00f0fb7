"""Retention and eviction over the index, as functions of a connection: what is asked, and what is noted.

state/retention.py and state/eviction.py decide. A stage is in the bucket when a commit record says so that was checked,
or that another machine wrote: then the check is that one's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Row, TextClause, bindparam, text

from ..state.manifest import REBUILDABLE as LAYERS
from ..state.manifest import rebuildable
from ..state.retention import Tenure

_TRUSTED = ":known AND (r.checked OR r.machine <> :machine)"
REBUILDABLE = f"({', '.join(map(repr, LAYERS))})"


def has(stage: str, backup: str) -> str:
    """Return the condition that the bucket has a stage of a backup."""
    return (
        f"EXISTS (SELECT 1 FROM remote_records r WHERE r.backup_id = {backup} AND {_TRUSTED}"  # noqa: S608
        f" AND ' ' || r.stages || ' ' LIKE '% {stage} %')"
    )


def lone(alias: str) -> str:
    """Return the condition that a backup has embeddings without their pictures: nothing can make them again."""
    layers = f"' ' || {alias}.layers || ' '"
    return f"({layers} LIKE '% vision_cache %' AND {layers} NOT LIKE '% media %')"


def safe(alias: str) -> str:
    """Return the condition that the bucket has all of a backup that nothing can rebuild: text, tokens and media.

    And embeddings without their pictures.
    """
    no_media = f"' ' || {alias}.layers || ' ' NOT LIKE '% media %'"
    text, media, vision = (has(stage, alias + ".id") for stage in ("text", "media", "vision"))
    return f"({text} AND ({no_media} OR {media}) AND (NOT {lone(alias)} OR {vision}))"


def of_bucket(machine: str | None) -> dict[str, Any]:
    """Return what statements are told of the bucket: this machine's name there, None without a bucket.

    An empty name: there is one, and what is known of it does not count now.
    """
    return {"bucket": machine is not None, "known": bool(machine), "machine": machine or ""}


# What was saved while there was a bucket waits for it, also when the daemon was started without its settings.
_QUEUED = """EXISTS (SELECT 1 FROM outbox o WHERE o.backup_id = k.id AND o.kind = 'push'
                     AND o.stage IN ('text', 'media'))"""
_TENURES = f"""
    SELECT k.id, k.session_id, k.created_at, k.expires_at, k.used_at, k.pinned, k.dropped_at IS NOT NULL AS dropped,
           k.layers, s.keep_newest,
           CASE WHEN (NOT :bucket OR s.no_sync) AND NOT {_QUEUED} THEN 'off'
                WHEN {safe("k")} THEN 'checked' ELSE 'waits' END AS second_copy
    FROM backups k JOIN sessions s ON s.id = k.session_id
"""  # noqa: S608


def tenures(connection: Connection, machine: str | None) -> Iterator[Tenure]:
    """Yield all backups, session by session."""
    rows = connection.execution_options(yield_per=1000).execute(
        text(_TENURES + " ORDER BY k.session_id"), of_bucket(machine)
    )
    for row in rows:
        yield _tenure(row)


def tenures_around(connection: Connection, machine: str | None, backup_id: str, few: int, today: float) -> list[Tenure]:
    """Return a backup and the newest few of its session: of all, and of those that were made until `today`."""
    mine = "session_id = (SELECT session_id FROM backups WHERE id = :id)"
    newest = "ORDER BY created_at DESC, id DESC LIMIT :few"
    statement = text(
        f"{_TENURES} WHERE k.id = :id"  # noqa: S608
        f" OR k.id IN (SELECT id FROM backups WHERE {mine} {newest})"
        f" OR k.id IN (SELECT id FROM backups WHERE {mine} AND created_at <= :today {newest})"
    )
    values = of_bucket(machine) | {"id": backup_id, "few": few, "today": today}
    return [_tenure(row) for row in connection.execute(statement, values)]


def _tenure(row: Row[Any]) -> Tenure:
    layers = row.layers.split()
    return Tenure(
        row.id,
        row.session_id,
        row.created_at,
        row.expires_at,
        row.used_at,
        bool(row.pinned),
        bool(rebuildable(layers)),
        bool(row.dropped),
        row.second_copy,
        row.keep_newest,
    )


def keep_newest_of(connection: Connection, backup_id: str) -> int | None:
    """Return how many of the newest backups of a backup's session outlive their TTL; None for the setting."""
    found: int | None = connection.scalar(
        text("SELECT keep_newest FROM sessions WHERE id = (SELECT session_id FROM backups WHERE id = :id)"),
        {"id": backup_id},
    )
    return found


def newest_at(connection: Connection) -> float | None:
    """Return when the newest backup was made."""
    found: float | None = connection.scalar(text("SELECT max(created_at) FROM backups"))
    return found


def note_used(connection: Connection, backup_ids: Sequence[str], machine: str | None, now: float) -> None:
    """Note that backups are used now. What the bucket has of them is wanted here again."""
    wanted = f"({has('kv', 'backups.id')} OR {has('vision', 'backups.id')})"
    statement = text(
        "UPDATE backups SET used_at = max(used_at, :now),"  # noqa: S608
        f" dropped_at = CASE WHEN {wanted} THEN NULL ELSE dropped_at END WHERE id IN :ids"
    ).bindparams(bindparam("ids", expanding=True))
    connection.execute(statement, of_bucket(machine) | {"ids": list(backup_ids), "now": now})


def set_session(connection: Connection, session_id: str, ttl_s: float | None, keep_newest: int | None) -> None:
    """Note what is wanted of a session."""
    statement = text("UPDATE sessions SET ttl_s = :ttl_s, keep_newest = :keep WHERE id = :id")
    connection.execute(statement, {"ttl_s": ttl_s, "keep": keep_newest, "id": session_id})


def set_expiries(connection: Connection, session_id: str, ttl_s: float, but: Collection[str]) -> None:
    """Give the backups of a session their TTL anew, counted from when each was made, but for some."""
    statement = text(
        "UPDATE backups SET expires_at = created_at + :ttl_s WHERE session_id = :id AND id NOT IN :but"
    ).bindparams(bindparam("but", expanding=True))
    connection.execute(statement, {"ttl_s": ttl_s, "id": session_id, "but": list(but)})


def set_expiry(connection: Connection, backup_id: str, expires_at: float) -> None:
    """Give one backup its time."""
    connection.execute(text("UPDATE backups SET expires_at = :at WHERE id = :id"), {"at": expires_at, "id": backup_id})


def drop(connection: Connection, backup_id: str, now: float) -> bool:
    """Note that KV cache and embeddings of a backup are no longer kept; what of them waits to go up, no longer does.

    Returns False where they are being sent: then another time.
    """
    if being_sent(connection, [backup_id]):
        return False
    note = text("UPDATE backups SET dropped_at = :now WHERE id = :id AND dropped_at IS NULL")
    connection.execute(note, {"now": now, "id": backup_id})
    unqueue(connection, [backup_id])
    return True


def being_sent(connection: Connection, backup_ids: Sequence[str]) -> bool:
    """Tell whether KV cache or embeddings of one of some backups are on their way to the bucket."""
    statement = _of_ids(
        "SELECT 1 FROM outbox WHERE backup_id IN :ids AND kind = 'push' AND state = 'leased'"
        " AND stage IN ('kv', 'vision') LIMIT 1"
    )
    return connection.scalar(statement, {"ids": list(backup_ids)}) is not None


def unqueue(connection: Connection, backup_ids: Sequence[str]) -> None:
    """Take KV caches and embeddings out of the queue that are no longer here."""
    statement = _of_ids(
        "DELETE FROM outbox WHERE backup_id IN :ids AND kind = 'push' AND state <> 'leased'"  # noqa: S608
        " AND (stage = 'kv' OR (stage = 'vision' AND NOT EXISTS ("
        f"SELECT 1 FROM backups k WHERE k.id = outbox.backup_id AND {lone('k')})))"
    )
    connection.execute(statement, {"ids": list(backup_ids)})


def _of_ids(statement: str) -> TextClause:
    return text(statement).bindparams(bindparam("ids", expanding=True))


def bytes_that_go(connection: Connection, dropped: Iterable[str], removed: Iterable[str]) -> int:
    """Return the bytes that would be free if backups were dropped and removed."""
    rows = [{"id": each, "level": 1} for each in dropped] + [{"id": each, "level": 2} for each in removed]
    if not rows:
        return 0
    with scratch(connection, "verdict", "id TEXT PRIMARY KEY, level INTEGER"):
        connection.execute(text("INSERT INTO temp.verdict VALUES (:id, :level)"), rows)
        found: int = connection.scalar(text(_FREED)) or 0
    return found


_FREED = f"""
    SELECT sum(size_bytes) FROM (
        SELECT b.size_bytes, b.layer, min(coalesce(v.level, k.dropped_at IS NOT NULL)) AS level,
               b.layer = 'vision_cache' AND max({lone("k")}) AS stays
        FROM (SELECT DISTINCT digest FROM temp.verdict v JOIN backup_blobs l ON l.backup_id = v.id) d
        CROSS JOIN blobs b ON b.digest = d.digest AND b.present
        CROSS JOIN backup_blobs l ON l.digest = b.digest
        CROSS JOIN backups k ON k.id = l.backup_id
        LEFT JOIN temp.verdict v ON v.id = l.backup_id
        GROUP BY b.digest
    ) WHERE level = 2 OR (level = 1 AND layer IN {REBUILDABLE} AND NOT stays)
"""  # noqa: S608


@contextmanager
def scratch(connection: Connection, name: str, columns: str) -> Iterator[None]:
    """Open an empty scratch table, which only this connection sees. One that only reads may have one, too."""
    connection.exec_driver_sql("PRAGMA query_only = OFF")  # the file itself is open read-only
    connection.exec_driver_sql(f"CREATE TEMP TABLE {name} ({columns}) WITHOUT ROWID")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"DROP TABLE temp.{name}")
        connection.exec_driver_sql("PRAGMA query_only = ON")
