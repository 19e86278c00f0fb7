"""What the drawing of a session's history needs of the index: all of its backups, each in three values."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select

from ..state.backup import Backup
from ..state.errors import SessionNotFound
from ..state.glimpse import Glimpse
from ..state.timeline import Drawing, Node, draw
from . import queries
from .previews import previews_of
from .records import SessionFork
from .schema import backups, sessions

_BATCH = 500  # keys of one statement


@dataclass(frozen=True, slots=True)
class Drawn:
    """The whole drawing of a session with `backups` backups; the newest of them tells whether it is still true."""

    title: str | None
    backups: int
    newest: str
    drawing: Drawing


@dataclass(frozen=True, slots=True)
class Details:
    """What is shown of some rows: the backups that are there and their parents, how they look, and the forks."""

    backups: dict[str, Backup]
    glimpses: dict[str, Glimpse]
    forks: dict[str, list[SessionFork]]


def draw_session(connection: Connection, session_id: str) -> Drawn:
    """Draw the history of a session. Raises: SessionNotFound."""
    session = connection.execute(select(sessions.c.title).where(sessions.c.id == session_id)).first()
    if session is None:
        raise SessionNotFound(f"there is no session {session_id}")
    rows = connection.execute(
        select(backups.c.id, backups.c.parent_id, backups.c.created_at).where(backups.c.session_id == session_id)
    )
    nodes = [Node(*row) for row in rows]
    known = {node.id for node in nodes}
    wanted = list({node.parent_id for node in nodes if node.parent_id is not None} - known)
    elsewhere: set[str] = set()
    for at in range(0, len(wanted), _BATCH):
        elsewhere.update(connection.scalars(select(backups.c.id).where(backups.c.id.in_(wanted[at : at + _BATCH]))))
    newest = max(nodes, key=lambda node: (node.created_at, node.id))
    return Drawn(session.title, len(nodes), newest.id, draw(nodes, elsewhere=elsewhere))


def details(connection: Connection, session_id: str, backup_ids: list[str]) -> Details:
    """Return what is shown of some rows of a session's drawing; what is gone by now is left out."""
    found: dict[str, Backup] = {}
    for at in range(0, len(backup_ids), _BATCH):
        found |= {each.id: each for each in queries.backups_of(connection, backup_ids[at : at + _BATCH])}
    parents = list({each.parent_id for each in found.values() if each.parent_id is not None} - found.keys())
    for at in range(0, len(parents), _BATCH):
        found |= {each.id: each for each in queries.backups_of(connection, parents[at : at + _BATCH])}
    forks: dict[str, list[SessionFork]] = {}
    for fork in queries.forks_of(connection, session_id, backup_ids):
        forks.setdefault(fork.parent_id, []).append(fork)
    return Details(found, previews_of(connection, list(found)), forks)
