"""Blobs to be read again, those that were found damaged, and who needs them; as functions of a connection."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, or_, select, update

from ..state.manifest import BlobRef
from .prepared import Prepared
from .schema import backup_blobs, backups, blobs, remote_objects, watched_files

_BATCH = 500  # keys of one statement
_ANY = Prepared(select(blobs.c.digest).where(blobs.c.damaged_at.is_not(None)).limit(1))


def present_after(connection: Connection, digest: str, limit: int) -> list[BlobRef]:
    """Return the blobs on this machine that come behind a digest, in their order."""
    mine = select(blobs.c.digest, blobs.c.size_bytes).where(blobs.c.digest > bytes.fromhex(digest), blobs.c.present)
    return [
        BlobRef(row.digest.hex(), row.size_bytes) for row in connection.execute(mine.order_by("digest").limit(limit))
    ]


def is_present(connection: Connection, digest: str) -> bool:
    """Tell whether a blob is needed, and said to be on this machine."""
    return bool(connection.scalar(select(blobs.c.present).where(blobs.c.digest == bytes.fromhex(digest))))


def is_missed(connection: Connection, digest: str) -> bool:
    """Tell whether a blob is needed, and not on this machine."""
    found = connection.scalar(select(blobs.c.present).where(blobs.c.digest == bytes.fromhex(digest)))
    return found is not None and not found


def present_bytes(connection: Connection, after: str = "") -> int:
    """Return how many bytes there are to be read behind a digest."""
    mine = (blobs.c.present, blobs.c.digest > bytes.fromhex(after))
    return connection.scalar(select(func.coalesce(func.sum(blobs.c.size_bytes), 0)).where(*mine)) or 0


def mark_damaged(connection: Connection, digest: str, at: float) -> None:
    """Note that a blob is no longer on this machine since it was found damaged."""
    mine = blobs.c.digest == bytes.fromhex(digest)
    connection.execute(update(blobs).where(mine).values(present=False, damaged_at=at))


def mark_lost(connection: Connection, digests: Sequence[str], at: float) -> None:
    """Note that blobs are no longer on this machine although nobody let them go."""
    for start in range(0, len(digests), _BATCH):
        mine = blobs.c.digest.in_([bytes.fromhex(digest) for digest in digests[start : start + _BATCH]])
        connection.execute(update(blobs).where(mine, blobs.c.present).values(present=False, damaged_at=at))


def damaged_blobs(connection: Connection, limit: int = -1) -> list[BlobRef]:
    """Return the blobs that were found damaged and not healed since."""
    mine = select(blobs.c.digest, blobs.c.size_bytes).where(blobs.c.damaged_at.is_not(None))
    rows = connection.execute(mine.limit(limit))
    return [BlobRef(row.digest.hex(), row.size_bytes) for row in rows]


def needed_by(connection: Connection, digest: str, limit: int) -> tuple[int, list[str]]:
    """Return how many backups need a blob, and the newest of them."""
    mine = backup_blobs.c.digest == bytes.fromhex(digest)
    count = connection.scalar(select(func.count()).select_from(backup_blobs).where(mine)) or 0
    newest = select(backup_blobs.c.backup_id).where(mine).order_by(backup_blobs.c.backup_id.desc()).limit(limit)
    return count, list(connection.scalars(newest))


def damaged_bytes(connection: Connection, backup_ids: Sequence[str]) -> dict[str, int]:
    """Return the bytes of damaged blobs, for those of some backups that have such; where none is damaged, for free."""
    found: dict[str, int] = {}
    if _ANY.value(connection) is None:
        return found
    for at in range(0, len(backup_ids), _BATCH):
        rows = connection.execute(
            select(backup_blobs.c.backup_id, func.sum(blobs.c.size_bytes))
            .join(blobs, blobs.c.digest == backup_blobs.c.digest)
            .where(blobs.c.damaged_at.is_not(None), backup_blobs.c.backup_id.in_(backup_ids[at : at + _BATCH]))
            .group_by(backup_blobs.c.backup_id)
        )
        found.update((backup_id, size) for backup_id, size in rows)
    return found


def incomplete_backups(connection: Connection, limit: int) -> list[str]:
    """Return the backups that need a blob which is neither here nor in the bucket, and was not let go on purpose."""
    there = select(remote_objects.c.digest).where(remote_objects.c.digest == blobs.c.digest)
    rows = (
        select(backup_blobs.c.backup_id)
        .distinct()
        .join(blobs, blobs.c.digest == backup_blobs.c.digest)
        .join(backups, backups.c.id == backup_blobs.c.backup_id)
        .where(~blobs.c.present, ~there.exists())
        .where(or_(blobs.c.damaged_at.is_not(None), backups.c.dropped_at.is_(None)))
        .order_by(backup_blobs.c.backup_id.desc())
        .limit(limit)
    )
    return list(connection.scalars(rows))


def watched_copies(connection: Connection, digest: str, limit: int = 8) -> list[tuple[bytes, int, int]]:
    """Return watched files from which a backup that needs a blob was made: path, size and mtime in ns as they were."""
    needing = select(backup_blobs.c.backup_id).where(backup_blobs.c.digest == bytes.fromhex(digest))
    mine = (watched_files.c.backup_id.in_(needing), watched_files.c.state == "ok")
    columns = (watched_files.c.path, watched_files.c.size_bytes, watched_files.c.mtime_ns)
    return [tuple(row) for row in connection.execute(select(*columns).where(*mine).limit(limit))]
