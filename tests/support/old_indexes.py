"""An index as an older version would have it: the older schema, and of the rows what that schema has room for."""

from __future__ import annotations

import functools
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from torpor.db.engine import writer_engine
from torpor.db.migrate import MIGRATIONS

REVISIONS = ("0001", "0002", "0003", "0004", "0005")


@functools.cache
def _empty(revision: str) -> bytes:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        path = Path(folder) / "index"
        engine = writer_engine(path)
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
        engine.dispose()
        return path.read_bytes()


def _columns(connection: sqlite3.Connection, schema: str) -> dict[str, list[str]]:
    names = connection.execute(f"SELECT name FROM {schema}.sqlite_master WHERE type = 'table'").fetchall()
    return {name: [row[1] for row in connection.execute(f"PRAGMA {schema}.table_info({name})")] for (name,) in names}


def age(index: Path, revision: str) -> None:
    """Make a closed index one of an older version."""
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # all of it in one file
    newer = index.with_name("newer")
    index.rename(newer)
    index.write_bytes(_empty(revision))
    index.chmod(0o600)
    with closing(sqlite3.connect(index)) as connection:
        connection.execute("ATTACH ? AS newer", (str(newer),))
        there = _columns(connection, "newer")
        for table, columns in _columns(connection, "main").items():
            shared = ", ".join(name for name in columns if name in there.get(table, ()))
            # The outbox was another table before 0004; tallies are kept by triggers.
            if shared and table not in ("alembic_version", "outbox", "tallies"):
                connection.execute(f"INSERT INTO {table} ({shared}) SELECT {shared} FROM newer.{table}")
        connection.commit()
    newer.unlink()


def dump(index: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of an index by table."""
    with closing(sqlite3.connect(f"{index.as_uri()}?mode=ro", uri=True)) as connection:
        tables = _columns(connection, "main")
        return {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}
