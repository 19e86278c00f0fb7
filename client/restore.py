"""Read a backup: small layers and KV blocks, in parallel, every digest checked, before anything is handed over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..codec import tree
from ..codec.kv_blocks import PIECE_BYTES, tensor_runs
from ..state.errors import RestoreRefused, TorporError
from ..state.kv_limits import cut
from ..state.manifest import BlobRef, KVCache, KVLayout, Manifest, block_ranges, layer_blobs
from ..state.plan import Conditions, Mode, RestorePlan, TargetState, plan_restore
from .blob_access import BlobAccess
from .capture import KVSink, RestoreTarget, Woken
from .losses import failure_of, is_loss, why


class BlobReader(Protocol):
    """What blocks are read through."""

    def read_into(self, ref: BlobRef, buffers: Iterable[memoryview]) -> None:
        """Fill buffers with a blob, one after the other; it is checked when this returns."""
        ...


class Unreadable(Exception):  # noqa: N818 - not an error of its own: the restore goes on without these blobs
    """Some blobs of a backup are gone or damaged. `losses` is what each of them failed with."""

    def __init__(self, losses: Mapping[str, TorporError]) -> None:
        self.losses, self.first = losses, next(iter(losses.values()))
        super().__init__(str(self.first))


def read_backup(
    manifest: Manifest, plan: RestorePlan, target: RestoreTarget[Any], blobs: BlobAccess, threads: ThreadPoolExecutor
) -> Woken:
    """Return what a plan reuses, verified: layers, and the first `tokens_reused` positions of the KV cache.

    The target is not touched. Raises: Unreadable, StoreFailed, InvalidManifest, UnsupportedState.
    """
    checked = _Checked(blobs)
    kv, sink, futures = manifest.kv_cache, None, []
    if kv is not None and plan.reuses("kv_cache"):
        kv = cut(kv, plan.tokens_reused)
        sink = target.allocate(kv)
        futures = submit_blocks(kv, sink, checked, threads)
    layers: dict[Any, Any] = {}
    try:
        for name, encoded in manifest.layers.items():
            if plan.reuses(name):  # type: ignore[arg-type]
                try:
                    layers[name] = tree.decode(encoded, checked.read_joined, target.from_leaf)
                except TorporError as error:
                    if not is_loss(error):  # that one is noted, and the other layers are looked at too
                        raise
    finally:
        errors = [future.exception() for future in futures]  # waits for all: no thread may write after this returns
    checked.raise_first(errors)
    return Woken(plan, layers, manifest.tokens, kv if sink is not None else None, sink)


class _Checked:
    """Reads blobs and collects those that fail, so that one look finds all of them."""

    def __init__(self, blobs: BlobAccess) -> None:
        self._blobs, self._lost = blobs, dict[str, TorporError]()

    def read_into(self, ref: BlobRef, buffers: Iterable[memoryview]) -> None:
        """Fill buffers with a blob. Raises: BlobNotFound, BlobDamaged, StoreFailed."""
        with self._noting(ref):
            self._blobs.read_into(ref, buffers)

    def read_joined(self, refs: list[BlobRef]) -> memoryview:
        """Return the joined bytes of some blobs. Raises: as `read_into`."""
        if len(refs) == 1:
            with self._noting(refs[0]):
                return self._blobs.read(refs[0])
        joined, at = memoryview(bytearray(sum(ref.size_bytes for ref in refs))), 0
        for ref in refs:
            self.read_into(ref, [joined[at : at + ref.size_bytes]])
            at += ref.size_bytes
        return joined

    @contextmanager
    def _noting(self, ref: BlobRef) -> Iterator[None]:
        try:
            yield
        except TorporError as error:
            if is_loss(error):
                self._lost[ref.digest] = error
            raise

    def raise_first(self, errors: Iterable[BaseException | None]) -> None:
        """Raise what is no lost blob first, then what is lost."""
        for error in errors:
            if error is not None and not is_loss(error):
                raise error
        if self._lost:
            for lost in self._lost.values():
                _let_go(lost)
            raise Unreadable(self._lost) from next(iter(self._lost.values()))


def _let_go(error: BaseException) -> None:
    """Drop the frames of an error and of its causes: they hold the memory that was filled so far, in cycles even."""
    at: BaseException | None = error
    while at is not None:
        at.__traceback__ = None
        at = at.__cause__ or at.__context__


def submit_blocks(kv: KVCache, sink: KVSink, blobs: BlobReader, threads: ThreadPoolExecutor) -> list[Future[None]]:
    """Start to read every block into a sink. The caller waits for all of them, also when one has failed."""
    ranges = block_ranges(kv.tokens, kv.layout.block_tokens)
    warming = [threads.submit(work) for work in sink.warm_up()]
    return warming + [
        threads.submit(blobs.read_into, ref, _Scattered(kv.layout, sink, start, stop))
        for ref, (start, stop) in zip(kv.blocks, ranges, strict=True)
    ]


_scratch = threading.local()  # one piece's worth a thread: warm memory, used for every piece of every block


@dataclass(frozen=True, slots=True)
class _Scattered:
    """The buffers that a block is read into: one piece after the other in the same memory, which goes into a sink.

    Each is scattered when the next one is asked for. So it is not verified yet; but a sink is never looked at unless
    all of its blocks were.
    """

    layout: KVLayout
    sink: KVSink
    start: int
    stop: int

    def __iter__(self) -> Iterator[memoryview]:
        for first, size in tensor_runs(self.layout.tensor_bytes(), self.stop - self.start, PIECE_BYTES):
            piece = _scratch_of(size)
            yield piece
            self.sink.put(self.start, self.stop, piece, first)


def _scratch_of(size_bytes: int) -> memoryview:
    memory: memoryview | None = getattr(_scratch, "memory", None)
    if memory is None or memory.nbytes < size_bytes:
        memory = _scratch.memory = memoryview(bytearray(size_bytes))
    return memory[:size_bytes]


def read_graded(
    manifest: Manifest,
    target: RestoreTarget[Any],
    state: TargetState,
    conditions: Conditions,
    blobs: BlobAccess,
    threads: ThreadPoolExecutor,
    *,
    require: Mode | None = None,
    at_most: Mode = "full",
    label: Callable[[RestorePlan], RestorePlan] = lambda plan: plan,
) -> tuple[RestorePlan, Woken]:
    """Plan and read; what turns out to be gone or damaged lowers the plan, until all that it names is whole.

    Raises: RestoreRefused, StoreFailed, InvalidManifest, UnsupportedState, BlobNotFound or BlobDamaged where nothing
    is left to restore. Where it is the bucket that could not help, its error in place of both (Offline, say).
    """
    first: TorporError | None = None
    while True:
        try:
            plan = label(plan_restore(manifest, state, conditions, require=require, at_most=at_most))
        except RestoreRefused as refusal:
            raise _typed(refusal, first) from first
        if plan.mode == "refuse":
            if first is not None:
                raise failure_of(first) or first
            raise RestoreRefused(f"nothing of backup {manifest.id} can be restored here")
        blobs.expect(manifest.id, _in_order(manifest, plan))
        try:
            return plan, read_backup(manifest, plan, target, blobs, threads)
        except Unreadable as error:
            reasons = {digest: words for digest, loss in error.losses.items() if (words := why(loss)) is not None}
            conditions = replace(
                conditions,
                missing=conditions.missing | error.losses.keys(),
                reasons={**conditions.reasons, **reasons},
            )
            first = error.first


def _typed(refusal: RestoreRefused, loss: TorporError | None) -> TorporError:
    """Return a refusal as what the bucket failed with, where that is the reason: it may heal by itself."""
    failure = None if loss is None else failure_of(loss)
    return refusal if failure is None else type(failure)(f"{refusal.detail}; {failure.detail}", hint=failure.hint)


def _in_order(manifest: Manifest, plan: RestorePlan) -> list[BlobRef]:
    """Return the blobs that a plan reads, in the order in which they are wanted: small layers, then KV blocks."""
    found = [ref for name, tree in manifest.layers.items() if plan.reuses(name) for ref in layer_blobs(tree)]  # type: ignore[arg-type]
    if manifest.kv_cache is not None and plan.reuses("kv_cache"):
        found += cut(manifest.kv_cache, plan.tokens_reused).blocks
    return found
