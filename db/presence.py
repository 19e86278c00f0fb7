"""Which blobs of the index are on this machine (column `present`), as functions of a connection."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, bindparam, func, select, update

from .engine import AnyConnection
from .prepared import Prepared
from .schema import backup_blobs, blobs, tallies

_BATCH = 500  # keys of one statement
_HERE = Prepared(
    update(blobs)
    .where(blobs.c.digest == bindparam("of_digest"), ~blobs.c.present)
    .values(present=True, damaged_at=None)
)
_ABSENT = Prepared(select(func.sum(tallies.c.count)).where(~tallies.c.present))


def note_present(connection: Connection, digests: Iterable[str], *, present: bool = True) -> None:
    """Note that blobs are on this machine, or that they are not. One that is here again is damaged no more."""
    values = {"present": True, "damaged_at": None} if present else {"present": False}
    for batch in _batches(digests):
        wanted = (blobs.c.digest.in_(batch), blobs.c.present != present)
        connection.execute(update(blobs).where(*wanted).values(values))


def note_here(connection: AnyConnection, digests: Iterable[str]) -> None:
    """Note that blobs are on this machine, as `note_present` does, past SQLAlchemy."""
    _HERE.run_each(connection, ({"of_digest": bytes.fromhex(digest)} for digest in digests))


def blob_sizes(connection: Connection, digests: Iterable[str]) -> dict[str, int]:
    """Return the sizes in bytes of those of some blobs that a backup needs."""
    found: dict[str, int] = {}
    for batch in _batches(digests):
        rows = connection.execute(select(blobs.c.digest, blobs.c.size_bytes).where(blobs.c.digest.in_(batch)))
        found.update((digest.hex(), size) for digest, size in rows)
    return found


def absent_bytes(connection: Connection, backup_ids: Sequence[str]) -> dict[str, int]:
    """Return the bytes of blobs that are not on this machine, for those of some backups that have such blobs.

    Where everything is on this machine, it costs nothing.
    """
    found: dict[str, int] = {}
    if not _ABSENT.value(connection):
        return found
    for at in range(0, len(backup_ids), _BATCH):
        rows = connection.execute(
            select(backup_blobs.c.backup_id, func.sum(blobs.c.size_bytes))
            .join(blobs, blobs.c.digest == backup_blobs.c.digest)
            .where(~blobs.c.present, backup_blobs.c.backup_id.in_(backup_ids[at : at + _BATCH]))
            .group_by(backup_blobs.c.backup_id)
        )
        found.update((backup_id, size) for backup_id, size in rows)
    return found


def absent_of(connection: Connection, backup_id: str) -> set[str]:
    """Return the digests of those blobs of a backup that are not on this machine."""
    mine = select(blobs.c.digest).join(backup_blobs, backup_blobs.c.digest == blobs.c.digest)
    rows = connection.scalars(mine.where(backup_blobs.c.backup_id == backup_id, ~blobs.c.present))
    return {digest.hex() for digest in rows}


def _batches(digests: Iterable[str]) -> Iterable[list[bytes]]:
    keys = [bytes.fromhex(digest) for digest in digests]
    return [keys[at : at + _BATCH] for at in range(0, len(keys), _BATCH)]
