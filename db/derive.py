"""The outbox, derived again from what is here and what the bucket is known to have: nothing is lost with the queue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, delete, or_, select

from ..state.outbox import Stage, stage_of
from .index import Index
from .outbox_rows import insert_pushes
from .schema import backup_blobs, backups, blobs, outbox, remote_records, sessions

_TURN = 200  # backups of one transaction: commits get their turn in between


@dataclass(frozen=True, slots=True)
class Derived:
    """What was queued, and what left the queue since the bucket has it, in items."""

    added: int
    removed: int


def derive(index: Index, machine: str | None, now: float, session_id: str | None = None) -> Derived:
    """Queue every stage of a backup that is here whole and that no commit record covers; of one session or all.

    A record covers its stages once it was checked, or when another machine wrote it: then the check is that one's.
    """
    with index.reading() as connection:
        covered, queued = _covered(connection, machine), _queued(connection)
        here = _candidates(connection, session_id)
    lacking = [
        (backup_id, session, wanted)
        for backup_id, session, stages in here
        if (wanted := stages - covered.get(backup_id, set()) - queued.get(backup_id, set()))
    ]
    added = 0
    for at in range(0, len(lacking), _TURN):
        with index.writing() as connection:
            added += sum(_queue(connection, *each, now) for each in lacking[at : at + _TURN])
    done = [
        (backup_id, stage) for backup_id, stages in queued.items() for stage in stages & covered.get(backup_id, set())
    ]
    return Derived(added, _remove(index, done))


def _candidates(connection: Connection, session_id: str | None) -> list[tuple[str, str, set[Stage]]]:
    statement = select(backups.c.id, backups.c.session_id, backups.c.layers)
    statement = statement.join(sessions, sessions.c.id == backups.c.session_id).where(~sessions.c.no_sync)
    if session_id is not None:
        statement = statement.where(backups.c.session_id == session_id)
    rows = connection.execute(statement)
    return [(row.id, row.session_id, {"text", *map(stage_of, row.layers.split())}) for row in rows]


def _covered(connection: Connection, machine: str | None) -> dict[str, set[Stage]]:
    trusted = or_(remote_records.c.checked, remote_records.c.machine != (machine or ""))
    found: dict[str, set[Stage]] = {}
    for row in connection.execute(select(remote_records.c.backup_id, remote_records.c.stages).where(trusted)):
        found.setdefault(row.backup_id, set()).update(row.stages.split())
    return found


def _queued(connection: Connection) -> dict[str, set[Stage]]:
    found: dict[str, set[Stage]] = {}
    rows = connection.execute(select(outbox.c.backup_id, outbox.c.stage).where(outbox.c.kind == "push"))
    for row in rows:
        found.setdefault(row.backup_id, set()).add(row.stage)
    return found


def _queue(connection: Connection, backup_id: str, session_id: str, wanted: set[Stage], now: float) -> int:
    """Queue those of some stages that are here whole; the backup may be gone, or to stay here, by now."""
    still = select(backups.c.id).join(sessions, sessions.c.id == backups.c.session_id)
    if connection.scalar(still.where(backups.c.id == backup_id, ~sessions.c.no_sync)) is None:
        return 0
    sizes: dict[Stage, int] = {}
    elsewhere: set[Stage] = set()
    named = select(blobs.c.size_bytes, blobs.c.layer, blobs.c.present)
    named = named.join(backup_blobs, backup_blobs.c.digest == blobs.c.digest)
    for size, layer, present in connection.execute(named.where(backup_blobs.c.backup_id == backup_id)):
        stage = stage_of(layer)
        sizes[stage] = sizes.get(stage, 0) + size
        if not present:
            elsewhere.add(stage)
    here = {stage: sizes.get(stage, 0) for stage in wanted - elsewhere}
    return insert_pushes(connection, backup_id, session_id, here, now)


def _remove(index: Index, done: Iterable[tuple[str, Stage]]) -> int:
    removed, left = 0, list(done)
    for at in range(0, len(left), _TURN):
        with index.writing() as connection:
            for backup_id, stage in left[at : at + _TURN]:
                mine = (outbox.c.backup_id == backup_id, outbox.c.stage == stage, outbox.c.kind == "push")
                removed += connection.execute(delete(outbox).where(*mine, outbox.c.state != "leased")).rowcount
    return removed
