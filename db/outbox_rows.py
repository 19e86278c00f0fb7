"""How items enter the outbox, as part of the transaction that makes them necessary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert
from sqlalchemy.dialects.sqlite import insert as upsert

from ..state.outbox import Stage, priority
from .engine import AnyConnection
from .prepared import Prepared
from .schema import outbox

_FIELDS = (
    "kind", "backup_id", "session_id", "stage", "priority", "size_bytes", "state", "attempts", "next_at", "created_at"
)  # fmt: skip
_PUSH = Prepared(upsert(outbox).values({name: bindparam(name) for name in _FIELDS}).on_conflict_do_nothing())
_UNREMOVE = Prepared(delete(outbox).where(outbox.c.backup_id == bindparam("of_backup"), outbox.c.kind == "remove"))


def insert_pushes(
    connection: AnyConnection, backup_id: str, session_id: str, sizes: Mapping[Stage, int], now: float
) -> int:
    """Queue stages of a backup, with the raw bytes of each; return how many were not queued yet.

    A removal that waits is no longer wanted then.
    """
    _UNREMOVE.run(connection, {"of_backup": backup_id})
    rows = [_row("push", backup_id, session_id, stage, size, now) for stage, size in sizes.items()]
    return sum(_PUSH.run(connection, row).rowcount for row in rows)


def insert_removal(connection: Connection, backup_id: str, session_id: str, now: float) -> None:
    """Queue the removal of a backup from the bucket, in place of one that waits or was given up."""
    connection.execute(delete(outbox).where(outbox.c.backup_id == backup_id, outbox.c.kind == "remove"))
    connection.execute(insert(outbox).values(_row("remove", backup_id, session_id, None, 0, now)))


def remove_pushes(connection: Connection, session_id: str) -> int:
    """Take out what waits of a session that is to stay on this machine; return how many items that were."""
    waits = (outbox.c.session_id == session_id, outbox.c.kind == "push")
    return connection.execute(delete(outbox).where(*waits)).rowcount


def _row(
    kind: str, backup_id: str, session_id: str, stage: Stage | None, size_bytes: int, now: float
) -> dict[str, Any]:
    return {
        "kind": kind,
        "backup_id": backup_id,
        "session_id": session_id,
        "stage": stage or "",
        "priority": priority(stage),
        "size_bytes": size_bytes,
        "state": "pending",
        "attempts": 0,
        "next_at": now,
        "created_at": now,
    }
