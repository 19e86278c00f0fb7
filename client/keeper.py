"""The keeper: the one object that an inference process needs."""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ulid import ULID

from ..codec import manifest_file, tree
from ..state.backup import Backup
from ..state.block_keys import Medium
from ..state.errors import TorporError
from ..state.ids import parse_session_id
from ..state.manifest import GroupRef, Manifest
from ..state.plan import Mode, RestorePlan, plan_restore
from ..state.watching import Signature
from ..store.crash import from_environment
from .api import Api
from .blob_access import BlobAccess, OverHttp, SharedFiles
from .capture import Restored, RestoreTarget, SessionSource, Woken
from .digest_memo import DigestMemo
from .discover import find_endpoint
from .exporting import Exported, Exporter
from .groups import GroupHandle, check_sources, check_targets
from .importing import Imported, Importer
from .kv_save import SavedCaches, capture_kv
from .lineage import Lineage
from .memory import Pool, available_bytes
from .prefix import Prefixes, PrefixHit, PrefixSession, PrefixTarget
from .restore import read_backup
from .save import Batch, SaveHandle, SaveJob, SaveWorker
from .transfer import ExportFormat, Progress, no_progress

S = TypeVar("S")
WRITERS = 4  # enough to keep a disk busy while others hash; each needs no memory of its own


def connect(
    *, home: str | Path | None = None, url: str | None = None, token: str | None = None, pool: Pool | None = None
) -> Keeper:
    """Connect to the daemon of a home folder (argument, `TORPOR_HOME`, or the platform's data folder).

    With `url` and `token` (or `TORPOR_URL` and `TORPOR_TOKEN`) no files are shared and blobs go over HTTP.
    Raises: DaemonNotRunning, Unauthorized, VersionMismatch.
    """
    api = Api(lambda: find_endpoint(os.environ, home=home, url=url, token=token))
    try:
        api.status()
    except BaseException:
        api.close()
        raise
    return Keeper(api, pool=pool)


