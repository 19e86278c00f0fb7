"""Removals that the user may take back for a while.

The manifest and what was said of the backup are kept in memory, never on the disk: a removed conversation is to be gone
from there. Blobs are in their grace time anyway, so nothing has to be copied. What the collector or a purge has freed
meanwhile is then said to be absent, as of any backup.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ..codec import manifest_file
from ..db import retention
from ..db.choices import apply_choices
from ..state.backup import Backup
from ..state.errors import BackupNotFound, InvalidManifest, ManifestDamaged
from ..state.ids import parse_backup_id
from ..state.manifest import Manifest
from ..store.sidecars import Sidecar
from .catalog import Catalog
from .index_care import choices_of
from .remote import RemoteSide

UNDO_S = 900.0  # a quarter of an hour: blobs that nobody needs stay for an hour at least
MOST, MOST_BYTES = 1000, 64 << 20  # of removals, and of their manifests


@dataclass(frozen=True, slots=True)
class _Removed:
    """A removed backup: its manifest, its row, and what its session's sidecar said."""

    manifest: Manifest
    size_bytes: int
    record: Backup
    sidecar: Sidecar
    until: float


class Removals:
    """Removes backups from this machine, and brings them back. Safe to call from several threads."""

    def __init__(self, catalog: Catalog, side: RemoteSide, steady: Callable[[], float] = time.monotonic) -> None:
        self._catalog, self._side, self._steady = catalog, side, steady
        self._lock, self._kept = threading.Lock(), OrderedDict[str, _Removed]()

    def remove(self, backup_id: str) -> None:
        """Remove a backup, so that `undo` brings it back. Raises: BackupNotFound, StoreFailed."""
        before = self._look(parse_backup_id(backup_id))
        self._side.remove(backup_id)
        if before is not None:
            with self._lock:
                self._kept[backup_id] = before
                self._tidy()

    def _look(self, backup_id: str) -> _Removed | None:
        """Return what is needed to bring a backup back; None where its manifest cannot be read."""
        record = self._catalog.index.backup(backup_id)
        sidecar = self._catalog.sidecars.read(record.session_id)
        try:
            raw = self._catalog.manifest_json(backup_id)
            manifest = manifest_file.load(raw)
        except (BackupNotFound, ManifestDamaged, InvalidManifest):
            return None
        return _Removed(manifest, len(raw), record, sidecar, self._steady() + UNDO_S)

    def _tidy(self) -> None:
        """Forget what is too old, and the oldest of too many. Under the lock."""
        now, size = self._steady(), sum(each.size_bytes for each in self._kept.values())
        while self._kept:
            first = next(iter(self._kept.values()))
            if first.until > now and len(self._kept) <= MOST and size <= MOST_BYTES:
                break
            self._kept.popitem(last=False)
            size -= first.size_bytes

    def forget(self, backup_id: str) -> None:
        """Keep nothing of a backup: it is purged."""
        with self._lock:
            self._kept.pop(backup_id, None)

    def __contains__(self, backup_id: str) -> bool:
        """Tell at once whether a backup may have been removed lately."""
        return backup_id in self._kept

    def holds(self, backup_id: str, raw: bytes) -> bool:
        """Tell whether a manifest is that of a backup that can be brought back."""
        with self._lock:
            self._tidy()
            found = self._kept.get(backup_id)
        if found is None:
            return False
        with suppress(InvalidManifest):
            return manifest_file.load(raw) == found.manifest
        return False

    def undo(self, backup_id: str) -> Backup:
        """Bring a removed backup back, with its pin, its TTL, its session's title, and what was let go of it.

        One that is there stays as it is. Durability: as a commit. Raises: BackupNotFound, StoreFull, StoreFailed.
        """
        with self._lock:
            self._tidy()
            found = self._kept.get(parse_backup_id(backup_id))
        if found is None:
            return self._catalog.index.backup(backup_id)
        self._catalog.take_in(found.manifest, lambda sidecar, now, ttl_s: _bring_back(sidecar, found))
        self._restore_rows(found)
        if self._side.on:
            self._side.derive(found.record.session_id)  # what the bucket has of it already does not go again
            self._side.pump.notify()
        self.forget(backup_id)
        return self._catalog.index.backup(backup_id)

    def _restore_rows(self, found: _Removed) -> None:
        """Bring into the index what the sidecar says again, and when the backup was used."""
        record, catalog = found.record, self._catalog
        with catalog.locked():
            said = catalog.sidecars.read(record.session_id)
            with catalog.index.writing() as connection:
                apply_choices(connection, choices_of(said))
                retention.note_used(connection, [record.id], None, record.used_at)


def _bring_back(sidecar: Sidecar, found: _Removed) -> None:
    """Say of a session again what was said of one of its backups; what was said since then stays."""
    record, before = found.record, found.sidecar
    sidecar.title = sidecar.title or before.title
    if record.pinned:
        sidecar.pinned.add(record.id)
    for name in ("expires_at", "dropped_at"):
        if record.id in getattr(before, name):
            getattr(sidecar, name)[record.id] = getattr(before, name)[record.id]
