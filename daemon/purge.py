"""Remove a backup so that nothing of it stays: its blobs at once, its events, its copy in the bucket.

What other backups share stays theirs. What is deleted from the index is overwritten, in the file and in the log of
writes, and copies of the index from before an upgrade go: they name every backup of their time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..codec import manifest_file
from ..db.presence import blob_sizes
from ..db.purge import forget_events
from ..state.errors import BackupNotFound, InvalidManifest, ManifestDamaged
from ..state.manifest import manifest_blobs
from ..store.files import sync_folder, translated
from ..store.home import Home
from ..store.sidecars import Sidecar
from ..sync.spool import Spool
from .catalog import Catalog
from .garbage import discard
from .remote import RemoteSide
from .room import Room
from .search_reading import SearchReading


@dataclass(frozen=True, slots=True)
class Purged:
    """What became of a purged backup: bytes of blobs that are free now, of blobs that others share, and its copy.

    `in_bucket` is `queued` when it is taken out of the bucket as soon as that can be reached, `off` without a copy
    there. `named_in` are files of this home that still hold its id: logs, which are overwritten in time, and a damaged
    index that was put aside.
    """

    backup_id: str
    freed_bytes: int
    shared_bytes: int
    in_bucket: str
    named_in: tuple[str, ...]


class Purge:
    """Purges backups of one home."""

    def __init__(self, home: Home, catalog: Catalog, side: RemoteSide, room: Room) -> None:
        self._home, self._catalog, self._side, self._room = home, catalog, side, room

    def run(self, backup_id: str) -> Purged:
        """Purge a backup, also one that only the bucket has.

        Durability: on return nothing of it comes back. Raises: BackupNotFound, StoreFailed.
        """
        with translated("purge", self._home.root):
            return self._run(backup_id)

    def _run(self, backup_id: str) -> Purged:
        sizes = self._blobs(backup_id)
        session_id = self._session(backup_id)
        # With S3 off a copy that is known of waits to be taken out: else it is back when S3 is on again.
        queued = self._side.on or bool(self._side.known.known([backup_id]))
        with self._catalog.index.erasing():
            self._side.remove(backup_id, purge=queued)
            gone = self._forget_session(session_id)  # takes the catalog's lock, which comes before the index's
            with self._catalog.index.writing() as connection:
                forget_events(connection, backup_id, gone)
            SearchReading(self._catalog).compact()
        freed, shared = self._free(sizes)
        for copy in self._home.root.glob(f"{self._home.index.name}.before-*"):
            with translated("remove", copy):
                copy.unlink(missing_ok=True)
        texts = [*self._home.logs.iterdir(), *self._home.root.glob("index.damaged-*")]
        named = tuple(sorted(str(path) for path in texts if _holds(path, backup_id)))
        return Purged(backup_id, freed, shared, "queued" if queued else "off", named)

    def _blobs(self, backup_id: str) -> dict[str, int]:
        """Return the blobs of a backup; of one without a readable manifest those that the index knows."""
        try:
            named = manifest_blobs(manifest_file.load(self._catalog.manifest_json(backup_id)))
            return {digest: size for digest, (size, _) in named.items()}
        except (BackupNotFound, ManifestDamaged, InvalidManifest):
            return dict.fromkeys(self._catalog.index.sharing(backup_id)[0], 0)

    def _session(self, backup_id: str) -> str | None:
        with suppress(BackupNotFound):
            return self._catalog.index.backup(backup_id).session_id
        return None

    def _forget_session(self, session_id: str | None) -> str | None:
        """Drop what was said of a session whose last backup is gone, and return it. That it stays here is kept."""
        if session_id is None or self._catalog.index.list_backups(session_id=session_id, limit=1):
            return None
        with self._catalog.locked():
            if not self._catalog.sidecars.read(session_id).no_sync:
                self._catalog.sidecars.write(Sidecar(session_id))
                self._catalog.sidecars.forget(session_id)
        return session_id

    def _free(self, sizes: dict[str, int]) -> tuple[int, int]:
        """Unlink what nobody needs any more, wherever it lies; return the bytes freed, and those that others share."""
        with self._catalog.index.reading() as connection:
            shared = blob_sizes(connection, sizes)
        alone = [digest for digest in sizes if digest not in shared]
        with self._room.letting_go() as unlinked:
            there = {digest: taken for digest in alone if (taken := _taken(self._catalog.blobs.path(digest)))}
            discard(self._catalog, alone)
            freed = sum(taken for digest, taken in there.items() if not self._catalog.blobs.path(digest).exists())
            unlinked(freed)
        self._forget_copies(alone)
        for folder in {self._catalog.blobs.path(digest).parent for digest in there}:
            with translated("sync", folder):
                sync_folder(folder)
        return freed, sum(shared.values())

    def _forget_copies(self, digests: Iterable[str]) -> None:
        """Remove what was put aside as damaged, and what is prepared for the bucket."""
        spool = Spool(self._home.outgoing)
        for digest in digests:
            aside = self._home.store / "quarantine" / digest
            with translated("remove", aside):
                aside.unlink(missing_ok=True)
            if self._side.on and (name := self._side.uploads.of_digest(digest)) is not None:
                spool.drop(name)


def _taken(path: Path) -> int:
    with suppress(OSError):
        return os.lstat(path).st_blocks * 512
    return 0


def _holds(path: Path, text: str) -> bool:
    with suppress(OSError):
        return text.encode() in path.read_bytes()
    return False