class Keeper:
    """Saves sessions in the background and restores them. Safe to use from several threads."""

    def __init__(
        self,
        api: Api,
        *,
        pool: Pool | None = None,
        free_memory: Callable[[], int] = available_bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        checkpoint = from_environment(os.environ)
        self.api, self._clock, self._free_memory = api, clock, free_memory
        shared = api.endpoint.home
        self.blobs: BlobAccess = SharedFiles(shared, checkpoint) if shared is not None else OverHttp(api)
        self._threads = ThreadPoolExecutor(WRITERS, thread_name_prefix="torpor-io")
        self._pool, self._caches = pool or Pool(), SavedCaches()
        self._lineage = Lineage()
        self._prefixes = Prefixes(api, self.blobs, self._threads)
        self._worker = SaveWorker(api, self.blobs, self._threads, DigestMemo(), checkpoint)
        self._jobs: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._saver: threading.Thread | None = None
        self._lock, self._closed = threading.Lock(), False
        self._at_exit = self.close  # one object, so that it can be unregistered

    def save(self, session_id: str, source: SessionSource) -> SaveHandle:
        """Capture a session and write it in the background; returns in milliseconds.

        Raises: InvalidId, UnsupportedState. What fails later is raised by `handle.wait()`.
        """
        started = time.perf_counter()
        parse_session_id(session_id)
        Lineage.check(source)
        now = self._clock()
        handle = SaveHandle(str(ULID.from_timestamp(now)), session_id)
        with self._lock:  # captures of one keeper take turns, so that each sees what the one before will have saved
            self._start_saver()
            job = self._capture(handle, source, now)
            self._jobs.put(Batch([job], [source], lambda backups: handle.finish(backups[0]), handle.fail))
        handle.stall_s = time.perf_counter() - started
        return handle

    def save_group(self, name: str, sources: Mapping[str, SessionSource]) -> GroupHandle:
        """Capture several sessions (by session id) at one moment, and save all of them or none.

        Each becomes a backup of its own, which knows its group. Returns in milliseconds a session.
        Raises: InvalidId, BadInput, UnsupportedState. What fails later is raised by `handle.wait()`.
        """
        started = time.perf_counter()
        check_sources(name, sources)
        for source in sources.values():
            Lineage.check(source)
        now = self._clock()
        group = GroupRef(str(ULID.from_timestamp(now)), name, len(sources))
        handles = [SaveHandle(str(ULID.from_timestamp(now)), session_id) for session_id in sources]
        handle = GroupHandle(group, {each.session_id: each.backup_id for each in handles})
        jobs: list[SaveJob] = []
        with self._lock:
            self._start_saver()
            try:
                for each, source in zip(handles, sources.values(), strict=True):
                    jobs.append(self._capture(each, source, now, group))
            except BaseException:
                for job in jobs:
                    job.drop()
                raise

            def finish(backups: list[Backup]) -> None:
                handle.finish({backup.session_id: backup for backup in backups})

            self._jobs.put(Batch(jobs, list(sources.values()), finish, handle.fail))
        handle.stall_s = time.perf_counter() - started
        return handle

    def _capture(self, handle: SaveHandle, source: SessionSource, now: float, group: GroupRef | None = None) -> SaveJob:
        capture = source.capture()
        trees = {name: tree.encode(value, capture.to_leaf) for name, value in capture.layers.items()}
        kv = None
        if capture.kv is not None:
            kv = capture_kv(capture.kv, self._caches, self._pool, self._free_memory)
            handle.snapshot = kv.way
        return SaveJob(
            handle=handle,
            adapter=capture.adapter,
            created_at=now,
            tokens=capture.tokens,
            trees=trees,
            fingerprint=capture.fingerprint,
            omitted=dict(capture.omitted),
            media_spans=capture.media_spans,
            row=capture.row,
            kv=kv,
            group=group,
        )

    def _start_saver(self) -> None:
        """Start the thread that saves. It must end before the interpreter: freeing a tensor then would abort."""
        if self._closed:
            raise TorporError("the keeper is closed")
        if self._saver is None:
            atexit.register(self._at_exit)
            self._saver = threading.Thread(target=self._save_loop, name="torpor-save", daemon=True)
            self._saver.start()

    def _save_loop(self) -> None:
        while (item := self._jobs.get()) is not None:
            self._run(item)
            del item

    def _run(self, batch: Batch) -> None:
        for job, source in zip(batch.jobs, batch.sources, strict=True):
            job.parent_id = self._lineage.of(source)  # saves run in order: the last one that was really committed
        try:
            backups = self._worker.run(batch.jobs)
            for source, backup in zip(batch.sources, backups, strict=True):
                self._lineage.note(source, backup.id)
        except TorporError as error:
            batch.fail(error)
        except BaseException as error:
            wrapped = TorporError(f"the save failed: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            batch.fail(wrapped)
        else:
            batch.finish(backups)
            kv = batch.jobs[0].kv
            if kv is not None:
                with suppress(MemoryError, OSError):
                    self._pool.warm(2 * kv.layout.block_tokens * kv.layout.token_bytes())

    def plan(
        self, ref: str, target: RestoreTarget[Any], *, require: Mode | None = None, at_most: Mode = "full"
    ) -> RestorePlan:
        """Tell what a restore would do, and why; changes nothing. `ref` is a backup id or a session id.

        Raises: BackupNotFound, SessionNotFound, RestoreRefused, ManifestDamaged.
        """
        return plan_restore(self.manifest(ref)[1], target.describe(), require=require, at_most=at_most)

    def manifest(self, ref: str) -> tuple[Backup, Manifest]:
        """Return a backup and its manifest. Raises: BackupNotFound, SessionNotFound, ManifestDamaged."""
        backup = self.api.backup(ref)
        return backup, manifest_file.load(self.api.manifest(backup.id))

    def restore(
        self, ref: str, target: RestoreTarget[S], *, require: Mode | None = None, at_most: Mode = "full"
    ) -> Restored[S]:
        """Wake a session in a target: the newest backup of a session, or a backup by its id.

        Everything is read and checked before the target is touched; a failure leaves it as it was.
        Raises: BackupNotFound, SessionNotFound, RestoreRefused, BlobDamaged, BlobNotFound, ManifestDamaged.
        """
        backup, woken = self._read(ref, target, require, at_most)
        return self._handed_over(backup, woken, target, target.adopt(woken))

    def restore_group(
        self,
        ref: str,
        targets: Mapping[str, RestoreTarget[S]],
        *,
        require: Mode | None = None,
        at_most: Mode = "full",
    ) -> dict[str, Restored[S]]:
        """Wake all sessions of a group, each in the target given for its session id. `ref`: a group's id or its name.

        Everything of every member is read and checked before the first target is touched. Targets may share one model:
        rope deltas and RNG state are then those of the last one, as `activate` on a session changes them.
        Raises: GroupNotFound, GroupIncomplete, BadInput (a target too few or too many), and as `restore`.
        """
        members = check_targets(self.api.group(ref), targets)
        read = {name: self._read(members[name].id, target, require, at_most) for name, target in targets.items()}
        sessions = {name: target.adopt(read[name][1]) for name, target in targets.items()}
        return {name: self._handed_over(*read[name], target, sessions[name]) for name, target in targets.items()}

    def _read(self, ref: str, target: RestoreTarget[Any], require: Mode | None, at_most: Mode) -> tuple[Backup, Woken]:
        backup, manifest = self.manifest(ref)
        plan = plan_restore(manifest, target.describe(), require=require, at_most=at_most)
        return backup, read_backup(manifest, plan, target, self.blobs, self._threads)

    def _handed_over(self, backup: Backup, woken: Woken, target: RestoreTarget[S], session: S) -> Restored[S]:
        with self._lock:
            live = target.live(session) if woken.kv_cache is not None else None
            if live is not None and woken.kv_cache is not None:
                self._caches.note(live, woken.kv_cache.blocks)
            self._lineage.note(session, backup.id)
        return Restored(woken.plan.mode, session, backup, woken.plan, woken.layers)

    def find_prefix(self, target: PrefixTarget, token_ids: Any, media: Sequence[Medium] = ()) -> PrefixHit:
        """Find the longest stored prefix of some ids, whatever session it comes from; reads no tensors.

        `media` are the images and videos behind the placeholders, in their order (see `medium`).
        Raises: DaemonNotRunning, ManifestDamaged.
        """
        return self._prefixes.find(target.describe().fingerprint, target.token_row(token_ids, media))

    def restore_prefix(self, hit: PrefixHit, target: PrefixTarget) -> Any:
        """Return a fresh cache of the positions of a hit; every block is checked against its digest.

        Raises: BadInput, RestoreRefused (another model), BackupNotFound, BlobNotFound, BlobDamaged, UnsupportedState.
        """
        cache, kv = self._prefixes.read(hit, target)
        with self._lock:
            self._caches.note(target.live_cache(cache), kv.blocks)  # the next save reuses the blocks unread
        return cache

    def reuse_prefix(self, session: PrefixSession) -> PrefixHit:
        """Give a session without a cache the longest stored prefix. When none is found, it stays as it was.

        Raises: as `find_prefix` and `restore_prefix`; the session is untouched then.
        """
        target = session.prefix_target()
        hit = self._prefixes.find(target.describe().fingerprint, session.token_row())
        if hit.tokens:
            session.take_prefix(self.restore_prefix(hit, target))
        return hit

    def export(
        self,
        ref: str,
        path: str | Path,
        kind: ExportFormat = "bundle",
        progress: Progress = no_progress,
        *,
        strict: bool = False,
        force: bool = False,
    ) -> Exported:
        """Write a backup to a file, and read it back. `strict` is for v1: what its first reader understood.

        Raises: BackupNotFound, SessionNotFound, FileExists, UnsupportedState, StoreFull, StoreFailed, BlobDamaged.
        """
        raw = self.api.manifest(self.api.backup(ref).id)
        return Exporter(self.blobs).run(raw, path, kind, progress, strict=strict, force=force)

    def import_file(
        self,
        path: str | Path,
        session_id: str | None = None,
        progress: Progress = no_progress,
        *,
        follow: bool = True,
        expected: Signature | None = None,
    ) -> Imported:
        """Make a backup of a state file: v1, bundle, safetensors or .pt; the same file again gives the same backup.

        Without `follow`, a symbolic link is refused; with `expected`, a file that looks otherwise.

        Raises: UnknownFormat, NewerFormat, InvalidFile, FileDamaged, FileChanged, TooLarge, UnsupportedState,
        MissingExtra.
        """
        importer = Importer(self.api, self.blobs, self._clock)
        return importer.run(path, session_id, progress, follow=follow, expected=expected)

    def close(self) -> None:
        """Finish the saves that were started, then free everything."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            saver = self._saver
            self._jobs.put(None)
        if saver is not None:
            saver.join()
            atexit.unregister(self._at_exit)
        self._threads.shutdown()
        self.blobs.close()
        self.api.close()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
