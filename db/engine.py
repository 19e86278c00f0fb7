"""SQLite connections: exactly one that writes and checkpoints, and read-only ones beside it.

SQLite before 3.51.3 can reset its WAL wrongly when two connections checkpoint at once; with one writer it cannot.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import QueuePool, StaticPool

BUSY_TIMEOUT_S = 10.0

AnyConnection: TypeAlias = Connection | sqlite3.Connection  # both are ways to the same transaction


def connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open an index; without `read_only` it is made when there is none, and turned to WAL mode."""
    mode = "ro" if read_only else "rwc"
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
    )
    try:
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA cache_size = -4096")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def journal_of(path: Path) -> Path:
    """Return where the rollback journal of a database lies: of one that is just being turned to WAL mode."""
    return path.with_name(path.name + "-journal")


def roll_back(path: Path) -> None:
    """Take back what a crash left half done in a rollback journal; a connection that only reads cannot, and fails.

    Raises: sqlite3.DatabaseError.
    """
    if not journal_of(path).exists():
        return
    connection = sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    finally:
        connection.close()


def driver_of(connection: AnyConnection) -> sqlite3.Connection:
    """Return SQLite's own connection: what goes to it goes past SQLAlchemy, which takes longer than most statements."""
    if isinstance(connection, sqlite3.Connection):
        return connection
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver


def writer_engine(path: Path) -> Engine:
    """Return the engine of the one connection that writes. Its transactions are `BEGIN IMMEDIATE`."""
    engine = create_engine("sqlite://", creator=lambda: connect(path, read_only=False), poolclass=StaticPool)
    event.listen(engine, "begin", lambda connection: driver_of(connection).execute("BEGIN IMMEDIATE"))
    return engine


def kept_driver(writer: Engine) -> sqlite3.Connection:
    """Return the connection of a writer's engine, which keeps that one until it is disposed of."""
    with writer.connect() as connection:
        return driver_of(connection)


@contextmanager
def transaction(driver: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Be in a transaction as `writer_engine` has them, past SQLAlchemy: all that is done in it is kept, or nothing.

    Raises: sqlite3.Error.
    """
    driver.execute("BEGIN IMMEDIATE")
    try:
        yield driver
        driver.commit()
    except BaseException:
        driver.rollback()
        raise


def reader_engine(path: Path) -> Engine:
    """Return the engine of the connections that only read."""
    engine = create_engine(
        "sqlite://", creator=lambda: connect(path, read_only=True), poolclass=QueuePool, pool_size=4, max_overflow=4
    )
    event.listen(engine, "begin", lambda connection: driver_of(connection).execute("BEGIN"))
    return engine
