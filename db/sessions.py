"""Sessions as a page lists them, newest first: a few questions for a page of them, whatever the index holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, or_, select, tuple_

from ..state.backup import Backup
from ..state.errors import SessionNotFound
from ..state.glimpse import Glimpse
from . import queries
from .previews import previews_of
from .schema import backups, sessions


@dataclass(frozen=True, slots=True)
class Origin:
    """The backup of another session that a session began at."""

    session_id: str
    backup_id: str


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session. `written_bytes` are those that its backups were the first to write; `forks` began in it.

    `glimpse` is that of its newest backup, None while it waits for one.
    """

    session_id: str
    title: str | None
    backups: int
    written_bytes: int
    oldest_at: float
    newest: Backup
    glimpse: Glimpse | None
    forked_from: Origin | None
    forks: int


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Some sessions, newest first; `total` counts all that fit the question, `more` tells whether older ones follow."""

    sessions: tuple[SessionRow, ...]
    total: int
    more: bool


def list_sessions(connection: Connection, limit: int, before: str | None = None, named: str = "") -> SessionPage:
    """Return sessions, newest first, older than the session `before`, with `named` in their id or title.

    Raises: SessionNotFound when `before` is unknown.
    """
    wanted = _named(select(sessions.c.id, sessions.c.title), named)
    total = connection.scalar(_named(select(func.count()).select_from(sessions), named)) or 0
    if before is not None:
        at = connection.scalar(select(sessions.c.updated_at).where(sessions.c.id == before))
        if at is None:
            raise SessionNotFound(f"there is no session {before}")
        wanted = wanted.where(tuple_(sessions.c.updated_at, sessions.c.id) < (at, before))
    newest_first = (sessions.c.updated_at.desc(), sessions.c.id.desc())
    rows = connection.execute(wanted.order_by(*newest_first).limit(limit + 1)).all()
    return SessionPage(tuple(_described(connection, rows[:limit])), total, len(rows) > limit)


def _named(statement: Select[Any], named: str) -> Select[Any]:
    if not named:
        return statement
    return statement.where(or_(*(c.icontains(named, autoescape=True) for c in (sessions.c.id, sessions.c.title))))


def _described(connection: Connection, rows: Sequence[Any]) -> list[SessionRow]:
    ids = [row.id for row in rows]
    sums, newest = _sums(connection, ids), {each.session_id: each for each in _newest(connection, ids)}
    shown = previews_of(connection, [each.id for each in newest.values()])
    origins, forks = _origins(connection, ids), _forks(connection, ids)
    return [
        SessionRow(
            session_id=row.id,
            title=row.title,
            backups=sums[row.id].backups,
            written_bytes=sums[row.id].written_bytes,
            oldest_at=sums[row.id].oldest_at,
            newest=newest[row.id],
            glimpse=shown.get(newest[row.id].id),
            forked_from=origins.get(row.id),
            forks=forks.get(row.id, 0),
        )
        for row in rows
        if row.id in newest
    ]


def _sums(connection: Connection, ids: Sequence[str]) -> dict[str, Any]:
    found = connection.execute(
        select(
            backups.c.session_id,
            func.count().label("backups"),
            func.sum(backups.c.bytes_written).label("written_bytes"),
            func.min(backups.c.created_at).label("oldest_at"),
        )
        .where(backups.c.session_id.in_(ids))
        .group_by(backups.c.session_id)
    )
    return {row.session_id: row for row in found}


def _newest(connection: Connection, ids: Sequence[str]) -> list[Backup]:
    return queries.backups_of(connection, _ends(ids, newest=True))


def _ends(ids: Sequence[str], *, newest: bool) -> Select[Any]:
    """Select the newest backup of each session, or the oldest: one step in an index for each."""
    each = backups.alias("each")
    order = (each.c.created_at.desc(), each.c.id.desc()) if newest else (each.c.created_at, each.c.id)
    end = select(each.c.id).where(each.c.session_id == sessions.c.id).order_by(*order).limit(1).scalar_subquery()
    return select(end).where(sessions.c.id.in_(ids))


def _origins(connection: Connection, ids: Sequence[str]) -> dict[str, Origin]:
    """Return where sessions were forked; of a parent that is gone nothing is known."""
    parent = backups.alias("parent")
    rows = connection.execute(
        select(backups.c.session_id, parent.c.session_id.label("of"), parent.c.id)
        .join(parent, parent.c.id == backups.c.parent_id)
        .where(backups.c.id.in_(_ends(ids, newest=False)), parent.c.session_id != backups.c.session_id)
    )
    return {row.session_id: Origin(row.of, row.id) for row in rows}


def _forks(connection: Connection, ids: Sequence[str]) -> dict[str, int]:
    child = backups.alias("child")
    rows = connection.execute(
        select(backups.c.session_id, func.count(child.c.session_id.distinct()).label("forks"))
        .join(child, child.c.parent_id == backups.c.id)
        .where(backups.c.session_id.in_(ids), child.c.session_id != backups.c.session_id)
        .group_by(backups.c.session_id)
    )
    return {row.session_id: row.forks for row in rows}
