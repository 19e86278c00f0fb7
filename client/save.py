"""The background half of a save: blobs, then the manifest, then the daemon's word that it is committed."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ..codec import manifest_file, tree
from ..state.backup import Backup
from ..state.block_keys import TokenRow, block_keys
from ..state.crash_points import Checkpoint
from ..state.errors import GroupIncomplete, MissingBlobs, QuotaFull, TorporError
from ..state.fingerprint import Fingerprint
from ..state.manifest import BlobRef, KVCache, Manifest, block_ranges
from ..state.quota import on_disk
from ..state.timing import Timing
from ..store.blobs import PutResult
from .api import Api
from .blob_access import BlobAccess
from .digest_memo import DigestMemo
from .keep_text import holds_large, smaller
from .kv_save import KVJob
from .room import Promise, RoomDesk
from .save_job import SaveHandle, SaveJob

T = TypeVar("T")
NICENESS = 10  # of the threads that write: a tenth of the share of one that generates, on a core that both want
MAX_ATTEMPTS = 3  # a commit may find blobs gone that were there a moment ago; each attempt writes what is missing


class SaveWorker:
    """Runs save jobs one after the other; the blocks of one job are hashed and written by several threads."""

    def __init__(
        self,
        api: Api,
        blobs: BlobAccess,
        threads: ThreadPoolExecutor,
        memo: DigestMemo,
        checkpoint: Checkpoint,
        desk: RoomDesk | None = None,
    ) -> None:
        self._api, self._blobs, self._threads = api, blobs, threads
        self._memo, self._checkpoint = memo, checkpoint
        self._desk = desk or RoomDesk(api)

    def run(self, jobs: Sequence[SaveJob]) -> list[Backup]:
        """Write jobs and commit them together: one, or all of a group. Returns their backups in the same order.

        When that fails because there is no room, or a layer cannot be read, what is smaller is saved under the same
        ids, all of it or nothing: the error's `kept` says what (client/keep_text.py).
        Raises: QuotaFull, StoreFull, StoreFailed, SnapshotLost, DaemonNotRunning, Refused.
        """
        self._checkpoint("save.captured")
        manifests: list[Manifest] = []
        try:
            backups, manifests = self._whole(jobs)
        except Exception as error:
            failed = _typed(error)
            self._keep_what_may_be(jobs, failed)
            raise failed from error.__cause__ if failed is error else error
        finally:
            for i, job in enumerate(jobs):
                if job.kv is not None:
                    done = manifests[i].kv_cache if manifests else None
                    job.kv.finish(done.blocks if done is not None else None)
        return backups

    def _whole(self, jobs: Sequence[SaveJob]) -> tuple[list[Backup], list[Manifest]]:
        """Save all of some jobs, or leave nothing of them."""
        promise = self._desk.promise(name_of(jobs), jobs[0].handle.session_id)
        try:
            return self._attempts(jobs, promise)
        except BaseException as error:
            wait([future for job in jobs for future in job.futures])  # what is being written must be known first
            if isinstance(error, QuotaFull):
                self._desk.is_tight()
            with suppress(TorporError):  # a disk that is full should not stay so because of this
                self._api.discard(ref for job in jobs for ref in job.written)
            with suppress(TorporError):
                promise.end()
            raise

    def _keep_what_may_be(self, jobs: Sequence[SaveJob], error: TorporError) -> None:
        """Save what is smaller than all that failed, and say so in the error."""
        for fewer in smaller(jobs, error):
            try:
                self._whole(fewer)
            except TorporError as another:
                error.add_note(f"nor could less be kept: {another.detail}")
                continue
            error.keep(name_of(jobs))
            return

    def _commit(self, manifests: Sequence[Manifest], first: SaveHandle) -> list[Backup]:
        timing = Timing(time.perf_counter() - first.started, first.stall_s)
        raws, group = [manifest_file.dump(manifest) for manifest in manifests], manifests[0].group
        if group is None:
            return [self._api.commit(manifests[0].id, raws[0], timing=timing)]
        committed = {backup.id: backup for backup in self._api.commit_group(group.id, raws, timing=timing).backups}
        if len(committed) < len(manifests):
            raise GroupIncomplete(f"group {group.id} was committed, and part of it removed at once")
        return [committed[manifest.id] for manifest in manifests]

    def _attempts(self, jobs: Sequence[SaveJob], promise: Promise) -> tuple[list[Backup], list[Manifest]]:
        gone: frozenset[str] = frozenset()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            promise.ask(sum(self._new_bytes(job, gone) for job in jobs), text=not any(map(holds_large, jobs)))
            manifests = [self._write(job, gone, promise) for job in jobs]
            try:
                backups = self._commit(manifests, jobs[0].handle)
            except MissingBlobs as error:
                if attempt == MAX_ATTEMPTS:
                    raise
                gone = frozenset(error.digests)
                self._memo.forget(gone)
                continue
            self._checkpoint("save.acknowledged")
            for job in jobs:
                for leaf, refs in job.stored:
                    self._memo.remember(leaf, refs)
            return backups, manifests
        raise AssertionError("unreachable")

    def _new_bytes(self, job: SaveJob, gone: frozenset[str]) -> int:
        """Return how many bytes a job writes at most: what nobody knows yet to be in the store."""
        pending = (leaf for encoded in job.trees.values() for leaf, _ in encoded.pending if not self._memo.known(leaf))
        sizes = [chunk.nbytes for leaf in pending for chunk in tree.chunks(leaf)]
        if job.kv is not None:
            width = job.kv.layout.token_bytes()
            sizes += [(stop - start) * width for start, stop, known in _blocks(job.kv, gone) if known is None]
        return sum(map(on_disk, sizes))

    def _write(self, job: SaveJob, gone: frozenset[str], promise: Promise) -> Manifest:
        job.stored.clear()
        pending = [each for encoded in job.trees.values() for each in encoded.pending]
        if job.fingerprint_future is None:  # may read all weights: beside the writes, and once
            beside = bool(pending) or job.kv is not None
            job.fingerprint_future = self._start(job.fingerprint) if beside else done(job.fingerprint)
        leaves = [(body, self._put_leaf(job, leaf, promise)) for leaf, body in pending]
        kv = None if job.kv is None else self._write_kv(job, job.kv, gone, promise)
        for body, refs in leaves:
            tree.fill(body, refs())
        self._blobs.settle()
        self._checkpoint("save.blobs-done")
        fingerprint = job.fingerprint_future.result()
        return Manifest(
            id=job.handle.backup_id,
            session_id=job.handle.session_id,
            created_at=job.created_at,
            adapter=job.adapter,
            layers={name: encoded.value for name, encoded in job.trees.items()},
            tokens=job.tokens,
            parent_id=job.parent_id,
            fingerprint=fingerprint,
            kv_cache=_known(job, gone) if kv is None else _with_keys(kv, job.row(), fingerprint),
            omitted=job.omitted,
            media_spans=job.media_spans,
            group=job.group,
            bytes_written=sum(size for _, size in {(ref.digest, ref.size_bytes) for ref in job.written}),
        )

    def _put_leaf(self, job: SaveJob, leaf: tree.Leaf, promise: Promise) -> Callable[[], list[BlobRef]]:
        known, chunks = self._memo.known(leaf), tree.chunks(leaf)
        if known is not None:
            return lambda: known
        still_good = partial(self._memo.check, leaf)
        futures = [self._submit(job, self._put, job, promise, [chunk], still_good) for chunk in chunks]

        def refs() -> list[BlobRef]:
            found = _results(futures)
            self._memo.check(leaf)
            job.stored.append((leaf, found))
            return found

        return refs

    def _write_kv(self, job: SaveJob, kv: KVJob, gone: frozenset[str], promise: Promise) -> KVCache:
        futures: list[Future[BlobRef] | BlobRef] = []
        for start, stop, known in _blocks(kv, gone):
            if known is not None:
                futures.append(known)
            else:
                futures.append(self._submit(job, self._put_block, job, kv, promise, start, stop))
        blocks = _results(futures)
        return KVCache(kv.layout, kv.tokens, kv.cache_class, tuple(blocks))

    def _put_block(self, job: SaveJob, kv: KVJob, promise: Promise, start: int, stop: int) -> BlobRef:
        segments = kv.segments(start, stop)
        if segments is not None:
            return self._put(job, promise, segments)
        with closing(kv.pieces(start, stop)) as pieces:  # it has memory of the pool
            return self._written(job, promise, self._blobs.put_pieces(pieces, within=promise.name))

    def _submit(self, job: SaveJob, call: Callable[..., BlobRef], *arguments: Any) -> Future[BlobRef]:
        future = self._start(call, *arguments)
        job.futures.append(future)
        return future

    def _start(self, call: Callable[..., T], *arguments: Any) -> Future[T]:
        try:
            return self._threads.submit(call, *arguments)
        except RuntimeError:  # the interpreter ends, and its pools start nothing: what was captured is written here
            return done(partial(call, *arguments))

    def _put(
        self,
        job: SaveJob,
        promise: Promise,
        buffers: Sequence[memoryview],
        still_good: Callable[[], None] | None = None,
    ) -> BlobRef:
        return self._written(job, promise, self._blobs.put(buffers, still_good, within=promise.name))

    @staticmethod
    def _written(job: SaveJob, promise: Promise, result: PutResult) -> BlobRef:
        if result.written:
            job.written.append(result.ref)
        promise.wrote(on_disk(result.ref.size_bytes))
        return result.ref


def step_back() -> None:
    """Let other threads go first on this thread's core: a save has time, a model has not. Linux alone can."""
    if sys.platform == "linux":
        with suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, max(os.getpriority(os.PRIO_PROCESS, thread), NICENESS))


