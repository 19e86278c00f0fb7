"""How the index stands, in a few counts: what is asked for whenever something changed, so it must stay cheap."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from ..state.power import ON_BATTERY
from .schema import backup_blobs, backups, blobs, outbox, sessions


@dataclass(frozen=True, slots=True)
class Standing:
    """Counts of sessions, of backups that are damaged, wait to be sent or for mains power, and of what was given up."""

    sessions: int
    staying: int  # of them: never leave this machine
    last_backup_at: float | None
    damaged: int
    waiting: int
    given_up: int  # uploads
    removals_given_up: int
    waiting_for_power: int


def standing(connection: Connection) -> Standing:
    """Count."""
    waiting = select(func.count(outbox.c.backup_id.distinct())).where(
        outbox.c.kind == "push", outbox.c.state.in_(("pending", "leased"))
    )
    by_kind = select(outbox.c.kind, func.count().label("dead")).where(outbox.c.state == "dead").group_by(outbox.c.kind)
    given_up = {row.kind: row.dead for row in connection.execute(by_kind)}
    for_power = select(func.count(outbox.c.backup_id.distinct())).where(
        outbox.c.state == "held", outbox.c.error == ON_BATTERY
    )
    damaged = (
        select(func.count(backup_blobs.c.backup_id.distinct()))
        .join(blobs, blobs.c.digest == backup_blobs.c.digest)
        .where(blobs.c.damaged_at.is_not(None))
    )
    return Standing(
        sessions=connection.scalar(select(func.count()).select_from(sessions)) or 0,
        staying=connection.scalar(select(func.count()).select_from(sessions).where(sessions.c.no_sync)) or 0,
        last_backup_at=connection.scalar(select(func.max(backups.c.created_at))),
        damaged=connection.scalar(damaged) or 0,
        waiting=connection.scalar(waiting) or 0,
        given_up=given_up.get("push", 0),
        removals_given_up=given_up.get("remove", 0),
        waiting_for_power=connection.scalar(for_power) or 0,
    )
