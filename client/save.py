"""The background half of a save: blobs, then the manifest, then the daemon's word that it is committed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..codec import manifest_file, tree
from ..state.backup import Backup
from ..state.block_keys import TokenRow, block_keys
from ..state.crash_points import Checkpoint
from ..state.errors import MissingBlobs, Timeout, TorporError
from ..state.fingerprint import Fingerprint
from ..state.manifest import BlobRef, KVCache, LayerName, Manifest, block_ranges
from ..state.rates import Observation
from .api import Api
from .blob_access import BlobAccess
from .digest_memo import DigestMemo
from .kv_save import KVJob

MAX_ATTEMPTS = 3  # a commit may find blobs gone that were there a moment ago; each attempt writes what is missing


class SaveHandle:
    """A save that was started. The session may go on; what it does from now on is not part of this backup."""

    def __init__(self, backup_id: str, session_id: str) -> None:
        self.backup_id, self.session_id = backup_id, session_id
        self.stall_s = 0.0  # how long `save` held the caller
        self.snapshot = "none"  # how the KV cache was captured: copied, held, followed
        self._future: Future[Backup] = Future()

    def wait(self, timeout_s: float | None = None) -> Backup:
        """Wait until the backup is durable and committed. Raises: Timeout, and whatever the save failed with."""
        try:
            return self._future.result(timeout_s)
        except FutureTimeout as error:
            if self._future.done():  # in the very moment
                return self._future.result()
            raise Timeout(f"backup {self.backup_id} is still being written") from error

    def done(self) -> bool:
        """Tell whether the save has ended, well or not."""
        return self._future.done()

    def finish(self, backup: Backup) -> None:
        """Note the committed backup."""
        self._future.set_result(backup)

    def fail(self, error: BaseException) -> None:
        """Note the failure."""
        self._future.set_exception(error)


@dataclass(slots=True)
class SaveJob:
    """Everything that a save needs once `save` has returned."""

    handle: SaveHandle
    adapter: str
    created_at: float
    tokens: int
    trees: dict[LayerName, tree.EncodedTree]
    fingerprint: Callable[[], Fingerprint]
    omitted: dict[str, str]
    media_spans: tuple[tuple[int, int], ...] = ()
    observations: Sequence[Observation] = ()
    row: Callable[[], TokenRow | None] = lambda: None
    kv: KVJob | None = None
    parent_id: str | None = None
    _written: list[BlobRef] = field(default_factory=list)
    _futures: list[Future[BlobRef]] = field(default_factory=list)
    _fingerprint: Future[Fingerprint] | None = None
    _stored: list[tuple[tree.Leaf, list[BlobRef]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def known_fingerprint(self) -> Fingerprint:
        """Return the fingerprint that the save went with. Only once it is committed."""
        assert self._fingerprint is not None
        return self._fingerprint.result()


class SaveWorker:
    """Runs save jobs one after the other; the blocks of one job are hashed and written by several threads."""

    def __init__(
        self, api: Api, blobs: BlobAccess, threads: ThreadPoolExecutor, memo: DigestMemo, checkpoint: Checkpoint
    ) -> None:
        self._api, self._blobs, self._threads = api, blobs, threads
        self._memo, self._checkpoint = memo, checkpoint

    def run(self, job: SaveJob) -> Backup:
        """Write a job and commit it. Raises: StoreFull, StoreFailed, SnapshotLost, DaemonNotRunning, Refused."""
        self._checkpoint("save.captured")
        manifest = None
        try:
            backup, manifest = self._attempts(job)
        except BaseException:
            wait(job._futures)  # what is still being written must be known before it is given back
            with suppress(TorporError):  # a disk that is full should not stay so because of this
                self._api.discard(job._written)
            raise
        finally:
            if job.kv is not None:
                done = manifest.kv_cache if manifest is not None else None
                job.kv.finish(done.blocks if done is not None else None)
        return backup

    def _attempts(self, job: SaveJob) -> tuple[Backup, Manifest]:
        gone: frozenset[str] = frozenset()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            manifest = self._write(job, gone)
            try:
                backup = self._api.commit(manifest.id, manifest_file.dump(manifest))
            except MissingBlobs as error:
                if attempt == MAX_ATTEMPTS:
                    raise
                gone = frozenset(error.digests)
                self._memo.forget(gone)
                continue
            self._checkpoint("save.acknowledged")
            for leaf, refs in job._stored:
                self._memo.remember(leaf, refs)
            return backup, manifest
        raise AssertionError("unreachable")

    def _write(self, job: SaveJob, gone: frozenset[str]) -> Manifest:
        job._stored.clear()
        if job._fingerprint is None:  # may read all weights: beside the writes, and once
            job._fingerprint = self._threads.submit(job.fingerprint)
        leaves = [(body, self._put_leaf(job, leaf)) for encoded in job.trees.values() for leaf, body in encoded.pending]
        kv = None if job.kv is None else self._write_kv(job, job.kv, gone)
        for body, refs in leaves:
            tree.fill(body, refs())
        self._blobs.settle()
        self._checkpoint("save.blobs-done")
        fingerprint = job._fingerprint.result()
        return Manifest(
            id=job.handle.backup_id,
            session_id=job.handle.session_id,
            created_at=job.created_at,
            adapter=job.adapter,
            layers={name: encoded.value for name, encoded in job.trees.items()},
            tokens=job.tokens,
            parent_id=job.parent_id,
            fingerprint=fingerprint,
            kv_cache=None if kv is None else _with_keys(kv, job.row(), fingerprint),
            omitted=job.omitted,
            media_spans=job.media_spans,
            bytes_written=sum(size for _, size in {(ref.digest, ref.size_bytes) for ref in job._written}),
        )

    def _put_leaf(self, job: SaveJob, leaf: tree.Leaf) -> Callable[[], list[BlobRef]]:
        known, chunks = self._memo.known(leaf), tree.chunks(leaf)
        if known is not None:
            return lambda: known
        futures = [self._submit(job, self._put, job, [chunk], partial(self._memo.check, leaf)) for chunk in chunks]

        def refs() -> list[BlobRef]:
            found = _results(futures)
            self._memo.check(leaf)
            job._stored.append((leaf, found))
            return found

        return refs

    def _write_kv(self, job: SaveJob, kv: KVJob, gone: frozenset[str]) -> KVCache:
        layout, reusable = kv.layout, kv.reusable()
        futures: list[Future[BlobRef] | BlobRef] = []
        for i, (start, stop) in enumerate(block_ranges(kv.tokens, layout.block_tokens)):
            if start < kv.start and i < len(reusable) and reusable[i].digest not in gone:
                futures.append(reusable[i])
            else:
                read = kv.again if start < kv.start else kv.view.block
                futures.append(self._submit(job, self._put_block, job, read, start, stop))
        blocks = _results(futures)
        return KVCache(layout, kv.tokens, kv.cache_class, tuple(blocks))

    def _put_block(
        self, job: SaveJob, read: Callable[[int, int], Sequence[memoryview]], start: int, stop: int
    ) -> BlobRef:
        return self._put(job, read(start, stop))

    def _submit(self, job: SaveJob, call: Callable[..., BlobRef], *arguments: Any) -> Future[BlobRef]:
        future = self._threads.submit(call, *arguments)
        job._futures.append(future)
        return future

    def _put(
        self, job: SaveJob, buffers: Sequence[memoryview], still_good: Callable[[], None] | None = None
    ) -> BlobRef:
        result = self._blobs.put(buffers, still_good)
        if result.written:
            with job._lock:
                job._written.append(result.ref)
        return result.ref


def _with_keys(kv: KVCache, row: TokenRow | None, fingerprint: Fingerprint) -> KVCache:
    """Name what each full block was computed from, so that other sessions find it."""
    if row is None:
        return kv
    return replace(kv, keys=block_keys(row, fingerprint, kv.tokens, kv.layout.block_tokens))


def _results(futures: Sequence[Future[BlobRef] | BlobRef]) -> list[BlobRef]:
    """Return all results; the first failure is raised only after every thread has let go of its buffers."""
    errors: list[BaseException] = []
    found: list[BlobRef] = []
    for future in futures:
        if isinstance(future, BlobRef):
            found.append(future)
            continue
        error = future.exception()
        if error is not None:
            errors.append(error)
        else:
            found.append(future.result())
    if errors:
        raise errors[0]
    return found