def name_of(jobs: Sequence[SaveJob]) -> str:
    """Return the id under which jobs are saved together: the group's, or that of the only backup."""
    return jobs[0].handle.backup_id if jobs[0].group is None else jobs[0].group.id


def done(call: Callable[[], T]) -> Future[T]:
    """Call something at once, in this thread: where nothing else is to be done, another one only has to be woken."""
    future = Future[T]()
    try:
        future.set_result(call())
    except Exception as error:
        future.set_exception(error)
    return future


def _typed(error: Exception) -> TorporError:
    """Return a failure as one of the tree; what is none is a defect, or what reading a tensor raised."""
    return error if isinstance(error, TorporError) else TorporError(f"the save failed: {type(error).__name__}: {error}")


def _blocks(kv: KVJob, gone: frozenset[str]) -> Iterator[tuple[int, int, BlobRef | None]]:
    """Yield each block of a cache: where it begins and ends, and its blob where that is in the store."""
    reusable = kv.reusable()
    for i, (start, stop) in enumerate(block_ranges(kv.tokens, kv.layout.block_tokens)):
        is_known = start < kv.start and i < len(reusable) and reusable[i].digest not in gone
        yield start, stop, reusable[i] if is_known else None


def _known(job: SaveJob, gone: frozenset[str]) -> KVCache | None:
    """Return what a small save refers to. Its blocks were named when they were written."""
    return None if job.known is None else job.known.cache(gone)


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
