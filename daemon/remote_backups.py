"""Backups that the bucket holds, of all machines: listed, found by what a user calls them, and adopted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Any

from ..db.remote import KnownRecord, RemoteIndex
from ..db.remote_listing import every_record, records_of_session
from ..state.backup import Backup
from ..state.errors import (
    AmbiguousId,
    BackupNotFound,
    Damaged,
    KeyMissing,
    NewerFormat,
    ObjectNotFound,
    Offline,
    Timeout,
    TorporError,
)
from ..state.ids import is_backup_id, is_short_id
from ..state.remote import RemoteRecord
from ..sync.repository import Repository
from .adoption import adopt
from .catalog import CANDIDATES, Catalog

AWAY_S = 2.0  # for how long nobody is asked again who did not answer
FRESH_S = 10.0  # a look at the bucket holds for so long, also one that failed: who asks for many asks once
WAIT_S = 45.0  # for a look at the bucket, by one request


@dataclass(frozen=True, slots=True)
class Looked:
    """What the last look at the bucket gave: records that cannot be read, or why it failed.

    `reading`: it goes on still.
    """

    unreadable: list[tuple[str, TorporError]] = field(default_factory=list)
    trouble: TorporError | None = None
    reading: bool = False


class RemoteBackups:
    """What the bucket holds, as this machine knows it. Safe to call from several threads."""

    def __init__(
        self,
        catalog: Catalog,
        known: RemoteIndex,
        repository: Callable[[], Repository],
        clock: Callable[[], float],
        start: Callable[[Callable[[], None]], Any],
        away: Callable[[], TorporError | None] = lambda: None,
    ) -> None:
        """Take the parts: `start` runs a look in a thread, `away` tells why nobody can reach the bucket, if known."""
        self._catalog, self._known, self._repository = catalog, known, repository
        self._clock, self._start, self.away = clock, start, away
        self._lock, self._reaching = threading.Lock(), threading.Lock()
        self._look: Future[Looked] | None = None
        self._looked, self._looked_at = Looked(), float("-inf")
        self._unreached: tuple[Offline, float] | None = None

    def look(self, wait_s: float = WAIT_S, fresh_s: float = 0.0) -> Looked:
        """Read the bucket's records as far as they are new. One look serves all who ask meanwhile."""
        with self._lock:
            if self._look is None:
                if self._clock() - self._looked_at < fresh_s:
                    return self._looked
                self._look = look = Future[Looked]()
                self._start(lambda: self._run(look))
            look = self._look
        try:
            return look.result(wait_s)
        except TimeoutError:
            return Looked(reading=True)

    def _run(self, look: Future[Looked]) -> None:
        try:
            found = Looked(self._repository().refresh())
        except TorporError as error:
            found = Looked(trouble=error)
        except BaseException as error:
            found = Looked(trouble=TorporError(f"{type(error).__name__}: {error}"))
        with self._lock:
            self._look, self._looked, self._looked_at = None, found, self._clock()
        look.set_result(found)

    def looked(self) -> Looked:
        """Return what the last look gave."""
        with self._lock:
            return self._looked

    def listing(self, session_id: str | None = None) -> list[dict[str, Any]]:
        """Return the known backups of the bucket, newest first: what is there of each, and whether it is here too."""
        with self._catalog.index.reading() as connection:
            records = records_of_session(connection, session_id) if session_id else every_record(connection)
        by_backup: dict[str, list[KnownRecord]] = {}
        for each in records:
            by_backup.setdefault(each.backup.id, []).append(each)
        here = self._catalog.index.all_ids()
        rows = [_row(each, here=backup_id in here) for backup_id, each in by_backup.items()]
        return sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)

    def find(self, ref: str, *, ask: bool = True) -> Backup | None:
        """Adopt the backup that a user means: an id, the end of one, or a session for its newest; None: there is none.

        What is known is used as it is; with `ask`, the bucket is looked at for what is not.
        Raises: Offline and more when it cannot be looked at, AmbiguousId, and what `adopt` raises.
        """
        found = self._known_as(ref)
        if found is None and ask:
            if isinstance(away := self.away(), Offline):
                raise _unreached(ref, away)
            if is_backup_id(ref) and self._read_records(ref):
                found = ref
            else:
                self._require_look(ref)
                found = self._known_as(ref)
        return None if found is None else self.adopt(found)

    def _known_as(self, ref: str) -> str | None:
        if is_backup_id(ref) and self._known.records_of(ref):
            return ref
        with self._catalog.index.reading() as connection:
            of_session = [each.backup for each in records_of_session(connection, ref)]
            if of_session:
                return max(of_session, key=lambda backup: (backup.created_at, backup.id)).id
            if is_backup_id(ref) or not is_short_id(ref):
                return None
            ids = sorted({each.backup.id for each in every_record(connection) if each.backup.id.endswith(ref)})
        if len(ids) > 1:
            raise AmbiguousId(f"{ref} is the end of {', '.join(ids[:CANDIDATES])} in the bucket")
        return ids[0] if ids else None

    def _read_records(self, backup_id: str) -> bool:
        """Read the records of one backup, without all the others; tell whether there are any."""
        repository, found = self._reached(self._repository, backup_id), False
        for name in self._reached(lambda: repository.record_names(backup_id), backup_id):
            try:
                self._known.note_record(name, repository.read_record(name), checked=False)
                found = True
            except (ObjectNotFound, Damaged, KeyMissing, NewerFormat):
                continue
        return found

    def _reached(self, ask: Callable[[], Any], ref: str) -> Any:
        """Ask the bucket, one at a time: nobody answering is told to all who ask then or in the seconds behind it."""
        with self._reaching:
            if self._unreached is not None and self._clock() < self._unreached[1]:
                raise _unreached(ref, self._unreached[0])
            try:
                return ask()
            except Offline as error:
                self._unreached = error, self._clock() + AWAY_S
                raise _unreached(ref, error) from error

    def _require_look(self, ref: str) -> None:
        looked = self.look(fresh_s=FRESH_S)
        if looked.reading:
            raise Timeout("the records of the bucket are still being read", hint="Try again in a minute.")
        if isinstance(looked.trouble, Offline):
            raise _unreached(ref, looked.trouble) from looked.trouble
        if looked.trouble is not None:
            raise looked.trouble

    def adopt(self, backup_id: str) -> Backup:
        """Make a backup of the bucket one of this machine.

        Raises: BackupNotFound, ObjectDamaged, KeyMissing, Conflict, Offline and other errors of the bucket.
        """
        if self._catalog.index.has_backup(backup_id):
            return self._catalog.index.backup(backup_id)
        return adopt(self._catalog, self.record(backup_id))

    def record(self, backup_id: str) -> RemoteRecord:
        """Read the newest of a backup's records that can be read. Raises: BackupNotFound, and what the bucket does."""
        records = self._known.known([backup_id]).get(backup_id, [])
        failure: TorporError | None = None
        for each in sorted(records, key=lambda each: each.written_at, reverse=True):
            try:
                record: RemoteRecord = self._repository().read_record(each.name)
                return record
            except (ObjectNotFound, Damaged, KeyMissing, NewerFormat) as error:
                failure = failure or error
        raise failure or BackupNotFound(f"there is no backup {backup_id} in the bucket")


def _unreached(ref: str, error: Offline) -> Offline:
    return Offline(f"{ref} is not on this machine, and the bucket cannot be reached: {error.detail}", hint=error.hint)


def _row(records: list[KnownRecord], *, here: bool) -> dict[str, Any]:
    """Describe a backup by all its records together."""
    newest = max(records, key=lambda each: each.written_at)
    return asdict(newest.backup) | {
        "stages": list(dict.fromkeys(stage for each in records for stage in each.stages)),
        "machines": sorted({each.machine for each in records}),
        "written_at": newest.written_at,
        "checked": any(each.checked for each in records),
        "here": here,
    }
