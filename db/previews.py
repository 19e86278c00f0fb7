"""What listings show of backups without their manifests, as functions of a connection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert

from ..state.glimpse import Glimpse, Medium
from .engine import AnyConnection
from .prepared import Prepared
from .schema import backups, previews

_BATCH = 500  # keys of one statement
_INSERT = Prepared(insert(previews).values({column.name: bindparam(column.name) for column in previews.columns}))


def insert_previews(connection: Connection, found: Iterable[tuple[str, Glimpse]]) -> None:
    """Enter what is shown of backups; of those that left the index meanwhile, nothing."""
    for backup_id, glimpse in found:
        there = select(backups.c.id).where(backups.c.id == backup_id)
        if connection.scalar(there) is not None:
            connection.execute(upsert(previews).values(_row(backup_id, glimpse)).on_conflict_do_nothing())


def insert_preview(connection: AnyConnection, backup_id: str, glimpse: Glimpse) -> None:
    """Enter what is shown of a new backup, as part of the transaction that enters it."""
    _INSERT.run(connection, _row(backup_id, glimpse))


def _row(backup_id: str, glimpse: Glimpse) -> dict[str, Any]:
    images = orjson.dumps([[each.index, each.media_type, each.size_bytes] for each in glimpse.images]).decode()
    return {
        "backup_id": backup_id,
        "messages": glimpse.messages,
        "text": glimpse.text,
        "media": glimpse.media,
        "images": images,
    }


def previews_of(connection: Connection, backup_ids: Sequence[str]) -> dict[str, Glimpse]:
    """Return what is shown of some backups; one that waits for it is left out."""
    found: dict[str, Glimpse] = {}
    for at in range(0, len(backup_ids), _BATCH):
        rows = connection.execute(select(previews).where(previews.c.backup_id.in_(backup_ids[at : at + _BATCH])))
        for row in rows:
            images = tuple(Medium(*each) for each in orjson.loads(row.images))
            found[row.backup_id] = Glimpse(row.messages, row.text, row.media, images)
    return found


def without_preview(connection: Connection, before: str | None, limit: int) -> list[str]:
    """Return backups without theirs that are older than a backup, by their ids, newest first."""
    lacking = select(backups.c.id).outerjoin(previews, previews.c.backup_id == backups.c.id)
    lacking = lacking.where(previews.c.backup_id.is_(None))
    if before is not None:
        lacking = lacking.where(backups.c.id < before)
    return list(connection.scalars(lacking.order_by(backups.c.id.desc()).limit(limit)))
