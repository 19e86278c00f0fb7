"""Groups in the index: backups that share a `group_id`."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from ..state.backup import Backup
from ..state.errors import GroupNotFound
from .queries import record, selection
from .schema import backups


@dataclass(frozen=True, slots=True)
class GroupRow:
    """A group as it is listed: `present` of its members are still there."""

    id: str
    name: str
    created_at: float
    present: int
    bytes_total: int


def members(connection: Connection, group_id: str) -> list[Backup]:
    """Return the backups of a group that are there, by session. Raises: GroupNotFound when there is none."""
    rows = connection.execute(
        selection().where(backups.c.group_id == group_id).order_by(backups.c.session_id)
    ).mappings()
    found = [record(row) for row in rows]
    if not found:
        raise GroupNotFound(f"there is no group {group_id}")
    return found


def newest_id(connection: Connection, name: str) -> str:
    """Return the id of the newest group of a name. Raises: GroupNotFound."""
    statement = select(backups.c.group_id).where(backups.c.group_name == name)
    found = connection.scalar(statement.order_by(backups.c.created_at.desc(), backups.c.group_id.desc()).limit(1))
    if found is None:
        raise GroupNotFound(f"there is no group {name}")
    return str(found)


def list_groups(connection: Connection, limit: int) -> list[GroupRow]:
    """Return groups, newest first. `bytes_total` counts blobs that members share more than once."""
    at = func.min(backups.c.created_at)
    rows = connection.execute(
        select(
            backups.c.group_id,
            func.min(backups.c.group_name),
            at,
            func.count(),
            func.sum(backups.c.bytes_total),
        )
        .where(backups.c.group_id.is_not(None))
        .group_by(backups.c.group_id)
        .order_by(at.desc(), backups.c.group_id.desc())
        .limit(limit)
    )
    return [GroupRow(*row) for row in rows]
