"""Statements of every save: written with SQLAlchemy, compiled once, and run by SQLite's own driver from then on.

SQLAlchemy takes about 110 µs to build a statement anew, find what it was compiled to and wrap its result; SQLite needs
10 to 20 µs for one of a save. So those that a save cannot do without are kept ready; all others stay as they are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from sqlalchemy import Boolean, Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.base import Executable

from .engine import AnyConnection, driver_of


class Prepared:
    """One statement, in which `bindparam` names what it is run with. It runs in whatever transaction is open.

    Only types that SQLite's driver knows itself go in and come out; truth values are made of the numbers they are.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement: Any = statement

    @cached_property
    def _sql(self) -> tuple[str, dict[str, Any]]:
        made = self._statement.compile(dialect=sqlite.dialect(paramstyle="named"))
        return str(made), dict(made.params)

    @cached_property
    def _columns(self) -> list[tuple[str, bool]]:
        assert isinstance(self._statement, Select)
        return [(str(column.key), isinstance(column.type, Boolean)) for column in self._statement.selected_columns]

    def run(self, connection: AnyConnection, values: Mapping[str, Any]) -> sqlite3.Cursor:
        """Run it once."""
        sql, own = self._sql
        return driver_of(connection).execute(sql, {**own, **values})

    def run_each(self, connection: AnyConnection, rows: Iterable[Mapping[str, Any]]) -> None:
        """Run it once for each of some rows."""
        sql, own = self._sql
        driver_of(connection).executemany(sql, [{**own, **row} for row in rows])

    def first(self, connection: AnyConnection, **values: Any) -> dict[str, Any] | None:
        """Return the first row by the names of its columns, or None."""
        cursor = self.run(connection, values)
        row = cursor.fetchone()
        cursor.close()  # what is not read to its end would keep the transaction's view open
        if row is None:
            return None
        return {
            name: bool(value) if truth and value is not None else value
            for (name, truth), value in zip(self._columns, row, strict=True)
        }

    def value(self, connection: AnyConnection, **values: Any) -> Any:
        """Return the first column of the first row as SQLite has it, or None."""
        cursor = self.run(connection, values)
        row = cursor.fetchone()
        cursor.close()
        return None if row is None else row[0]
