"""The durable queue (table `outbox`): what is leased next, and what becomes of it. state/outbox.py has the rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Row, Select, and_, delete, func, or_, select, update

from ..state.outbox import LONGEST_DELAY_S, SMALL_BYTES, ErrorClass, Item, Stage
from .index import Index
from .schema import backups, sessions
from .schema import outbox as table

_T = TypeVar("_T")
_BATCH = 500  # ids of one statement
_ITEM = ("id", "kind", "backup_id", "session_id", "stage", "size_bytes", "attempts")


@dataclass(frozen=True, slots=True)
class Waiting:
    """Items of one stage and state, how many and their raw bytes. `stage` is empty for removals."""

    stage: Stage | None
    state: str
    count: int
    size_bytes: int
    next_at: float


@dataclass(frozen=True, slots=True)
class Entry:
    """An item with what became of it. `error` is the reason of a failure, or of a policy that keeps it here."""

    item: Item
    state: str
    next_at: float
    error_class: ErrorClass | None
    error: str | None


class OutboxTable:
    """The outbox of an open index; implements the port of the same name. Every change is on disk when it returns."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def lease(self, now: float, owner: str, until: float) -> list[Item]:
        """Take what is due first, and those stages of the same backup behind it that are small together with it."""
        with self._index.writing() as connection:
            first = connection.execute(_in_order(_due(now)).limit(1)).first()
            if first is None:
                return []
            found = [_item(first)]
            if found[0].stage is not None:
                found = _with_small(found[0], connection.execute(_siblings(found[0], now)))
            ids = [item.id for item in found]
            lease = {"state": "leased", "lease_owner": owner, "lease_until": until}
            connection.execute(update(table).where(table.c.id.in_(ids)).values(lease))
        return found

    def renew(self, ids: Iterable[int], until: float) -> None:
        """Keep a lease."""
        self._change(ids, {"lease_until": until}, table.c.state == "leased")

    def release(self, ids: Iterable[int]) -> None:
        """Give items back untouched."""
        self._change(ids, _FREED, table.c.state == "leased")

    def defer(self, ids: Iterable[int], next_at: float) -> None:
        """Let others have their turn first; no attempt is counted."""
        self._change(ids, {**_FREED, "next_at": next_at}, table.c.state == "leased")

    def release_all(self) -> int:
        """Free every lease, at start: a home has one daemon, so their owners are dead. Return how many there were."""
        with self._index.writing() as connection:
            return connection.execute(update(table).where(table.c.state == "leased").values(_FREED)).rowcount

    def finish(self, ids: Iterable[int]) -> None:
        """Remove items that are done."""
        with self._index.writing() as connection:
            for batch in _batches(ids):
                connection.execute(delete(table).where(table.c.id.in_(batch)))

    def fail(self, item_id: int, kind: ErrorClass, detail: str, next_at: float | None) -> None:
        """Count an attempt, and try again at `next_at`, or never by itself (dead) when that is None."""
        values: dict[str, Any] = {"attempts": table.c.attempts + 1, "error_class": kind, "error": detail}
        values |= _FREED if next_at is not None else {**_FREED, "state": "dead"}
        self._change([item_id], values | ({} if next_at is None else {"next_at": next_at}))

    def hold(self, item_id: int, reason: str) -> None:
        """Keep an item here, by policy."""
        self._change([item_id], {**_FREED, "state": "held", "error_class": None, "error": reason})

    def next_due(self) -> float | None:
        """Return when the next item is due; None when nothing waits."""
        with self._index.reading() as connection:
            waits = select(func.min(table.c.next_at)).where(table.c.state.in_(("pending", "leased")))
            found: float | None = connection.scalar(waits)
        return found

    def first_priority(self, now: float) -> int | None:
        """Return the priority of what would be leased now; None when nothing is due."""
        with self._index.reading() as connection:
            found: int | None = connection.scalar(select(func.min(table.c.priority)).where(_due(now)))
        return found

    def hasten(self, now: float) -> None:
        """Make everything due that waits for another attempt."""
        with self._index.writing() as connection:
            connection.execute(update(table).where(table.c.state == "pending").values(next_at=now))

    def reconsider(self) -> int:
        """Let what a policy keeps here be decided again; return how many there are."""
        with self._index.writing() as connection:
            held = update(table).where(table.c.state == "held")
            return connection.execute(held.values(state="pending", error=None)).rowcount

    def retry(self, now: float, item_ids: Iterable[int] | None = None) -> int:
        """Try given up items again, all or some; return how many there were."""
        chosen = [table.c.state == "dead"] + ([] if item_ids is None else [table.c.id.in_(list(item_ids))])
        with self._index.writing() as connection:
            again = update(table).where(*chosen).values(state="pending", attempts=0, next_at=now)
            return connection.execute(again).rowcount

    def revive(self, now: float) -> int:
        """Try again what was given up for no reason of its own: keys, limits and storage may be others by now."""
        mine = (table.c.state == "dead", table.c.error_class.in_(("auth", "throttled", "failed")))
        with self._index.writing() as connection:
            again = update(table).where(*mine).values(state="pending", attempts=0, next_at=now)
            return connection.execute(again).rowcount

    def summary(self) -> list[Waiting]:
        """Count what is in the outbox, by stage and state."""
        counted = (func.count(), func.sum(table.c.size_bytes), func.min(table.c.next_at))
        statement = select(table.c.stage, table.c.state, *counted).group_by(table.c.stage, table.c.state)
        with self._index.reading() as connection:
            rows = connection.execute(statement.order_by(func.min(table.c.priority), table.c.state))
            return [Waiting(stage or None, state, count, size, at) for stage, state, count, size, at in rows]

    def entries(self, state: str, limit: int) -> list[Entry]:
        """Return items of a state, in the order in which they would go."""
        with self._index.reading() as connection:
            return [_entry(row) for row in connection.execute(_in_order(table.c.state == state).limit(limit))]

    def of_backups(self, backup_ids: Iterable[str]) -> dict[str, list[Entry]]:
        """Return what waits of each of some backups."""
        found: dict[str, list[Entry]] = {}
        with self._index.reading() as connection:
            for batch in _batches(backup_ids):
                for row in connection.execute(_in_order(table.c.backup_id.in_(batch))):
                    found.setdefault(row.backup_id, []).append(_entry(row))
        return found

    def still_leased(self, ids: Iterable[int]) -> set[int]:
        """Return which of some items are leased still, and were not taken out of the queue."""
        found: set[int] = set()
        with self._index.reading() as connection:
            for batch in _batches(ids):
                mine = select(table.c.id).where(table.c.id.in_(batch), table.c.state == "leased")
                found.update(connection.scalars(mine))
        return found

    def left_out(self, backup_id: str, sent: Iterable[Stage]) -> dict[Stage, str]:
        """Say why stages of a backup, other than those that are being sent, are not in the bucket."""
        entries, going = self.of_backups([backup_id]).get(backup_id, []), set(sent)
        return {
            stage: _reason(entry) for entry in entries if (stage := entry.item.stage) is not None and stage not in going
        }

    def _change(self, ids: Iterable[int], values: dict[str, Any], *more: ColumnElement[bool]) -> None:
        with self._index.writing() as connection:
            for batch in _batches(ids):
                connection.execute(update(table).where(table.c.id.in_(batch), *more).values(values))


