"""Blobs that no backup needs: marked, moved to the trash, and after a second look unlinked.

docs/ARCHITECTURE.md ("Collecting on this machine") says why nothing that a save, a restore or a backup needs is lost.
In short: everything that is taken away is looked at once more under the catalog's lock, in which commits run too; a
commit takes back from the trash what it needs; and a restore reads in the trash as well.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from ..codec import manifest_file
from ..db import marks
from ..db.damage import mark_lost
from ..db.presence import blob_sizes, note_present
from ..state.errors import BackupNotFound, TorporError
from ..state.manifest import manifest_blobs
from ..state.ordered import differences
from ..store.files import translated
from .catalog import Catalog
from .spared import Spared

T = TypeVar("T")
SHARDS = range(256)
TRASH_S = 3600.0  # a restore or a save that counts on a blob in the trash has this long
BATCH = 128  # blobs that are looked at under the lock at once: commits wait for no longer than that
TURN_S = 0.001  # and get their turn in between
FUTURE_S = 3600.0  # a file from further ahead than this was written under a clock that was wrong


@dataclass(slots=True)
class Collected:
    """What a pass did, in blobs and bytes; of a dry run, what one would do.

    `trashed` were moved to the trash, `freed` unlinked from there, `taken_back` are needed again. `gone` and `found`
    are blobs of backups of which the index said wrongly that they were here, or not here. `kept` have no backup yet and
    are too young to go. `spared` says that nothing could be marked: a manifest cannot be read.
    """

    looked_at: int = 0
    trashed: int = 0
    trashed_bytes: int = 0
    freed: int = 0
    freed_bytes: int = 0
    taken_back: int = 0
    gone: int = 0
    found: int = 0
    kept: int = 0
    spared: bool = False

    def anything(self) -> bool:
        """Tell whether something was changed."""
        return any((self.trashed, self.freed, self.taken_back, self.gone, self.found))


class Garbage:
    """The collector of this machine. Safe to call from several threads; one pass runs at a time."""

    def __init__(self, catalog: Catalog, *, grace_s: float, trash_s: float = TRASH_S) -> None:
        """Collect what nobody has touched for `grace_s`; unlink what has been in the trash for `trash_s`."""
        self._catalog, self._grace_s, self._trash_s = catalog, grace_s, trash_s
        self._one_pass, self._stopping = threading.Lock(), threading.Event()

    def stop(self) -> None:
        """End a pass that runs, and do no other."""
        self._stopping.set()

    def collect(self, *, dry_run: bool = False) -> Collected:
        """Do a pass: first what was in the trash before it, then what nobody needs. Raises: StoreFailed, IndexDamaged.

        Memory: a shard of digests, a 256th of all.
        """
        with self._one_pass, translated("collect", self._catalog.blobs.folder):
            work = _Pass(self._catalog, self._grace_s, self._trash_s, dry_run, self._stopping)
            work.run()
        if work.done.gone and not dry_run:
            self._catalog.note("warning", "blobs-absent", f"{work.done.gone} blobs of backups are not on this machine")
        return work.done

    def reclaim(self, size_bytes: int) -> int:
        """Unlink so many bytes of what lies in the trash, however new: room is short, and others would lose by that.

        Who counts on one of these blobs is a save, which is told by its commit and writes it again, or the restore of a
        backup that was removed meanwhile. Returns the bytes that were freed. Raises: StoreFailed, IndexDamaged.
        """
        freed = 0
        with translated("empty", self._catalog.blobs.folder):
            for folder in self._catalog.trash.shards():
                if freed >= size_bytes or self._stopping.is_set():
                    break
                for batch in _batches(self._catalog.trash.digests(folder), BATCH):
                    with self._catalog.locked():
                        freed += _drop_unneeded(self._catalog, batch)
        return freed


def _drop_unneeded(catalog: Catalog, batch: list[str]) -> int:
    with catalog.index.reading() as connection:
        needed = blob_sizes(connection, batch)
    freed = 0
    for digest in batch:
        path = catalog.trash.path(digest)
        with translated("look at", path), suppress(FileNotFoundError):
            size = os.lstat(path).st_size
            if digest not in needed and not catalog.spared.has(digest) and catalog.trash.drop(digest):
                freed += size
    return freed


class _Pass:
    """One pass over trash and store."""

    def __init__(
        self, catalog: Catalog, grace_s: float, trash_s: float, dry_run: bool, stopping: threading.Event
    ) -> None:
        self._catalog, self._grace_s, self._trash_s = catalog, grace_s, trash_s
        self._dry_run, self._stopping, self.done = dry_run, stopping, Collected()

    def run(self) -> None:
        """Do it."""
        spare_strays(self._catalog)
        self.done.spared = self._catalog.spared.everything
        for folder in self._catalog.trash.shards():
            self._in_turns(self._catalog.trash.digests(folder), self._second_look)
            if not self._dry_run:
                with self._catalog.locked():
                    self._catalog.trash.tidy(folder)
        for number in SHARDS:
            if self._stopping.is_set():
                return
            self._shard(number)

    def _in_turns(self, digests: Iterable[str], look: Callable[[list[str]], None]) -> None:
        """Look at blobs in batches, each under the lock."""
        for batch in _batches(digests, BATCH):
            if self._stopping.wait(TURN_S):
                return
            with self._catalog.locked():
                look(batch)

    def _shard(self, number: int) -> None:
        """Compare a folder with the index. It is listed first: what is committed meanwhile is then not a candidate."""
        listed = set(self._catalog.blobs.shard(number))
        with self._catalog.index.reading() as connection:
            needed = marks.of_shard(connection, number)
        self.done.looked_at += len(listed)
        self._in_turns(sorted(listed - needed.here - needed.elsewhere), self._unneeded)
        self._in_turns(sorted(needed.here - listed), self._not_there)
        self._in_turns(sorted(needed.elsewhere & listed), self._there)

    def _unneeded(self, batch: list[str]) -> None:
        """Move to the trash what is still needed by nobody."""
        needed, now = self._needed(batch), self._catalog.now()
        for digest in batch:
            if digest in needed or self._catalog.spared.has(digest):
                continue
            aged = self._aged(self._catalog.blobs.path(digest), now, self._grace_s)
            if aged is None:
                self.done.kept += 1
            elif self._dry_run or self._catalog.trash.throw(digest, aged.st_mtime_ns, now):
                self.done.trashed += 1
                self.done.trashed_bytes += aged.st_size

    def _second_look(self, batch: list[str]) -> None:
        """Unlink what has been in the trash long enough, and give back what is needed after all."""
        needed, now = self._needed(batch), self._catalog.now()
        back = [digest for digest in batch if digest in needed or self._catalog.spared.has(digest)]
        self.done.taken_back += len(back if self._dry_run else self._catalog.trash.take_back(back))
        for digest in set(batch).difference(back):
            aged = self._aged(self._catalog.trash.path(digest), now, self._trash_s)
            if aged is not None and (self._dry_run or self._catalog.trash.drop(digest)):
                self.done.freed += 1
                self.done.freed_bytes += aged.st_size

    def _needed(self, digests: Iterable[str]) -> dict[str, int]:
        with self._catalog.index.reading() as connection:
            return blob_sizes(connection, digests)

    def _aged(self, path: Path, now: float, age_s: float) -> os.stat_result | None:
        """Return the state of a file that is old enough to go. One from the future begins to age now."""
        with translated("look at", path), suppress(FileNotFoundError):
            status = os.lstat(path)
            if status.st_mtime > now + FUTURE_S and not self._dry_run:
                os.utime(path, (now, now), follow_symlinks=False)
            return status if now - status.st_mtime >= age_s else None
        return None

    def _not_there(self, batch: list[str]) -> None:
        """Note what is not on this machine although the index says so; it may lie in the trash."""
        gone = [digest for digest in batch if self._size(digest) is None]
        if gone and not self._dry_run:
            back = set(self._catalog.trash.take_back(gone))
            self.done.taken_back += len(back)
            gone = [digest for digest in gone if digest not in back]
        if gone and not self._dry_run:
            with self._catalog.index.writing() as connection:
                mark_lost(connection, gone, self._catalog.now())  # nobody let it go: the repair looks for other copies
        self.done.gone += len(gone)

    def _there(self, batch: list[str]) -> None:
        """Note what is on this machine, whole, although the index says that it is not."""
        needed = self._needed(batch)
        self.done.found += self._note([d for d in batch if self._size(d) == needed.get(d, -1)], present=True)

    def _size(self, digest: str) -> int | None:
        path = self._catalog.blobs.path(digest)
        with translated("look at", path), suppress(FileNotFoundError):
            return os.lstat(path).st_size
        return None

    def _note(self, digests: list[str], *, present: bool) -> int:
        if digests and not self._dry_run:
            with self._catalog.index.writing() as connection:
                note_present(connection, digests, present=present)
        return len(digests)


def discard(catalog: Catalog, digests: Iterable[str]) -> int:
    """Unlink those of some blobs that no backup needs, at once: what a failed save wrote; return how many."""
    removed = 0
    for batch in _batches(digests, BATCH):
        with catalog.locked():
            with catalog.index.reading() as connection:
                needed = blob_sizes(connection, batch)
            for digest in batch:
                if digest not in needed and not catalog.spared.has(digest):
                    removed += catalog.blobs.remove(digest) | catalog.trash.drop(digest)
    return removed


def spare_strays(catalog: Catalog) -> None:
    """Spare what manifests name that are on disk and not in the index; of an unreadable one, every blob.

    One whose commit is under way may be among them, which spares it for this pass.
    """
    spared, on_disk = Spared(), sorted(catalog.manifests.ids())
    with catalog.index.reading() as connection:
        strays = [each for each, stray in differences(on_disk, marks.backup_ids(connection)) if stray]
    for backup_id in strays:
        try:
            spared.add(manifest_blobs(manifest_file.load(catalog.manifests.read(backup_id))))
        except BackupNotFound:  # removed a moment ago
            continue
        except TorporError:
            spared.add_all()
    with catalog.locked():
        catalog.spared = spared


def _batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(values)
    while batch := list(islice(left, size)):
        yield batch
