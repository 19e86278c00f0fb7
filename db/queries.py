"""Reads of the index, as functions of a connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, literal_column, select, tuple_

from ..state.backup import Backup
from ..state.errors import BackupNotFound, SessionNotFound
from .damage import damaged_bytes
from .prepared import Prepared
from .presence import absent_bytes
from .records import SessionFork, Sharer, Sharing, Timeline, Totals
from .schema import backup_blobs, backups, blobs, outbox, sessions, tallies

MAX_FORKS = 10_000  # of a session that are listed, the newest
_BATCH = 500  # keys of one statement


def selection() -> Select[Any]:
    """Select backups with the title of their session."""
    return select(backups, sessions.c.title).join(sessions, sessions.c.id == backups.c.session_id)


def record(row: Mapping[Any, Any]) -> Backup:
    """Return a row of `selection` as a backup."""
    values = dict(row)
    values["layers"] = tuple(values["layers"].split())
    values["manifest_digest"] = values["manifest_digest"].hex()
    return Backup(**values)


def backup(connection: Connection, backup_id: str) -> Backup:
    """Return one backup. Raises: BackupNotFound."""
    row = _ONE.first(connection, backup_id=backup_id)
    if row is None:
        raise BackupNotFound(f"there is no backup {backup_id}")
    return _with_absent(connection, [record(row)])[0]


def backups_of(connection: Connection, ids: Sequence[str] | Select[Any]) -> list[Backup]:
    """Return some backups, in no order; those that are gone are left out."""
    rows = connection.execute(selection().where(backups.c.id.in_(ids))).mappings()
    return _with_absent(connection, [record(row) for row in rows])


def newest(connection: Connection, session_id: str) -> Backup:
    """Return the newest backup of a session. Raises: SessionNotFound."""
    row = _NEWEST.first(connection, of_session=session_id)
    if row is None:
        raise SessionNotFound(f"there is no session {session_id}")
    return _with_absent(connection, [record(row)])[0]


def list_backups(connection: Connection, session_id: str | None, limit: int, before: str | None) -> list[Backup]:
    """Return backups, newest first. Raises: BackupNotFound when `before` is unknown."""
    statement = selection()
    if session_id is not None:
        statement = statement.where(backups.c.session_id == session_id)
    if before is not None:
        mark = backup(connection, before)
        statement = statement.where(tuple_(backups.c.created_at, backups.c.id) < (mark.created_at, mark.id))
    rows = connection.execute(statement.order_by(*_newest_first()).limit(limit)).mappings()
    return _with_absent(connection, [record(row) for row in rows])


def _with_absent(connection: Connection, rows: list[Backup]) -> list[Backup]:
    ids = [row.id for row in rows]
    absent = absent_bytes(connection, ids)
    damaged = damaged_bytes(connection, list(absent))  # what is damaged is absent
    return [
        replace(row, absent_bytes=absent[row.id], damaged_bytes=damaged.get(row.id, 0)) if row.id in absent else row
        for row in rows
    ]


def ending_with(connection: Connection, end: str, limit: int) -> list[str]:
    """Return the ids of backups that end so; a walk over the ids alone."""
    statement = select(backups.c.id).where(func.substr(backups.c.id, -len(end)) == end).order_by(backups.c.id.desc())
    return list(connection.scalars(statement.limit(limit)))


def timeline(connection: Connection, session_id: str, limit: int, before: str | None) -> Timeline:
    """Return backups of a session with what they are linked with. Raises: SessionNotFound, BackupNotFound."""
    session = connection.execute(select(sessions.c.title).where(sessions.c.id == session_id)).first()
    if session is None:
        raise SessionNotFound(f"there is no session {session_id}")
    rows = list_backups(connection, session_id, limit, before)
    wanted = {row.parent_id for row in rows if row.parent_id} - {row.id for row in rows}
    parents = connection.execute(selection().where(backups.c.id.in_(wanted))).mappings()
    return Timeline(
        session_id=session_id,
        title=session.title,
        total=connection.scalar(select(func.count()).where(backups.c.session_id == session_id)) or 0,
        backups=tuple(rows),
        parents=tuple(record(row) for row in parents),
        forks=_forks(connection, session_id),
    )


def _forks(connection: Connection, session_id: str) -> tuple[SessionFork, ...]:
    """Return backups of other sessions that come from this one, newest first."""
    child, parent = backups.alias("child"), backups.alias("parent")
    rows = connection.execute(
        select(child.c.parent_id, child.c.id, child.c.session_id, child.c.created_at)
        .join(parent, parent.c.id == child.c.parent_id)
        .where(parent.c.session_id == session_id, child.c.session_id != session_id)
        .order_by(child.c.created_at.desc(), child.c.id.desc())
        .limit(MAX_FORKS)
    )
    return tuple(SessionFork(*row) for row in rows)


def forks_of(connection: Connection, session_id: str, backup_ids: Sequence[str]) -> list[SessionFork]:
    """Return the backups of other sessions that come from some backups of one, oldest first."""
    found: list[SessionFork] = []
    for at in range(0, len(backup_ids), _BATCH):
        mine = (backups.c.parent_id.in_(backup_ids[at : at + _BATCH]), backups.c.session_id != session_id)
        columns = (backups.c.parent_id, backups.c.id, backups.c.session_id, backups.c.created_at)
        rows = connection.execute(select(*columns).where(*mine).order_by(backups.c.created_at, backups.c.id))
        found += [SessionFork(*row) for row in rows]
    return found


def _newest_first() -> tuple[Any, Any]:
    return backups.c.created_at.desc(), backups.c.id.desc()


_ONE = Prepared(selection().where(backups.c.id == bindparam("backup_id")))
_NEWEST = Prepared(
    selection().where(backups.c.session_id == bindparam("of_session")).order_by(*_newest_first()).limit(1)
)
_SESSION_OF = Prepared(select(backups.c.session_id).where(backups.c.id == bindparam("backup_id")))


def session_of(connection: Connection, backup_id: str) -> str | None:
    """Return the session of a backup; None when it is not in the index."""
    found: str | None = _SESSION_OF.value(connection, backup_id=backup_id)
    return found


def totals(connection: Connection) -> Totals:
    """Return counts over the whole index."""
    here = select(func.coalesce(func.sum(tallies.c.count), 0), func.coalesce(func.sum(tallies.c.size_bytes), 0))
    blob_count, blob_bytes = connection.execute(here.where(tallies.c.present)).one()
    return Totals(
        sessions=connection.scalar(select(func.count()).select_from(sessions)) or 0,
        backups=connection.scalar(select(func.count()).select_from(backups)) or 0,
        blobs=blob_count,
        blob_bytes=blob_bytes,
        outbox_waiting=connection.scalar(select(func.count()).select_from(outbox)) or 0,
        last_backup_at=connection.scalar(select(func.max(backups.c.created_at))),
    )


def _blob_users(connection: Connection, backup_id: str) -> dict[str, tuple[int, int]]:
    """Return each blob of a backup: digest -> (size in bytes, how many other backups name it)."""
    mine, every = backup_blobs.alias("mine"), backup_blobs.alias("every")
    users = select(func.count()).where(every.c.digest == mine.c.digest).scalar_subquery()
    rows = connection.execute(
        select(mine.c.digest, blobs.c.size_bytes, users)
        .join(blobs, blobs.c.digest == mine.c.digest)
        .where(mine.c.backup_id == backup_id)
    )
    return {digest.hex(): (size, count - 1) for digest, size, count in rows}


def sharing(connection: Connection, backup_id: str, limit: int) -> tuple[dict[str, int], Sharing]:
    """Return how many other backups name each blob of a backup, and the `limit` that share most of its bytes.

    Joined from the backup's own blobs outwards, over the index of digests: the cost is that of the links of its blobs.
    """
    users = _blob_users(connection, backup_id)
    mine, theirs = backup_blobs.alias("mine"), backup_blobs.alias("theirs")
    shared = (
        select(
            theirs.c.backup_id,
            func.count().label("blobs"),
            func.sum(blobs.c.size_bytes).label("bytes"),
            func.count().over().label("others"),
        )
        .select_from(mine)
        .join(blobs, blobs.c.digest == mine.c.digest)
        .join(theirs, theirs.c.digest == mine.c.digest)
        .where(mine.c.backup_id == backup_id, theirs.c.backup_id != backup_id)
        .group_by(theirs.c.backup_id)
        .order_by(literal_column("bytes").desc(), theirs.c.backup_id.desc())
        .limit(limit)
        .subquery()
    )
    rows = connection.execute(
        select(shared, backups.c.session_id)
        .join(backups, backups.c.id == shared.c.backup_id)
        .order_by(shared.c.bytes.desc(), shared.c.backup_id.desc())
    ).all()
    counts = {digest: count for digest, (_, count) in users.items()}
    return counts, Sharing(
        backups=tuple(Sharer(row.backup_id, row.session_id, row.blobs, row.bytes) for row in rows),
        others=rows[0].others if rows else 0,
        shared_bytes=sum(size for size, count in users.values() if count),
        own_bytes=sum(size for size, count in users.values() if not count),
    )
