"""Saves in the background: captures in the calling thread, one after the other; the rest in one thread of its own."""

from __future__ import annotations

import atexit
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from ulid import ULID

from ..codec import tree
from ..state.backup import Backup
from ..state.conversation import count_messages
from ..state.errors import SnapshotLost, TorporError
from ..state.ids import parse_session_id
from ..state.manifest import BlobRef, GroupRef
from ..state.plan import TargetState
from .capture import LiveKV, SessionSource
from .groups import GroupHandle, check_sources
from .kv_save import SavedCaches, capture_kv, known_blocks
from .lineage import Lineage
from .memory import Pool
from .rates import RateBook
from .remembered import Memory, lend
from .save import SaveWorker, name_of
from .save_job import Batch, SaveHandle, SaveJob

LEAST_S = 1e-6  # between two backups of a session
NO_NEW_KV = "a small save writes none; what the last whole one wrote of it is referred to"


class Saver:
    """What a keeper saves with, and what it knows of living sessions: their last backups and their caches' blocks."""

    def __init__(
        self,
        worker: SaveWorker,
        pool: Pool,
        memory: Memory,
        rates: RateBook,
        free_memory: Callable[[], int],
        clock: Callable[[], float],
        *,
        at_exit: Callable[[], None],
    ) -> None:
        self.worker, self.pool = worker, pool
        self._memory, self._rates, self._free_memory, self._clock = memory, rates, free_memory, clock
        self._caches, self._lineage = SavedCaches(), Lineage()
        self._newest: dict[str, float] = {}  # when the last known backup of a session was made
        self._jobs: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock, self._closed = threading.Lock(), False
        self._at_exit = at_exit  # one object, so that it can be unregistered

    def save(self, session_id: str, source: SessionSource, *, small: bool = False) -> SaveHandle:
        """Capture a session and write it in the background; returns in milliseconds. `small`: no new KV.

        Raises: InvalidId, UnsupportedState. What fails later is raised by `handle.wait()`.
        """
        started = time.perf_counter()
        parse_session_id(session_id)
        Lineage.check(source)
        lend(self._memory, source)
        with self._lock:  # captures of one keeper take turns, so that each sees what the one before will have saved
            self._start()
            now = self._now([session_id])
            handle = SaveHandle(str(ULID.from_timestamp(now)), session_id)
            job = self._capture(handle, source, now, small=small)
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
            lend(self._memory, source)
        jobs: list[SaveJob] = []
        with self._lock:
            self._start()
            now = self._now(sources)
            group = GroupRef(str(ULID.from_timestamp(now)), name, len(sources))
            handles = [SaveHandle(str(ULID.from_timestamp(now)), session_id) for session_id in sources]
            handle = GroupHandle(group, {each.session_id: each.backup_id for each in handles})
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
        handle.stall_s = handles[0].stall_s = time.perf_counter() - started
        return handle

    def _now(self, session_ids: Iterable[str]) -> float:
        """Return the time, at least a little behind the known backups of some sessions: a clock may be set back."""
        known = [self._newest.get(session_id, 0.0) + LEAST_S for session_id in session_ids]
        now = max([self._clock(), *known])
        self._newest |= dict.fromkeys(session_ids, now)
        return now

    def follow(self, backup: Backup) -> None:
        """Let what is saved of a session from now on be newer than a backup that it was woken from."""
        with self._lock:
            known = self._newest.get(backup.session_id, 0.0)
            self._newest[backup.session_id] = max(known, backup.created_at)

    def _capture(
        self,
        handle: SaveHandle,
        source: SessionSource,
        now: float,
        group: GroupRef | None = None,
        *,
        small: bool = False,
    ) -> SaveJob:
        capture = source.capture()
        trees = {name: tree.encode(value, capture.to_leaf) for name, value in capture.layers.items()}
        handle.messages = count_messages(capture.layers.get("text_context"))
        kv, known, omitted, lost = None, None, dict(capture.omitted), None
        if capture.kv is not None and small:
            known, omitted["kv_cache"] = known_blocks(capture.kv, self._caches), NO_NEW_KV
        elif capture.kv is not None:
            try:
                kv = capture_kv(capture.kv, self._caches, self.pool, self._free_memory)
                handle.snapshot = kv.way
            except MemoryError:
                lost = SnapshotLost("there was not enough memory to copy the KV cache", hint="Free memory; save again.")
                omitted["kv_cache"] = lost.detail
        return SaveJob(
            handle=handle,
            adapter=capture.adapter,
            created_at=now,
            tokens=capture.tokens,
            trees=trees,
            fingerprint=capture.fingerprint,
            omitted=omitted,
            lost=lost,
            media_spans=capture.media_spans,
            observations=capture.observations,
            row=capture.row,
            kv=kv,
            known=known,
            group=group,
        )

    def _start(self) -> None:
        """Start the thread, which must end before the interpreter: freeing a tensor then would abort."""
        if self._closed:
            raise TorporError("the keeper is closed")
        if self._thread is None:
            atexit.register(self._at_exit)
            self._thread = threading.Thread(target=self._loop, name="torpor-save", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        while (item := self._jobs.get()) is not None:
            failed = self._run(item)
            if failed is not None:
                _empty_frames(failed)
                item.fail(failed)
            del item, failed

    def _run(self, batch: Batch) -> TorporError | None:
        """Save, and tell those who wait; return what it failed with, which they are told when nothing runs any more."""
        for job, source in zip(batch.jobs, batch.sources, strict=True):
            job.parent_id = self._lineage.of(source)  # saves run in order: the last one that was really committed
        try:
            backups = self.worker.run(batch.jobs)
            for source, backup in zip(batch.sources, backups, strict=True):
                self._lineage.note(source, backup.id)
            lost = [job.lost for job in batch.jobs if job.lost is not None]
            if lost:
                lost[0].keep(name_of(batch.jobs))
                raise lost[0]
        except TorporError as error:
            if error.kept is not None:
                for job, source in zip(batch.jobs, batch.sources, strict=True):
                    self._lineage.note(source, job.handle.backup_id)
            return error
        except BaseException as error:
            wrapped = TorporError(f"the save failed: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            return wrapped
        else:
            batch.finish(backups)
            for job in batch.jobs:
                self._note_rates(job)
            kv = batch.jobs[0].kv
            if kv is not None and kv.way != "followed":  # the next one may be copied while the caller waits
                with suppress(MemoryError, OSError):
                    self.pool.warm(2 * kv.layout.block_tokens * kv.layout.token_bytes())
        return None

    def _note_rates(self, job: SaveJob) -> None:
        if job.observations:
            self._rates.note(job.observations, TargetState(job.known_fingerprint()))

    def woken(self, session: object, backup_id: str, live: LiveKV | None, blocks: Sequence[BlobRef]) -> None:
        """Note a session that was just woken: the parent of its next save, and the blocks that save need not write."""
        with self._lock:
            if live is not None:
                self._caches.note(live, blocks)
            self._lineage.note(session, backup_id)

    def filled(self, live: LiveKV, blocks: Sequence[BlobRef]) -> None:
        """Note a cache that was just filled from verified blocks."""
        with self._lock:
            self._caches.note(live, blocks)

    def is_running(self) -> bool:
        """Tell whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> bool:
        """Finish the saves that were started; return whether this call closed it."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
            thread = self._thread
            self._jobs.put(None)
        if thread is not None:
            thread.join()
            atexit.unregister(self._at_exit)
        return True


def _empty_frames(error: TorporError) -> None:
    """Empty the frames that a failure went through: who keeps its handle would keep a whole cache in them."""
    left, seen = list[BaseException]([error]), list[BaseException]()
    while left:
        at = left.pop()
        if at not in seen:
            seen.append(at)
            traceback.clear_frames(at.__traceback__)
            left += [each for each in (at.__cause__, at.__context__) if each is not None]
