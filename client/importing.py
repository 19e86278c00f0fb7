"""Import a state file as a backup: check its structure, store its leaves, commit a manifest.

The same file is imported once, however often it is tried (client/opened_file.py); what a killed import has stored is
found again by its digest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..codec import manifest_file
from ..codec.bundle import blob_refs
from ..state.backup import Backup
from ..state.errors import BackupNotFound, Conflict, MissingBlobs, TorporError
from ..state.ids import parse_session_id
from ..state.manifest import BlobRef, Manifest
from ..state.quota import on_disk
from ..state.watching import Signature
from .api import Api
from .blob_access import BlobAccess
from .opened_file import Opened, Place, opened
from .room import STEP_BYTES, Promise, RoomDesk
from .save import MAX_ATTEMPTS
from .transfer import FileFormat, Progress, no_progress


@dataclass(frozen=True, slots=True)
class Imported:
    """A backup that was made from a file; `known` when it was there already. `seen` is the file that was read."""

    backup: Backup
    known: bool
    format: FileFormat
    seen: Signature


class Importer:
    """Imports files into the store of a daemon."""

    def __init__(self, api: Api, blobs: BlobAccess, desk: RoomDesk, clock: Callable[[], float] = time.time) -> None:
        self._api, self._blobs, self._desk, self._clock = api, blobs, desk, clock

    def run(
        self,
        path: str | Path,
        session_id: str | None = None,
        progress: Progress = no_progress,
        *,
        follow: bool = True,
        expected: Signature | None = None,
        digest: str | None = None,
        name: str | None = None,
    ) -> Imported:
        """Import one file. The arguments are those of `opened`.

        Raises: what `opened` raises, and what storing raises. Nothing is listed and nothing kept then.
        """
        if session_id is not None:
            parse_session_id(session_id)
        how: dict[str, Any] = {"follow": follow, "expected": expected, "digest": digest, "name": name}
        for _ in range(MAX_ATTEMPTS - 1):
            with suppress(MissingBlobs):  # somebody's import that failed took back what this one counted on
                return self._run(session_id, opened(path, progress, **how))
        return self._run(session_id, opened(path, progress, **how))

    def _run(self, session_id: str | None, opening: AbstractContextManager[Opened]) -> Imported:
        with opening as file:
            made = _Import(self._api, self._blobs, self._desk, file, self._clock())
            backup, known = made.run(session_id)
        return Imported(backup, known, file.kind, file.seen)


def known_backup(api: Api, place: Place) -> Backup | None:
    """Return the backup that a file is already. Raises: Conflict when other content has its id."""
    try:
        backup = api.backup(place.backup_id, ask=False)  # it is made of a file that is here
    except BackupNotFound:
        return None
    whole = place.whole
    if whole is not None and backup.manifest_digest != manifest_file.digest_of(manifest_file.dump(whole)):
        raise Conflict(f"backup {place.backup_id} exists with other content")
    return backup


def lacking(api: Api, blobs: BlobAccess, backup: Backup) -> list[str]:
    """Return the blobs of a backup that the store has lost; they come back from its file."""
    return blobs.missing(blob_refs(manifest_file.load(api.manifest(backup.id))))


@dataclass(slots=True)
class _Import:
    """One import that is going on."""

    api: Api
    blobs: BlobAccess
    desk: RoomDesk
    file: Opened
    now: float

    def run(self, wanted_session: str | None) -> tuple[Backup, bool]:
        place = self.file.place(wanted_session, self.now)
        known = known_backup(self.api, place)
        if known is not None and not lacking(self.api, self.blobs, known):
            return known, True
        written: list[BlobRef] = []
        promise = self.desk.promise(place.backup_id)
        try:
            layers = self.file.source.layers(lambda chunk: self._put(chunk, written, promise))
            self.blobs.settle()
            self.file.check_unchanged()
            if known is not None:
                return known, True
            made = place.whole or self._manifest(place, layers, written)
            return self._commit(made, place), False
        except BaseException:
            with suppress(TorporError):
                self.api.discard(written)
            with suppress(TorporError):
                promise.end()
            raise

    def _commit(self, manifest: Manifest, place: Place) -> Backup:
        try:
            return self.api.commit(manifest.id, manifest_file.dump(manifest))
        except Conflict:
            if place.whole is not None:
                raise
            return self.api.backup(manifest.id)  # another process has imported this very file meanwhile

    def _put(self, chunk: memoryview, written: list[BlobRef], promise: Promise) -> BlobRef:
        promise.need(on_disk(chunk.nbytes), ahead_bytes=min(self.file.seen.size_bytes, STEP_BYTES))
        result = self.blobs.put([chunk], within=promise.name)
        promise.wrote(on_disk(chunk.nbytes))
        if result.written:
            written.append(result.ref)
        return result.ref

    def _created_at(self) -> float:
        """Return when the state was captured. What a foreign file claims may never change: then its mtime counts."""
        own = self.file.own_time()
        if self.file.source.ours:  # just before the backup that it was exported from, which holds more
            return max(math.nextafter(min(own, self.now), 0.0), 0.0)
        return min(max(own, self.file.seen.mtime_ns / 1e9), self.now)

    def _manifest(self, place: Place, layers: dict[str, Any], written: list[BlobRef]) -> Manifest:
        size = sum(ref.size_bytes for ref in written)
        whole, backup_id, session_id = self.file.source.manifest, place.backup_id, place.session_id
        if whole is not None:
            moved = replace(whole, id=backup_id, session_id=session_id, parent_id=None, group=None, bytes_written=size)
            return replace(moved, created_at=min(whole.created_at, self.now), imported=True)
        newest = self.api.backups(session_id=session_id, limit=1)
        return Manifest(
            id=backup_id,
            session_id=session_id,
            created_at=self._created_at(),
            adapter="plain",
            layers=layers,
            parent_id=newest[0].id if newest else None,
            bytes_written=size,
            imported=True,
        )
