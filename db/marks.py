"""What backups need, as a collector asks for it: a shard of digests at a time, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, select

from .schema import backups, blobs

_TURN = 1000  # rows that are held at once


@dataclass(frozen=True, slots=True)
class Marked:
    """Digests that backups need: those that are on this machine, as far as is known, and those that are not."""

    here: set[str]
    elsewhere: set[str]


def of_shard(connection: Connection, number: int) -> Marked:
    """Return the digests that begin with a byte."""
    rows = select(blobs.c.digest, blobs.c.present).where(blobs.c.digest >= bytes([number]))
    if number < 255:
        rows = rows.where(blobs.c.digest < bytes([number + 1]))
    found = Marked(set(), set())
    for digest, present in connection.execute(rows):
        (found.here if present else found.elsewhere).add(digest.hex())
    return found


def backup_ids(connection: Connection) -> Iterator[str]:
    """Yield the id of every backup, in ascending order."""
    yield from connection.execution_options(yield_per=_TURN).scalars(select(backups.c.id).order_by(backups.c.id))
