"""What the user said of a session, as its sidecar has it, brought into the index where that says something else."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, or_, select, update

from .outbox_rows import remove_pushes
from .schema import backups, sessions

OF_SESSION = ("title", "no_sync", "ttl_s", "keep_newest")
_BATCH = 500  # keys of one statement


@dataclass(frozen=True, slots=True)
class Choices:
    """What was said of one session: `of_session` by the names of its columns; `pinned` are all that are.

    `expires_at` and `dropped_at` say something of those backups that are in them.
    """

    session_id: str
    of_session: Mapping[str, Any]
    pinned: Collection[str]
    expires_at: Mapping[str, float]
    dropped_at: Mapping[str, float]


def apply_choices(connection: Connection, said: Choices) -> int:
    """Make the rows of a session say what its sidecar says; return how many rows changed.

    What waits of a session that stays here leaves the queue, too: a crash may have come before it did.
    """
    differs = or_(*(sessions.c[name].is_distinct_from(value) for name, value in said.of_session.items()))
    mine = (sessions.c.id == said.session_id, differs)
    changed = connection.execute(update(sessions).where(*mine).values(**said.of_session)).rowcount
    if said.of_session["no_sync"]:
        changed += remove_pushes(connection, said.session_id)
    theirs = backups.c.session_id == said.session_id
    were = set(connection.scalars(select(backups.c.id).where(theirs, backups.c.pinned)))
    for wanted, ids in ((True, set(said.pinned) - were), (False, were - set(said.pinned))):
        for start in range(0, len(ids), _BATCH):
            batch = backups.c.id.in_(sorted(ids)[start : start + _BATCH])
            changed += connection.execute(update(backups).where(theirs, batch).values(pinned=wanted)).rowcount
    for name, times in (("expires_at", said.expires_at), ("dropped_at", said.dropped_at)):
        for backup_id, at in times.items():
            late = (backups.c.id == backup_id, backups.c[name].is_distinct_from(at))
            changed += connection.execute(update(backups).where(theirs, *late).values({name: at})).rowcount
    return changed


def stays_here(connection: Connection) -> Iterator[str]:
    """Yield the sessions of which nothing leaves this machine."""
    yield from connection.scalars(select(sessions.c.id).where(sessions.c.no_sync))


def every_choice(connection: Connection) -> Iterator[Choices]:
    """Yield what the index says of every session."""
    rows = list(connection.execute(select(sessions.c.id, *(sessions.c[name] for name in OF_SESSION))).mappings())
    for row in rows:
        columns = (backups.c.id, backups.c.pinned, backups.c.expires_at, backups.c.dropped_at)
        mine = connection.execute(select(*columns).where(backups.c.session_id == row["id"])).all()
        yield Choices(
            row["id"],
            {name: row[name] for name in OF_SESSION},
            {each.id for each in mine if each.pinned},
            {each.id: each.expires_at for each in mine if each.expires_at is not None},
            {each.id: each.dropped_at for each in mine if each.dropped_at is not None},
        )
