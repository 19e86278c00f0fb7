"""Which messages can be searched, as functions of a connection: those of each session's newest backup, and its title.

A session's row in `searched` names the backup whose messages are entered, and says whether all of them are. It is
written with the first of them, so a removal of that backup finds them at any time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, or_, select
from sqlalchemy.dialects.sqlite import insert as upsert

from ..state.words import BEGIN, END, apart, expression, needs_width
from .schema import backups, messages, searched, sessions
from .words import enter_words, find_words, has_words

TITLE = -1  # the position of a session's title
_MATCHES = 300  # that are looked at, the best: a page of sessions comes out of them
_WIDTH, _WIDE = 24, 60  # words of an excerpt
_BATCH = 500  # keys of one statement


@dataclass(frozen=True, slots=True)
class Target:
    """What of a session is to be searched: its newest backup, and its title."""

    session_id: str
    backup_id: str
    title: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """A message to be entered; the digest is of the message as the manifest has it."""

    position: int
    role: str
    digest: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """A message that fits: its position (`TITLE` for a title), and an excerpt with marks (state/words.py)."""

    position: int
    role: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class Found:
    """A session with what of it fits, best first; `hits` counts those among the best of all."""

    session_id: str
    title: str | None
    backup_id: str
    created_at: float
    hits: int
    matches: tuple[Match, ...]


def target_of(connection: Connection, session_id: str) -> Target | None:
    """Return what of a session is to be searched, None when there is no such session."""
    newest_first = (backups.c.created_at.desc(), backups.c.id.desc())
    mine = select(backups.c.id, sessions.c.title).join(sessions, sessions.c.id == backups.c.session_id)
    row = connection.execute(mine.where(backups.c.session_id == session_id).order_by(*newest_first).limit(1)).first()
    return None if row is None else Target(session_id, row.id, row.title)


def behind(connection: Connection) -> list[str]:
    """Return the sessions of which something else is to be searched than is, the newest first."""
    each = backups.alias("each")
    newest_first = (each.c.created_at.desc(), each.c.id.desc())
    newest = select(each.c.id).where(each.c.session_id == sessions.c.id).order_by(*newest_first).limit(1)
    differs = or_(
        searched.c.session_id.is_(None),
        ~searched.c.whole,
        searched.c.title.is_distinct_from(sessions.c.title),
        searched.c.backup_id.is_distinct_from(newest.scalar_subquery()),
    )
    rows = select(sessions.c.id).outerjoin(searched, searched.c.session_id == sessions.c.id).where(differs)
    return list(connection.scalars(rows.order_by(sessions.c.updated_at.desc(), sessions.c.id.desc())))


def is_searched(connection: Connection, target: Target) -> bool:
    """Tell whether all of a target can be searched."""
    row = connection.execute(select(searched).where(searched.c.session_id == target.session_id)).first()
    return row is not None and row.whole and (row.backup_id, row.title) == (target.backup_id, target.title)


def known_digests(connection: Connection, session_id: str) -> dict[int, bytes]:
    """Return the digests of a session's messages that are entered, by position."""
    mine = select(messages.c.position, messages.c.digest).where(messages.c.session_id == session_id)
    return {row.position: row.digest for row in connection.execute(mine)}


def begin_entering(connection: Connection, target: Target, stale: Collection[int]) -> bool:
    """Take out messages that are no longer so, and note what is being entered; False when that is not the newest."""
    if target_of(connection, target.session_id) != target:
        return False
    for at in range(0, len(stale), _BATCH):
        gone = messages.c.position.in_(sorted(stale)[at : at + _BATCH])
        connection.execute(delete(messages).where(messages.c.session_id == target.session_id, gone))
    _note(connection, target, whole=False)
    return True


def enter(connection: Connection, target: Target, entries: Sequence[Entry], *, last: bool) -> bool:
    """Enter some messages; with `last`, these are all. False when the backup was removed meanwhile."""
    begun = select(searched.c.backup_id).where(searched.c.session_id == target.session_id)
    if connection.scalar(begun) != target.backup_id:
        return False
    rows: list[tuple[int, str]] = []
    for entry in entries:
        values = {"session_id": target.session_id, "position": entry.position}
        values |= {"role": entry.role, "digest": entry.digest}
        made: Any = connection.execute(insert(messages).values(values)).inserted_primary_key
        rows.append((made[0], apart(entry.text)))
    enter_words(connection, rows)
    if last:
        _note(connection, target, whole=True)
    return True


def _note(connection: Connection, target: Target, *, whole: bool) -> None:
    row = {"session_id": target.session_id, "backup_id": target.backup_id, "title": target.title, "whole": whole}
    connection.execute(upsert(searched).values(row).on_conflict_do_update(index_elements=["session_id"], set_=row))


def forget(connection: Connection, backup_id: str, session_id: str) -> None:
    """Take out the messages of a backup that is removed; those of the next newest one are entered by the way."""
    entered = select(searched.c.backup_id).where(searched.c.session_id == session_id)
    others = select(backups.c.id).where(backups.c.session_id == session_id, backups.c.id != backup_id).limit(1)
    if connection.scalar(entered) != backup_id and connection.scalar(others) is not None:
        return
    connection.execute(delete(messages).where(messages.c.session_id == session_id))
    connection.execute(delete(searched).where(searched.c.session_id == session_id))


def is_empty(connection: Connection) -> bool:
    """Tell whether nothing can be searched."""
    return connection.scalar(select(searched.c.session_id).limit(1)) is None


def search(connection: Connection, question: str, limit: int, shown: int) -> tuple[list[Found], bool]:
    """Return the sessions in which a question's words stand in one message, best first, and whether there are more."""
    asked = expression(question)
    if asked is None or not has_words(connection):
        return [], False
    width = _WIDE if needs_width(question) else _WIDTH
    by_session: dict[str, list[Match]] = {}
    rows = find_words(connection, asked, _MATCHES, begin=BEGIN, end=END, width=width)
    for session_id, position, role, excerpt in rows:
        by_session.setdefault(session_id, []).append(Match(position, role, excerpt))
    wanted = list(by_session)[:limit]
    about = {row.session_id: row for row in connection.execute(_about(wanted))}
    found = [
        Found(each, row.title, row.backup_id, row.created_at, len(by_session[each]), tuple(by_session[each][:shown]))
        for each in wanted
        if (row := about.get(each)) is not None
    ]
    return found, len(by_session) > limit or len(rows) == _MATCHES


def _about(session_ids: Sequence[str]) -> Any:
    return (
        select(searched.c.session_id, sessions.c.title, searched.c.backup_id, backups.c.created_at)
        .join(sessions, sessions.c.id == searched.c.session_id)
        .join(backups, backups.c.id == searched.c.backup_id)
        .where(searched.c.session_id.in_(session_ids))
    )
