"""Is the file of the index sound? Looked at without changing it: a connection that only reads does not checkpoint.

Only a transaction that a crash left half done in a rollback journal is taken back first.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..state.errors import StoreFailed
from .engine import connect, roll_back
from .schema import REVISION, metadata

_TURN = 1_000  # instructions of SQLite between two looks at the clock
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True, slots=True)
class Soundness:
    """What a look at the index found. `finished` is False when the time was over before all of it was read."""

    faults: tuple[str, ...] = ()
    finished: bool = True


def log_of(path: Path) -> Path:
    """Return where the write-ahead log of a database lies."""
    return path.with_name(path.name + "-wal")


def check_index(path: Path, within_s: float, clock: Callable[[], float] = time.monotonic) -> Soundness:
    """Read the index and tell what is wrong with it; nothing is, of one that does not exist yet.

    One that was not closed has its log checked too, and its indexes against its tables.
    Raises: StoreFailed when the file cannot be read for another reason than its content.
    """
    try:
        size, left = path.stat().st_size if path.exists() else 0, _bytes_of(log_of(path))
        if not size:
            return Soundness((f"the database is gone, its log of {left} bytes is there",) if left else ())
        roll_back(path)
        with _reading(path, clock() + within_s, clock) as connection:
            return _look(connection, thorough=left > 0)
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return Soundness((str(error),))
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            return Soundness(finished=False)
        raise StoreFailed(f"the index cannot be read: {error}") from error
    except OSError as error:
        raise StoreFailed(f"the index cannot be read: {error}") from error


def is_damage(error: sqlite3.Error) -> bool:
    """Tell whether SQLite says that the bytes of a database are wrong."""
    code = getattr(error, "sqlite_errorcode", None)
    return isinstance(code, int) and code & 0xFF in _DAMAGE


def _bytes_of(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


@contextmanager
def _reading(path: Path, until: float, clock: Callable[[], float]) -> Iterator[sqlite3.Connection]:
    connection = connect(path, read_only=True)
    try:
        connection.set_progress_handler(lambda: int(clock() > until), _TURN)
        yield connection
    finally:
        connection.close()


def _look(connection: sqlite3.Connection, *, thorough: bool) -> Soundness:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return Soundness()
    if "alembic_version" not in tables:
        return Soundness(("the database is not an index of Torpor",))
    revisions = [row[0] for row in connection.execute("SELECT version_num FROM alembic_version")]
    if len(revisions) != 1:
        return Soundness(("the database does not say which schema it has",))
    if revisions[0] != REVISION:
        return Soundness()  # an older one is migrated, a newer one is refused: neither is ours to judge
    if lacking := sorted(metadata.tables.keys() - tables):
        return Soundness((f"tables are missing: {', '.join(lacking)}",))
    pragma = "integrity_check(5)" if thorough else "quick_check(5)"
    found = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}")]
    return Soundness(() if found == ["ok"] else tuple(found))


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """A few counts of an index, and its schema."""

    revision: str | None
    backups: int = 0
    present_blobs: int = 0
    damaged_blobs: int = 0
    newest_at: float | None = None


def facts_of(path: Path) -> IndexFacts:
    """Return what a sound index says of itself; of another schema only which one. Raises: StoreFailed."""
    try:
        with _reading(path, float("inf"), time.monotonic) as connection:
            revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            if revision is None or revision[0] != REVISION:
                return IndexFacts(None if revision is None else str(revision[0]))
            backups, newest = connection.execute("SELECT count(*), max(created_at) FROM backups").fetchone()
            present = connection.execute("SELECT count(*) FROM blobs WHERE present").fetchone()[0]
            damaged = connection.execute("SELECT count(*) FROM blobs WHERE damaged_at IS NOT NULL").fetchone()[0]
            return IndexFacts(REVISION, backups, present, damaged, newest)
    except sqlite3.DatabaseError as error:
        raise StoreFailed(f"the index cannot be read: {error}") from error
