"""Values that may be forgotten, by kind and key; the least recently used go when there are too many."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import delete, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from ..state.remembered import MAX_ENTRIES, Kind
from .index import Index
from .schema import remembered as table

TOUCH_S = 3600.0  # a use is noted no more often: reading should not cost a durable write


class Remembered:
    """The table `remembered` of an open index. Values are JSON texts. `noted` learns of each that was put."""

    def __init__(
        self,
        index: Index,
        *,
        max_entries: int = MAX_ENTRIES,
        noted: Callable[[Kind, str], None] = lambda kind, key: None,
    ) -> None:
        self._index, self._max_entries, self._noted = index, max_entries, noted

    def get(self, kind: Kind, key: str, *, now: float) -> str | None:
        """Return a value, or None; it counts as used."""
        mine = (table.c.kind == kind, table.c.key == key)
        with self._index.reading() as connection:
            row = connection.execute(select(table.c.value, table.c.used_at).where(*mine)).first()
        if row is None:
            return None
        value, used_at = row
        if abs(now - used_at) > TOUCH_S:  # a clock that was set back counts too
            with self._index.writing() as connection:
                connection.execute(update(table).where(*mine).values(used_at=now))
        return str(value)

    def put(self, kind: Kind, key: str, value: str, *, now: float) -> None:
        """Remember a value in place of the one before. Durability: on return it survives power loss."""
        row = {"kind": kind, "key": key, "value": value, "used_at": now}
        newest = select(table.c.key).where(table.c.kind == kind).order_by(table.c.used_at.desc(), table.c.key)
        with self._index.writing() as connection:
            statement = upsert(table).values(row)
            connection.execute(statement.on_conflict_do_update(index_elements=["kind", "key"], set_=row))
            kept = newest.limit(self._max_entries).scalar_subquery()
            connection.execute(delete(table).where(table.c.kind == kind, table.c.key.not_in(kept)))
        self._noted(kind, key)
