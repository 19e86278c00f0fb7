"""Backups as a whole: the commit of a manifest, its removal, and the import of manifests that the index lacks.

Files are the truth and the index follows. Commit: blobs are there, then the manifest file, then the index; removal:
the manifest file, then the index. So whatever a crash leaves behind, start-up can make the two agree.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from ..codec import manifest_file
from ..db.index import Index
from ..db.records import Sharing, record_of
from ..state.backup import Backup
from ..state.crash_points import Checkpoint, no_checkpoint
from ..state.errors import (
    BackupNotFound,
    BadInput,
    BlobNotFound,
    Conflict,
    IndexDamaged,
    ManifestDamaged,
    MissingBlobs,
    TorporError,
)
from ..state.ids import is_backup_id, parse_backup_id, parse_session_id
from ..state.manifest import BlobRef, Manifest, manifest_blobs
from ..store.blobs import BlobStore
from ..store.manifests import ManifestStore
from ..store.sidecars import SidecarStore
from ..store.staging import Staging

OLD_STATE_S = 3600.0  # a save takes minutes at most: what is older comes from elsewhere


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What start-up found: manifests imported, rows without a manifest dropped, manifests that cannot be used."""

    imported: int
    dropped: int
    unusable: int


@dataclass(frozen=True, slots=True)
class BlobPlace:
    """A blob of a backup: its file, whether that is there at its right size, and how many other backups name it."""

    digest: str
    size_bytes: int
    layer: str
    path: str
    present: bool
    shared_with: int


@dataclass(frozen=True, slots=True)
class BackupBlobs:
    """All blobs of a backup, and what it shares with others."""

    blobs: tuple[BlobPlace, ...]
    sharing: Sharing


