"""How the index stands, in a few counts: what is asked for whenever something changed, so it must stay cheap."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from ..state.power import ON_BATTERY
from .schema import backup_blobs, backups, blobs, outbox, sessions


@dataclass(frozen=True, slots=True)
class Standing:
    """Counts of sessions, of backups that are damaged, wait to be sent or for mains power, and of given up uploads."""

    sessions: int
    last_backup_at: float | None
    damaged: int
    waiting: int
    given_up: int
    waiting_for_power: int


def standing(connection: Connection) -> Standing:
    """Count."""
    waiting = select(func.count(outbox.c.backup_id.distinct())).where(
        outbox.c.kind == "push", outbox.c.state.in_(("pending", "leased"))
    )
    given_up = select(func.count()).select_from(outbox).where(outbox.c.state == "dead")
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
        last_backup_at=connection.scalar(select(func.max(backups.c.created_at))),
        damaged=connection.scalar(damaged) or 0,
        waiting=connection.scalar(waiting) or 0,
        given_up=connection.scalar(given_up) or 0,
        waiting_for_power=connection.scalar(for_power) or 0,
    )
