"""Logical keys of KV blocks in the index (table `block_keys`): which blobs were computed from what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects.sqlite import insert as upsert

from .engine import AnyConnection
from .prepared import Prepared
from .schema import backup_blobs, backups
from .schema import block_keys as table

_BATCH = 500  # keys of one statement
_INSERT = Prepared(upsert(table).values(key=bindparam("key"), digest=bindparam("digest")).on_conflict_do_nothing())


def insert_keys(connection: AnyConnection, pairs: Iterable[tuple[str, str]]) -> None:
    """Note keys with the digests of their blocks. The rows go with their blobs."""
    rows = [{"key": bytes.fromhex(key), "digest": bytes.fromhex(digest)} for key, digest in pairs]
    if rows:
        _INSERT.run_each(connection, rows)


def deepest(connection: Connection, keys: Sequence[str]) -> int:
    """Return how many leading keys of a chain are known.

    Keys of a chain were noted together, from the first on, so the search ends at the first batch with a gap.
    """
    known = 0
    for at in range(0, len(keys), _BATCH):
        batch = [bytes.fromhex(key) for key in keys[at : at + _BATCH]]
        found = set(connection.scalars(select(table.c.key).where(table.c.key.in_(batch)).distinct()))
        known = at + max((i + 1 for i, key in enumerate(batch) if key in found), default=known - at)
        if len(found) < len(set(batch)):
            break
    return known


def holders(connection: Connection, key: str, limit: int) -> list[str]:
    """Return backups that hold a block with a key, newest first. A backup may hold its bytes for another reason."""
    statement = (
        select(backups.c.id)
        .join(backup_blobs, backup_blobs.c.backup_id == backups.c.id)
        .join(table, table.c.digest == backup_blobs.c.digest)
        .where(table.c.key == bytes.fromhex(key))
        .distinct()
        .order_by(backups.c.created_at.desc(), backups.c.id.desc())
        .limit(limit)
    )
    return list(connection.scalars(statement))
