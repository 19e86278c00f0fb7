"""A new index is made by the statements of the migrations, which are gathered once: Alembic takes ten times as long as they.

They run in one transaction on the same connection, so disk, faults and a power cut meet what they would have met. An
index that is there, even an unfinished one, is Alembic's as ever.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from torpor.db import index
from torpor.db.engine import writer_engine

by_alembic = index.migrate
_CHANGES_NOTHING = ("BEGIN", "PRAGMA", "SELECT")


def replay_new_indexes() -> None:
    """Make it so, for the whole run."""
    index.migrate = _replayed


def _replayed(engine: Engine, path: Path) -> bool:
    if path.exists() and path.stat().st_size:
        return by_alembic(engine, path)
    statements = statements_of_the_migrations()
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement).close()
    return True


@functools.cache
def statements_of_the_migrations() -> tuple[str, ...]:
    """Return what the migrations say to SQLite that changes an empty index, in order."""
    found: list[str] = []

    def note(connection: object, cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if not statement.startswith(_CHANGES_NOTHING):
            assert not parameters, "they are told apart from what is run by the statement alone"
            found.append(statement)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite"
        engine = writer_engine(path)
        event.listen(engine, "before_cursor_execute", note)
        by_alembic(engine, path)
        engine.dispose()
    return tuple(found)
