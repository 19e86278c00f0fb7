"""The index over SQLAlchemy: one class that owns the file, one transaction a change."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import DatabaseError, OperationalError

from ..state.backup import Backup
from ..state.crash_points import Checkpoint, no_checkpoint
from ..state.errors import (
    BackupNotFound,
    IndexDamaged,
    SessionNotFound,
    StoreFailed,
    StoreFull,
    TorporError,
)
from . import queries
from .engine import kept_driver, reader_engine, transaction, writer_engine
from .entering import insert_new, stays_here
from .events import recent_events
from .migrate import migrate
from .outbox_rows import insert_removal, remove_pushes
from .presence import absent_of
from .records import NewBackup, Sharing, Timeline, Totals
from .schema import backup_blobs, backups, blobs, events, outbox, sessions
from .search import forget as forget_messages
from .staying import note_removed, stayed
from .words import remake_words

EVENTS_KEPT = 10_000
PROOF_S = 20.0  # for the lock of a proof; then it matters for how long somebody has been writing
LONGEST_WRITE_S = 900.0  # a slow disk, a large purge: who writes for longer hangs
_BATCH = 500  # keys of one statement


class Index:
    """The open index. Reads may run beside the one writer. Raises on opening: IndexDamaged, StoreFull, StoreFailed."""

    def __init__(
        self, path: Path, checkpoint: Checkpoint = no_checkpoint, steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._checkpoint, self._steady = checkpoint, steady
        self._write_lock, self._writing_since = threading.Lock(), steady()
        self.generation = 0  # counts what was committed since the start: it tells that something changed
        self._told: Callable[[], None] = lambda: None
        self._writer, self._reader = writer_engine(path), reader_engine(path)
        try:
            with _translated():
                self.migrated = migrate(self._writer, path)
                self._driver = kept_driver(self._writer)
        except BaseException:
            self.close()  # or the file stays open, and locked, although nobody has an index
            raise

    def close(self) -> None:
        """Checkpoint and close."""
        self._reader.dispose()
        self._writer.dispose()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction of the one writer. Durability: what it did survives power loss once it is left."""
        with self._changing(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Be the one who writes, and tell of it once that is committed."""
        with self._locked(), _translated():
            yield
            self.generation += 1
        self._told()

    def tell(self, told: Callable[[], None]) -> None:
        """Call a function behind each commit, in the thread that made it; it must neither wait nor raise."""
        self._told = told

    @contextmanager
    def erasing(self) -> Iterator[None]:
        """Overwrite what is deleted while this is open, in the file and, behind it, in the log of writes."""
        with self.writing() as connection:
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
        try:
            yield
        finally:
            with self.writing() as connection:
                connection.exec_driver_sql("PRAGMA secure_delete = OFF")
            with self._locked(), _translated(), closing(self._writer.raw_connection()) as raw:
                raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that only reads."""
        with _translated(), self._reader.begin() as connection:
            yield connection

    def prove(self, patience_s: float = PROOF_S) -> None:
        """Show that it can be read and written, changing nothing; a write that goes on shows it as well.

        One that never ends is waited for. Raises: IndexDamaged, StoreFull, StoreFailed.
        """
        with self.reading() as connection:
            connection.scalar(select(func.count()).select_from(sessions))
        if not self._write_lock.acquire(timeout=patience_s):
            if self._steady() - self._writing_since < LONGEST_WRITE_S:
                return
            self._write_lock.acquire()
        try:
            with _translated(), self._writer.connect() as connection:
                connection.begin().rollback()
        finally:
            self._write_lock.release()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the one who writes."""
        with self._write_lock:
            self._writing_since = self._steady()
            yield

    def commit_backup(
        self, record: Backup, blob_sizes: dict[str, tuple[int, str]], *, now: float, enqueue: bool
    ) -> bool:
        """Insert one backup; see `commit_backups`. Returns False when the same backup is there already."""
        return bool(self.commit_backups([NewBackup(record, blob_sizes)], now=now, enqueue=enqueue))

    def commit_backups(self, new: Iterable[NewBackup], *, now: float, enqueue: bool) -> list[Backup]:
        """Insert backups with their blobs, logical keys and (with `enqueue`) outbox rows, all in one transaction.

        Returns those that were not there yet, with the titles of their sessions. Durability: on return they survive
        power loss.
        Raises: Conflict when an id is taken by another manifest; then none is inserted.
        """
        with self._changing(), transaction(self._driver) as driver:
            self._checkpoint("index.begun")
            inserted = [insert_new(driver, one, now, enqueue=enqueue) for one in new]
            self._checkpoint("index.inserted")
        self._checkpoint("index.committed")
        return [each for each in inserted if each is not None]

    def remove_backup(self, backup_id: str, *, purge_at: float | None = None) -> None:
        """Remove a backup, the links to its blobs, and the session when it was the last one; what waits to go up, too.

        With `purge_at` (now) its removal from the bucket is queued in the same transaction. Raises: BackupNotFound.
        """

        def change(connection: Connection) -> None:
            session_id = connection.scalar(select(backups.c.session_id).where(backups.c.id == backup_id))
            if session_id is None:
                raise BackupNotFound(f"there is no backup {backup_id}")
            remove(connection, backup_id, session_id)
            if purge_at is not None:
                insert_removal(connection, backup_id, session_id, purge_at)

        self._despite_words(change)

    def forget_backups(self, backup_ids: Iterable[str]) -> None:
        """Remove backups in one transaction, as far as they are there."""
        every = list(backup_ids)

        def change(connection: Connection) -> None:
            for backup_id in every:
                session_id = connection.scalar(select(backups.c.session_id).where(backups.c.id == backup_id))
                if session_id is not None:
                    remove(connection, backup_id, session_id)

        self._despite_words(change)

    def _despite_words(self, change: Callable[[Connection], None]) -> None:
        """Make a change in one transaction. A damaged index of words stops nothing: it is made anew first, empty."""
        try:
            with self.writing() as connection:
                change(connection)
        except IndexDamaged:  # of anything else, it is so again
            with self.writing() as connection:
                remake_words(connection)
                change(connection)

    def queue_removal(self, backup_id: str, session_id: str, *, now: float) -> None:
        """Queue the removal of a backup from the bucket that is not on this machine."""
        with self.writing() as connection:
            insert_removal(connection, backup_id, session_id, now)

    def set_pinned(self, backup_id: str, pinned: bool) -> None:
        """Pin or unpin a backup. Raises: BackupNotFound."""
        with self.writing() as connection:
            if not connection.execute(update(backups).where(backups.c.id == backup_id).values(pinned=pinned)).rowcount:
                raise BackupNotFound(f"there is no backup {backup_id}")

    def set_title(self, session_id: str, title: str | None) -> None:
        """Give a session a title. Raises: SessionNotFound."""
        with self.writing() as connection:
            if not connection.execute(update(sessions).where(sessions.c.id == session_id).values(title=title)).rowcount:
                raise SessionNotFound(f"there is no session {session_id}")

    def set_no_sync(self, session_id: str, no_sync: bool) -> bool:
        """Keep a session on this machine: what waits of it leaves the queue. Return whether the session is known."""
        with self.writing() as connection:
            mine = update(sessions).where(sessions.c.id == session_id)
            known = connection.execute(mine.values(no_sync=no_sync)).rowcount > 0
            if no_sync:
                remove_pushes(connection, session_id)
        return known

    def that_may_leave(self) -> list[Backup]:
        """Return the backups of sessions that are not kept on this machine, newest first."""
        with self.reading() as connection:
            rows = connection.execute(queries.selection().where(~sessions.c.no_sync).order_by(backups.c.id.desc()))
            return [queries.record(row) for row in rows.mappings()]

    def stays_here(self, session_id: str) -> bool:
        """Tell whether a session is kept on this machine."""
        with self.reading() as connection:
            return stays_here(connection, session_id)

    def add_event(
        self,
        *,
        at: float,
        level: str,
        kind: str,
        detail: str,
        session_id: str | None = None,
        backup_id: str | None = None,
    ) -> None:
        """Note an event; the oldest beyond `EVENTS_KEPT` go."""
        with self.writing() as connection:
            event = {"at": at, "level": level, "kind": kind, "detail": detail}
            insert_event(connection, event | {"session_id": session_id, "backup_id": backup_id})

    def has_stayed(self, backup_id: str) -> bool:
        """Tell whether a backup that was removed was of a session that is kept on this machine."""
        with self.reading() as connection:
            return stayed(connection, backup_id)

    def backup(self, backup_id: str) -> Backup:
        """Return one backup. Raises: BackupNotFound."""
        with self.reading() as connection:
            return queries.backup(connection, backup_id)

    def session_of(self, backup_id: str) -> str | None:
        """Return the session of a backup; None when it is not in the index."""
        with self.reading() as connection:
            return queries.session_of(connection, backup_id)

    def newest(self, session_id: str) -> Backup:
        """Return the newest backup of a session. Raises: SessionNotFound."""
        with self.reading() as connection:
            return queries.newest(connection, session_id)

    def list_backups(
        self, *, session_id: str | None = None, limit: int = 50, before: str | None = None
    ) -> list[Backup]:
        """Return backups, newest first, optionally of one session and older than the backup `before`."""
        with self.reading() as connection:
            return queries.list_backups(connection, session_id, limit, before)

    def timeline(self, session_id: str, *, limit: int, before: str | None = None) -> Timeline:
        """Return backups of a session, newest first, with what they are linked with. Raises: SessionNotFound."""
        with self.reading() as connection:
            return queries.timeline(connection, session_id, limit, before)

    def ending_with(self, end: str, limit: int) -> list[str]:
        """Return the ids of backups that end so."""
        with self.reading() as connection:
            return queries.ending_with(connection, end, limit)

    def has_backup(self, backup_id: str) -> bool:
        """Tell whether a backup is in the index."""
        with self.reading() as connection:
            return queries.session_of(connection, backup_id) is not None

    def all_ids(self) -> set[str]:
        """Return the id of every backup."""
        with self.reading() as connection:
            return set(connection.scalars(select(backups.c.id)))

    def absent_of(self, backup_id: str) -> set[str]:
        """Return the digests of those blobs of a backup that are not on this machine."""
        with self.reading() as connection:
            return absent_of(connection, backup_id)

    def sharing(self, backup_id: str, limit: int = 20) -> tuple[dict[str, int], Sharing]:
        """Return how many other backups name each blob of a backup, and those that share most of its bytes."""
        with self.reading() as connection:
            return queries.sharing(connection, backup_id, limit)

    def totals(self) -> Totals:
        """Return counts over the whole index."""
        with self.reading() as connection:
            return queries.totals(connection)

    def recent_events(self, limit: int = 50) -> list[dict[str, Any]]:
        """Return the newest events, newest first."""
        with self.reading() as connection:
            return recent_events(connection, limit)


def insert_event(connection: Connection, event: dict[str, Any]) -> None:
    """Note an event as part of a transaction; the oldest beyond `EVENTS_KEPT` go."""
    key = connection.execute(insert(events).values(event)).inserted_primary_key
    if key is not None:
        connection.execute(delete(events).where(events.c.id <= key[0] - EVENTS_KEPT))


def remove(connection: Connection, backup_id: str, session_id: str) -> None:
    """Remove a backup, what waits of it to go up, blobs that no other one names, and the session with its last one."""
    note_removed(connection, backup_id, session_id)
    forget_messages(connection, backup_id, session_id)
    mine = list(connection.scalars(select(backup_blobs.c.digest).where(backup_blobs.c.backup_id == backup_id)))
    connection.execute(delete(backups).where(backups.c.id == backup_id))
    connection.execute(delete(outbox).where(outbox.c.backup_id == backup_id, outbox.c.kind == "push"))
    used = select(backup_blobs.c.digest).where(backup_blobs.c.digest == blobs.c.digest)
    for at in range(0, len(mine), _BATCH):
        connection.execute(delete(blobs).where(blobs.c.digest.in_(mine[at : at + _BATCH]), ~used.exists()))
    others = select(backups.c.id).where(backups.c.session_id == sessions.c.id)
    connection.execute(delete(sessions).where(sessions.c.id == session_id, ~others.exists()))
    newest = select(func.max(backups.c.created_at)).where(backups.c.session_id == session_id).scalar_subquery()
    connection.execute(update(sessions).where(sessions.c.id == session_id).values(updated_at=newest))


@contextmanager
def _translated() -> Iterator[None]:
    """Translate SQLite's errors into the tree."""
    try:
        yield
    except TorporError:
        raise
    except (DatabaseError, sqlite3.DatabaseError) as error:
        raise _index_error(error) from error


def _index_error(error: Exception) -> TorporError:
    origin = getattr(error, "orig", None) or error
    code = getattr(origin, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    if primary == sqlite3.SQLITE_FULL:
        return StoreFull(f"the index cannot grow: {origin}")
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return IndexDamaged(f"the index is damaged: {origin}")
    if isinstance(error, OperationalError) or isinstance(origin, sqlite3.OperationalError):
        return StoreFailed(f"the index cannot be used: {origin}")
    return IndexDamaged(f"the index refused a change: {origin}")