_FREED: dict[str, Any] = {"state": "pending", "lease_owner": None, "lease_until": None}


def _reason(entry: Entry) -> str:
    if entry.state == "held" and entry.error:
        return entry.error
    return f"it could not be sent: {entry.error}" if entry.state == "dead" else "it was not sent yet"


def _due(now: float) -> ColumnElement[bool]:
    """Tell what may be leased. A time beyond the longest delay was set before the wall clock was set back."""
    late = or_(table.c.next_at <= now, table.c.next_at > now + LONGEST_DELAY_S)
    return or_(and_(table.c.state == "pending", late), and_(table.c.state == "leased", table.c.lease_until <= now))


def _in_order(condition: ColumnElement[bool]) -> Select[Any]:
    """Select items: the lowest stage, then the newest session, then the newest backup."""
    return (
        select(table)
        .outerjoin(sessions, sessions.c.id == table.c.session_id)
        .outerjoin(backups, backups.c.id == table.c.backup_id)
        .where(condition)
        .order_by(
            table.c.priority,
            func.coalesce(sessions.c.updated_at, 0.0).desc(),
            func.coalesce(backups.c.created_at, 0.0).desc(),
            table.c.backup_id.desc(),
        )
    )


def _siblings(first: Item, now: float) -> Select[Any]:
    mine = (table.c.backup_id == first.backup_id, table.c.kind == "push", _due(now))
    return select(table).where(*mine).order_by(table.c.priority)


def _with_small(first: Item, rows: Iterable[Row[Any]]) -> list[Item]:
    found, total = [first], first.size_bytes
    for item in map(_item, rows):
        if item.id == first.id:
            continue
        total += item.size_bytes
        if total > SMALL_BYTES:
            break
        found.append(item)
    return found


def _item(row: Row[Any]) -> Item:
    values = {name: row._mapping[name] for name in _ITEM}
    return Item(**values | {"stage": values["stage"] or None})


def _entry(row: Row[Any]) -> Entry:
    return Entry(_item(row), row.state, row.next_at, row.error_class, row.error)


def _batches(values: Iterable[_T]) -> Iterator[list[_T]]:
    whole = list(values)
    for at in range(0, len(whole), _BATCH):
        yield whole[at : at + _BATCH]