class Catalog:
    """The one place that changes manifests and index together. Safe to call from several threads."""

    def __init__(
        self,
        *,
        index: Index,
        blobs: BlobStore,
        manifests: ManifestStore,
        sidecars: SidecarStore,
        staging: Staging,
        ttl_s: float,
        clock: Callable[[], float] = time.time,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        self.index, self.blobs, self.manifests, self.sidecars = index, blobs, manifests, sidecars
        self.staging, self._ttl_s, self._clock, self._checkpoint = staging, ttl_s, clock, checkpoint
        self._lock = threading.Lock()
        self._spared: set[str] = set()
        self._spare_all = False

    def commit(self, backup_id: str, raw: bytes) -> Backup:
        """Commit a manifest whose blobs are in the store. Doing it again with the same content changes nothing.

        Durability: on return the backup survives power loss.
        Raises: InvalidManifest, MissingBlobs, Conflict, StoreFull, StoreFailed.
        """
        self._checkpoint("commit.received")
        manifest = manifest_file.load(raw)
        if manifest.id != parse_backup_id(backup_id):
            raise BadInput(f"the manifest of backup {manifest.id} was sent as {backup_id}")
        canonical = manifest_file.dump(manifest)
        with self._lock:
            repeated = self._is_committed(backup_id, canonical)
            self._require_blobs(manifest)
            if repeated:
                self.manifests.settle()
            else:
                self.manifests.write(self.staging, backup_id, canonical)
            try:
                self._keep_old_state(manifest)
                self._index(manifest, canonical)
            except BaseException:
                if not repeated:  # it was not acknowledged, so it must not come back at start-up
                    with suppress(TorporError):
                        self.manifests.remove(backup_id)
                        self.manifests.empty_trash()
                raise
        return self.index.backup(backup_id)

    def _keep_old_state(self, manifest: Manifest) -> None:
        """Count the TTL of an imported state from now: it may be older than that."""
        now = self._clock()
        if now - manifest.created_at < min(OLD_STATE_S, self._ttl_s):
            return
        sidecar = self.sidecars.read(manifest.session_id)
        if manifest.id not in sidecar.expires_at:
            sidecar.expires_at[manifest.id] = now + self._ttl_s
            self.sidecars.write(sidecar)

    def _is_committed(self, backup_id: str, canonical: bytes) -> bool:
        try:
            existing = self.manifests.read(backup_id)
        except BackupNotFound:
            return False
        if existing != canonical:
            raise Conflict(f"backup {backup_id} exists with other content")
        return True

    def _require_blobs(self, manifest: Manifest) -> None:
        refs = (BlobRef(digest, size) for digest, (size, _) in manifest_blobs(manifest).items())
        missing = self.blobs.missing(refs)
        if missing:
            raise MissingBlobs(f"{len(missing)} blobs are not in the store", digests=tuple(missing))

    def _index(self, manifest: Manifest, canonical: bytes) -> None:
        self.index.commit_backup(
            self._record(manifest, canonical),
            manifest_blobs(manifest),
            now=self._clock(),
            enqueue=False,
            block_keys=manifest.kv_cache.keyed_blocks() if manifest.kv_cache is not None else (),
        )

    def _record(self, manifest: Manifest, canonical: bytes) -> Backup:
        sidecar = self.sidecars.read(manifest.session_id)
        return record_of(
            manifest,
            manifest_digest=manifest_file.digest_of(canonical),
            manifest_bytes=self.manifests.size_bytes(manifest.id),
            pinned=manifest.id in sidecar.pinned,
            expires_at=sidecar.expires_at.get(manifest.id, manifest.created_at + self._ttl_s),
        )

    def resolve(self, ref: str) -> Backup:
        """Return a backup by its id, or the newest of a session. Raises: BackupNotFound, SessionNotFound, InvalidId."""
        if is_backup_id(ref):
            with suppress(BackupNotFound):
                return self.index.backup(ref)
        try:
            return self.index.newest(parse_session_id(ref))
        except TorporError:
            if is_backup_id(ref):
                raise BackupNotFound(f"there is no backup {ref}") from None
            raise

    def manifest_json(self, backup_id: str) -> bytes:
        """Return a manifest's canonical JSON, checked against the index. Raises: BackupNotFound, ManifestDamaged."""
        record = self.index.backup(parse_backup_id(backup_id))
        raw = self.manifests.read(backup_id)
        if manifest_file.digest_of(raw) != record.manifest_digest:
            raise ManifestDamaged(f"the manifest of backup {backup_id} is not the one that was committed")
        return raw

    def blobs_of(self, backup_id: str) -> BackupBlobs:
        """Return where each blob of a backup lies, in the manifest's order, and who shares it.

        Raises: BackupNotFound, ManifestDamaged.
        """
        named = manifest_blobs(manifest_file.load(self.manifest_json(backup_id)))
        users, sharing = self.index.sharing(backup_id)
        places = (
            BlobPlace(
                digest=digest,
                size_bytes=size,
                layer=layer,
                path=str(self.blobs.path(digest)),
                present=self.blobs.has(BlobRef(digest, size)),
                shared_with=users.get(digest, 0),
            )
            for digest, (size, layer) in named.items()
        )
        return BackupBlobs(tuple(places), sharing)

    def set_pinned(self, backup_id: str, pinned: bool) -> Backup:
        """Pin or unpin a backup, in its session's sidecar and the index. Raises: BackupNotFound."""
        with self._lock:
            record = self.index.backup(parse_backup_id(backup_id))
            sidecar = self.sidecars.read(record.session_id)
            (sidecar.pinned.add if pinned else sidecar.pinned.discard)(backup_id)
            self.sidecars.write(sidecar)
            self.index.set_pinned(backup_id, pinned)
        return self.index.backup(backup_id)

    def remove(self, backup_id: str) -> None:
        """Remove a backup; blobs stay until nothing needs them and a grace time is over. Raises: BackupNotFound."""
        with self._lock:
            record = self.index.backup(parse_backup_id(backup_id))
            with suppress(BackupNotFound):
                self.manifests.remove(backup_id)
            self._checkpoint("remove.trashed")
            self.index.remove_backup(backup_id)
            self._checkpoint("remove.unindexed")
            self.manifests.empty_trash()
            sidecar = self.sidecars.read(record.session_id)
            if backup_id in sidecar.pinned or backup_id in sidecar.expires_at:
                sidecar.pinned.discard(backup_id)
                sidecar.expires_at.pop(backup_id, None)
                self.sidecars.write(sidecar)

    def reconcile(self) -> Reconciled:
        """Make the index agree with the manifests on disk. Raises: IndexDamaged when all manifests are gone."""
        self.manifests.settle()
        on_disk, indexed = set(self.manifests.ids()), self.index.all_ids()
        if indexed and not on_disk and not indexed <= self.manifests.trashed():
            raise IndexDamaged(
                f"the index knows {len(indexed)} backups, but the store holds no manifest",
                hint="Check that the home folder is mounted whole; if the store was emptied, move index.sqlite away.",
            )
        imported = unusable = 0
        for backup_id in sorted(on_disk - indexed):
            try:
                self._import(backup_id)
                imported += 1
            except TorporError as error:
                unusable += 1
                self._keep_blobs_of(backup_id)
                self._note("warning", "manifest-unusable", f"{backup_id}: {error.detail}", backup_id)
        lost = indexed - on_disk
        for lost_id in sorted(lost):
            self.index.remove_backup(lost_id)
        if lost:
            self._note("info", "rows-dropped", f"{len(lost)} removed backups left the index")
        self.manifests.empty_trash()
        return Reconciled(imported, len(lost), unusable)

    def _keep_blobs_of(self, backup_id: str) -> None:
        """Spare what an unusable manifest names, which may heal; of an unreadable one spare everything."""
        try:
            self._spared.update(manifest_blobs(manifest_file.load(self.manifests.read(backup_id))))
        except TorporError:
            self._spare_all = True

    def _import(self, backup_id: str) -> None:
        raw = self.manifests.read(backup_id)
        manifest = manifest_file.load(raw)
        if manifest.id != backup_id:
            raise Conflict(f"the file of {backup_id} holds the manifest of {manifest.id}")
        try:
            self._require_blobs(manifest)
        except MissingBlobs as error:
            raise BlobNotFound(error.detail) from error
        self._index(manifest, raw)

    def discard(self, digests: Iterable[str]) -> int:
        """Unlink those of some blobs that no backup needs: what a failed save wrote. Return how many there were."""
        with self._lock:
            return sum(self._unlink_unneeded(digest, grace_s=0.0) for digest in digests)

    def _unlink_unneeded(self, digest: str, grace_s: float) -> bool:
        path = self.blobs.path(digest)
        try:
            if self._spare_all or digest in self._spared:
                return False
            if self._clock() - path.stat().st_mtime < grace_s or self.index.needs_blob(digest):
                return False
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def remove_orphans(self, grace_s: float, batch: int = 256) -> int:
        """Unlink blobs that no backup needs and no writer has touched for `grace_s`; return how many.

        A save that counts on such a blob in the same moment is told by its commit (MissingBlobs) and writes it again.
        """
        removed, digests = 0, self.blobs.digests()
        while group := list(islice(digests, batch)):
            with self._lock:
                removed += sum(self._unlink_unneeded(digest, grace_s) for digest in group)
        return removed

    def _note(self, level: str, kind: str, detail: str, backup_id: str | None = None) -> None:
        self.index.add_event(at=self._clock(), level=level, kind=kind, detail=detail, backup_id=backup_id)
