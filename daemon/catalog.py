"""Backups as a whole: the commit of a manifest, its removal, and what is said of it.

Files are the truth and the index follows. Commit: blobs are there, then the manifest file, then the index; removal:
the manifest file, then the index. So whatever a crash leaves behind, start-up can make the two agree.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from ..codec import manifest_file
from ..codec.glimpse import glimpse
from ..db.index import Index
from ..db.records import NewBackup, Sharing, record_of
from ..state.backup import Backup
from ..state.crash_points import Checkpoint, no_checkpoint
from ..state.errors import (
    AmbiguousId,
    BackupNotFound,
    BadInput,
    Conflict,
    ManifestDamaged,
    MissingBlobs,
    SessionNotFound,
    TorporError,
)
from ..state.ids import is_backup_id, is_short_id, parse_backup_id, parse_session_id, parse_title
from ..state.manifest import BlobRef, Manifest, manifest_blobs
from ..store.blobs import BlobStore
from ..store.manifests import ManifestStore
from ..store.pending_groups import PendingGroups
from ..store.sidecars import Sidecar, SidecarStore
from ..store.staging import Staging
from ..store.trash import BlobTrash
from .commits import Blobs, Commit, Latest, each_its_outcome
from .spared import Spared
from .together import Together

CANDIDATES = 5  # of a short id that is not unique
OLD_STATE_S = 3600.0  # a save takes minutes at most: what is older comes from elsewhere


@dataclass(frozen=True, slots=True)
class BlobPlace:
    """A blob of a backup: its file, whether that is there at its right size, and how many other backups name it.

    `in_bucket` is asked for those that are not here.
    """

    digest: str
    size_bytes: int
    layer: str
    path: str
    present: bool
    shared_with: int
    in_bucket: bool = False


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
        trash: BlobTrash,
        manifests: ManifestStore,
        sidecars: SidecarStore,
        pending_groups: PendingGroups,
        staging: Staging,
        ttl_s: float,
        clock: Callable[[], float] = time.time,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        self.index, self.blobs, self.manifests, self.sidecars = index, blobs, manifests, sidecars
        self.trash, self.pending_groups = trash, pending_groups
        self.staging, self.ttl_s, self._clock, self._checkpoint = staging, ttl_s, clock, checkpoint
        self._trusted = clock
        self._lock = threading.Lock()
        self._together = Together(self._lock, partial(each_its_outcome, self._check, self._write))
        self._latest, self.spared = Latest(), Spared()
        self._on_queued: Callable[[], None] | None = None
        self._listeners: list[Callable[[Iterable[str], bool], None]] = []
        self._room_for: Callable[[Sequence[Manifest], int], AbstractContextManager[None]] = lambda *_: nullcontext()

    def admit_with(self, admit: Callable[[Sequence[Manifest], int], AbstractContextManager[None]]) -> None:
        """Ask this for room before manifests are committed: it gets them, and how many bytes they take."""
        self._room_for = admit

    def queue_with(self, on_queued: Callable[[], None]) -> None:
        """Queue what is committed from now on for the bucket, and call this behind each commit."""
        self._on_queued = on_queued

    def tell_changes_with(self, on_change: Callable[[Iterable[str], bool], None]) -> None:
        """Call this, too, with sessions of which something was entered or the title changed, or (True) removed."""
        self._listeners.append(on_change)

    def _on_change(self, session_ids: Iterable[str], removed: bool) -> None:
        told = list(session_ids)
        for listener in self._listeners:
            listener(told, removed)

    def _queued(self) -> None:
        if self._on_queued is not None:
            self._on_queued()

    def judge_time_by(self, trusted: Callable[[], float]) -> None:
        """Count TTLs from now on by a time that no clock jump moves."""
        self._trusted = trusted

    def trusted(self) -> float:
        """Return the time that TTLs are judged by."""
        return self._trusted()

    def locked(self) -> AbstractContextManager[object]:
        """Let nothing be committed, taken in or removed while this is open."""
        return self._lock

    def now(self) -> float:
        """Return the time, in seconds since the epoch."""
        return self._clock()

    @property
    def checkpoint(self) -> Checkpoint:
        """Return what is told of crash points."""
        return self._checkpoint

    def commit(self, backup_id: str, raw: bytes, *, new_session: bool = False) -> Backup:
        """Commit a manifest whose blobs are in the store. Doing it again with the same content changes nothing.

        With `new_session`, only as the first backup of its session.
        Durability: on return the backup survives power loss.
        Raises: InvalidManifest, MissingBlobs, Conflict, StoreFull, StoreFailed.
        """
        self._checkpoint("commit.received")
        manifest = manifest_file.load(raw)
        if manifest.id != parse_backup_id(backup_id):
            raise BadInput(f"the manifest of backup {manifest.id} was sent as {backup_id}")
        entered = self.commit_all([manifest], new_session=new_session)
        return entered.get(backup_id) or self.index.backup(backup_id)

    def commit_all(self, manifests: Sequence[Manifest], *, new_session: bool = False) -> Mapping[str, Backup]:
        """Commit manifests; they enter the index in one transaction, with what others commit in the same moment.

        Returns, by id, those that were not in the index. Without a crash it is all or none. A group's commit sees to
        crashes too (daemon/groups.py).
        Raises: as `commit`.
        """
        raws = {each.id: manifest_file.dump(each) for each in manifests}
        commit = Commit(manifests, raws, {each.id: manifest_blobs(each) for each in manifests}, new_session)
        with self._room_for(manifests, sum(map(len, commit.raws.values()))):
            try:
                for backup_id, raw in commit.raws.items():
                    if not self.manifests.has(backup_id):
                        commit.staged[backup_id] = self.manifests.stage(self.staging, backup_id, raw)
                self._together.do(commit, commit.keys())
            finally:
                self.manifests.unstage(commit.staged.values())
        self._queued()
        return commit.entered

    def _check(self, commit: Commit) -> None:
        """See whether a commit may be made. Raises: as `commit`."""
        commit.new = [each for each in commit.manifests if not self._is_committed(each.id, commit.raws[each.id])]
        taken = [each for each in commit.new if commit.new_session and self._has_backups(each.session_id)]
        if taken:
            raise Conflict(f"the session id {taken[0].session_id} is in use", hint="Choose another session id.")
        self._require_blobs(commit)
        if len(commit.new) < len(commit.raws):
            self.manifests.settle()
        for manifest in commit.new:
            self._keep_here_too(manifest)

    def _write(self, commits: Sequence[Commit]) -> None:
        """Write the manifests of commits, and then their rows: one fsync of the folder, and one transaction."""
        new = {manifest.id: (commit, manifest) for commit in commits for manifest in commit.new}
        try:
            if new:
                self.manifests.publish({each: self._staged(commit, each) for each, (commit, _) in new.items()})
            pairs = [(manifest, commit.raws[manifest.id]) for commit in commits for manifest in commit.manifests]
            sidecars = {manifest.session_id: self._keep_old_state(manifest) for manifest, _ in pairs}
            blobs = {backup_id: found for commit in commits for backup_id, found in commit.blobs.items()}
            entered = self._index(pairs, blobs=blobs, sidecars=sidecars, enqueue=self._on_queued is not None)
        except BaseException:
            self._take_back(manifest for _, manifest in new.values())  # not acknowledged
            raise
        for commit in commits:
            commit.entered = {each.id: each for each in entered if each.id in commit.raws}
            for manifest in commit.manifests:
                self._latest.note(manifest)

    def _staged(self, commit: Commit, backup_id: str) -> Path:
        path = commit.staged.pop(backup_id, None)
        return path or self.manifests.stage(self.staging, backup_id, commit.raws[backup_id])

    def take_in(self, manifest: Manifest, choose: Callable[[Sidecar, float, float], None]) -> Backup:
        """Enter a backup whose blobs lie elsewhere, as far as they are not here. Again changes nothing.

        `choose` gets the session's sidecar, the time and the default TTL. Durability: as `commit`.
        Raises: Conflict when the id is taken by another backup, StoreFull, StoreFailed.
        """
        raw = manifest_file.dump(manifest)
        with self._lock:
            there = self._is_committed(manifest.id, raw)
            if there and self.index.has_backup(manifest.id):
                return self.index.backup(manifest.id)
            sidecar = self.sidecars.read(manifest.session_id)
            choose(sidecar, self._trusted(), sidecar.ttl_s or self.ttl_s)
            if sidecar != self.sidecars.read(manifest.session_id):
                self.sidecars.write(sidecar)  # before the manifest: a start-up that imports it reads this
            try:
                if not there:
                    self.manifests.write(self.staging, manifest.id, raw)
                self._index([(manifest, raw)], absent=self._absent(manifest))
            except BaseException:
                self._take_back([] if there else [manifest])
                raise
        return self.index.backup(manifest.id)

    def enter(self, found: Sequence[tuple[Manifest, bytes]]) -> dict[str, int]:
        """Enter backups into the index whose manifests are on disk, in one transaction.

        Returns how many blobs are not here of each that lacks some.
        """
        absent = {manifest.id: self._absent(manifest) for manifest, _ in found}
        self._index(found, frozenset().union(*absent.values()))
        return {backup_id: len(lacking) for backup_id, lacking in absent.items() if lacking}

    def _has_backups(self, session_id: str) -> bool:
        return bool(self.index.list_backups(session_id=session_id, limit=1))

    def _take_back(self, manifests: Iterable[Manifest]) -> None:
        """Remove manifests again, or they come back at start-up; where that fails, their blobs must stay."""
        for manifest in manifests:
            with suppress(BackupNotFound):
                try:
                    self.manifests.remove(manifest.id)
                except TorporError:
                    self.spared.add(manifest_blobs(manifest))
        with suppress(TorporError):
            self.manifests.empty_trash()

    def _keep_old_state(self, manifest: Manifest) -> Sidecar:
        """Count the TTL of an imported state from now: it may be older than that, or made under a wrong clock.

        Returns what is said of its session.
        """
        now, sidecar = self._trusted(), self.sidecars.read(manifest.session_id)
        ttl_s = sidecar.ttl_s or self.ttl_s
        is_new = abs(now - manifest.created_at) < min(OLD_STATE_S, ttl_s)
        if not is_new and manifest.id not in sidecar.expires_at:
            sidecar.expires_at[manifest.id] = now + ttl_s
            self.sidecars.write(sidecar)
        return sidecar

    def _keep_here_too(self, manifest: Manifest) -> None:
        """Keep a session on this machine that goes on from a backup of one that stays: it holds what that one holds."""
        if manifest.parent_id is None or self._latest.is_parent_of(manifest):
            return
        if not self._comes_from_here(manifest, manifest.parent_id):
            return
        sidecar = self.sidecars.read(manifest.session_id)
        if not sidecar.no_sync:
            sidecar.no_sync = True
            self.sidecars.write(sidecar)  # before the manifest: a start-up that imports it reads this
            self.index.set_no_sync(manifest.session_id, True)

    def _comes_from_here(self, manifest: Manifest, parent_id: str) -> bool:
        parent = self.index.session_of(parent_id)
        if parent is None:  # removed: of which session, only a new one tells by that it is not its own
            return self.index.has_stayed(parent_id) and not self._has_backups(manifest.session_id)
        return parent != manifest.session_id and (self.sidecars.read(parent).no_sync or self.index.stays_here(parent))

    def _is_committed(self, backup_id: str, canonical: bytes) -> bool:
        try:
            existing = self.manifests.read(backup_id)
        except BackupNotFound:
            return False
        if existing != canonical:
            raise Conflict(f"backup {backup_id} exists with other content")
        return True

    def _require_blobs(self, commit: Commit) -> None:
        named = {(digest, size) for each in commit.blobs.values() for digest, (size, _) in each.items()}
        missing = self._missing(BlobRef(*ref) for ref in sorted(named))
        if missing:
            raise MissingBlobs(f"{len(missing)} blobs are not in the store", digests=tuple(missing))

    def _absent(self, manifest: Manifest) -> frozenset[str]:
        """Return the blobs of a manifest that are not in the store."""
        named = manifest_blobs(manifest).items()
        return frozenset(self._missing(BlobRef(digest, size) for digest, (size, _) in named))

    def _missing(self, refs: Iterable[BlobRef]) -> list[str]:
        """Return the blobs that are not in the store; what lies in the trash is taken back."""
        named = list(refs)
        missing = self.blobs.missing(named)
        return self.blobs.missing(named) if missing and self.trash.take_back(missing) else missing

    def _index(
        self,
        manifests: Iterable[tuple[Manifest, bytes]],
        absent: frozenset[str] = frozenset(),
        *,
        blobs: Mapping[str, Blobs] = MappingProxyType({}),
        sidecars: Mapping[str, Sidecar] = MappingProxyType({}),
        enqueue: bool = False,
    ) -> list[Backup]:
        """Enter backups, and return those that were not there.

        `blobs` (by backup) and `sidecars` (by session) are those that were looked at already.
        """
        new = []
        for manifest, canonical in manifests:
            named = blobs[manifest.id] if manifest.id in blobs else manifest_blobs(manifest)
            sidecar = sidecars.get(manifest.session_id) or self.sidecars.read(manifest.session_id)
            record = self._record(manifest, canonical, named, sidecar)
            keyed = tuple(manifest.kv_cache.keyed_blocks()) if manifest.kv_cache is not None else ()
            new.append(NewBackup(record, named, keyed, absent, sidecar.no_sync, glimpse(manifest)))
        entered = self.index.commit_backups(new, now=self._clock(), enqueue=enqueue)
        self._on_change((each.record.session_id for each in new), False)
        return entered

    def _record(self, manifest: Manifest, canonical: bytes, blobs: Blobs, sidecar: Sidecar) -> Backup:
        return record_of(
            manifest,
            manifest_digest=manifest_file.digest_of(canonical),
            manifest_bytes=self.manifests.size_bytes(manifest.id),
            pinned=manifest.id in sidecar.pinned,
            expires_at=sidecar.expires_at.get(manifest.id, manifest.created_at + (sidecar.ttl_s or self.ttl_s)),
            title=sidecar.title,
            blobs=blobs,
        )

    def resolve(self, ref: str) -> Backup:
        """Return a backup by its id, the newest of a session, or the only backup whose id ends so.

        Raises: BackupNotFound, SessionNotFound, InvalidId, AmbiguousId.
        """
        if is_backup_id(ref):
            with suppress(BackupNotFound):
                return self.index.backup(ref)
        try:
            return self.index.newest(parse_session_id(ref))
        except TorporError:
            if is_backup_id(ref):
                raise BackupNotFound(f"there is no backup {ref}") from None
            if is_short_id(ref):
                return self._by_end(ref)
            raise

    def _by_end(self, end: str) -> Backup:
        found = self.index.ending_with(end, limit=CANDIDATES + 1)
        if not found:
            raise SessionNotFound(f"there is no session {end}, and no backup whose id ends so")
        if len(found) > 1:
            more = " and more" if len(found) > CANDIDATES else ""
            raise AmbiguousId(f"{end} is the end of {', '.join(found[:CANDIDATES])}{more}")
        return self.index.backup(found[0])

    def set_title(self, session_id: str, title: str | None) -> Backup:
        """Give a session a title, in its sidecar and the index; return its newest backup. Raises: SessionNotFound."""
        with self._lock:
            self.index.newest(parse_session_id(session_id))
            sidecar = self.sidecars.read(session_id)
            sidecar.title = parse_title(title)
            self.sidecars.write(sidecar)
            self.index.set_title(session_id, sidecar.title)
        self._on_change([session_id], False)
        return self.index.newest(session_id)

    def manifest_json(self, backup_id: str) -> bytes:
        """Return a manifest's canonical JSON, checked against the index. Raises: BackupNotFound, ManifestDamaged."""
        return self.manifest_of(self.index.backup(parse_backup_id(backup_id)))

    def manifest_of(self, backup: Backup) -> bytes:
        """Return the canonical JSON of a backup of the index. Raises: BackupNotFound, ManifestDamaged."""
        raw = self.manifests.read(backup.id)
        if manifest_file.digest_of(raw) != backup.manifest_digest:
            raise ManifestDamaged(f"the manifest of backup {backup.id} is not the one that was committed")
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

    def set_no_sync(self, session_id: str, no_sync: bool) -> None:
        """Keep a session on this machine, or no longer; one of which there is no backup yet, too.

        What waits of it leaves the queue. What is in the bucket already stays there. Raises: InvalidId.
        """
        with self._lock:
            sidecar = self.sidecars.read(parse_session_id(session_id))
            sidecar.no_sync = no_sync
            self.sidecars.write(sidecar)  # first: after a crash between the two, nothing goes that is not to go
            self.index.set_no_sync(session_id, no_sync)

    def remove(self, backup_id: str, *, purge: bool = False, provided: Callable[[], bool] = lambda: True) -> bool:
        """Remove a backup; blobs stay until nothing needs them and a grace time is over.

        With `purge` its removal from the bucket is queued. Nothing is done, and False returned, where `provided` says
        no at the moment when nothing else can change. Raises: BackupNotFound.
        """
        with self._lock:
            if not provided():
                return False
            record = self.index.backup(parse_backup_id(backup_id))
            with suppress(BackupNotFound):
                self.manifests.remove(backup_id)
            self._checkpoint("remove.trashed")
            try:
                self.index.remove_backup(backup_id, purge_at=self._clock() if purge else None)
            except TorporError:
                self.manifests.put_back(backup_id)  # what is listed can be read
                raise
            self._checkpoint("remove.unindexed")
            self.manifests.empty_trash()
            self._forget_choices(record)
        self._on_change([record.session_id], True)
        if purge:
            self._queued()
        return True

    def _forget_choices(self, record: Backup) -> None:
        """Drop what the user said of a removed backup, and with the last one of its session the title."""
        sidecar = self.sidecars.read(record.session_id)
        last = sidecar.title is not None and not self.index.list_backups(session_id=record.session_id, limit=1)
        noted = (sidecar.pinned, sidecar.expires_at, sidecar.dropped_at)
        if last or any(record.id in each for each in noted):
            sidecar.title = None if last else sidecar.title
            sidecar.pinned.discard(record.id)
            sidecar.expires_at.pop(record.id, None)
            sidecar.dropped_at.pop(record.id, None)
            self.sidecars.write(sidecar)
        if sidecar == Sidecar(record.session_id) and not self._has_backups(record.session_id):
            self.sidecars.forget(record.session_id)

    def note(self, level: str, kind: str, detail: str, backup_id: str | None = None) -> None:
        """Note an event."""
        self.index.add_event(at=self._clock(), level=level, kind=kind, detail=detail, backup_id=backup_id)
