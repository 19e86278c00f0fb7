"""How the KV cache of a running session is captured without stopping it, and which of its blocks are written.

Three ways to a consistent snapshot, by what is unsaved and how much memory is free:

1. `held`: references to the tensors are kept until they are written. DynamicCache replaces its tensors with every
   token, so a reference is a snapshot, at the price of one more cache in memory for as long as the save takes. First
   saves are this one.
2. `copied`: the unsaved tokens fit the pool. They are copied at once; nothing else is touched. Later saves are this
   one, and caches that write in place are always copied (into memory of their own if need be).
3. `followed`: memory is short. The live tensors are read a block at a time; what is already in never changes, and if
   the session crops its cache meanwhile, the watch takes hold of the old tensors just before.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..state.errors import SnapshotLost
from ..state.manifest import BlobRef, KVCache, KVLayout, block_ranges
from .capture import KVView, LiveKV
from .memory import RESERVE_BYTES, Lease, Pool

Way = Literal["copied", "held", "followed"]


@dataclass(slots=True)
class Saved:
    """One capture of a live cache, and its blocks once they are durable (a prefix if the save failed)."""

    tokens: int
    witnesses: list[bytes]  # one for each full block
    layout: KVLayout
    blocks: list[BlobRef] = field(default_factory=list)


class SavedCaches:
    """The last capture of each live cache, by the cache object itself."""

    def __init__(self) -> None:
        self._by_cache: weakref.WeakKeyDictionary[object, Saved] = weakref.WeakKeyDictionary()

    def last(self, live: LiveKV) -> Saved | None:
        """Return the last capture of a live cache."""
        return self._by_cache.get(live.cache)

    def note(self, live: LiveKV, blocks: Sequence[BlobRef] = (), reused: Sequence[bytes] = ()) -> Saved:
        """Note a capture, or (with `blocks`) a cache just filled from verified blocks; watch it from now on."""
        live.mark()
        full = live.tokens // live.layout.block_tokens
        known = [*reused[:full], *live.witnesses(min(len(reused), full), full)]
        saved = self._by_cache[live.cache] = Saved(live.tokens, known, live.layout, list(blocks))
        return saved


@dataclass(slots=True)
class KVJob:
    """A captured cache on its way to the store: `before` has the blocks below `start`, `view` the others."""

    layout: KVLayout
    cache_class: str
    tokens: int
    start: int
    way: Way
    view: KVView
    saved: Saved
    before: Saved | None
    fallback: KVView | None
    lease: Lease | None = None

    def reusable(self) -> list[BlobRef]:
        """Return the blocks below `start` that are known to be durable. Saves run in order, so they are settled now."""
        return self.before.blocks[: self.start // self.layout.block_tokens] if self.before is not None else []

    def again(self, start: int, stop: int) -> Sequence[memoryview]:
        """Read a block that was to be reused from the live cache after all. Raises: SnapshotLost."""
        if self.fallback is None:
            raise SnapshotLost("a block that an earlier save wrote is gone from the store")
        return self.fallback.block(start, stop)

    def finish(self, blocks: Sequence[BlobRef] | None) -> None:
        """Note the durable blocks (None: the save failed) for the next save of the same cache, and free memory."""
        self.saved.blocks = self.reusable() if blocks is None else list(blocks)
        self.before = self.fallback = None
        if self.lease is not None:
            self.lease.free()


@dataclass(frozen=True, slots=True)
class KnownBlocks:
    """The blocks below `start` of a live cache that an earlier save wrote: all that a small save has of it."""

    layout: KVLayout
    cache_class: str
    start: int
    before: Saved

    def cache(self, gone: Collection[str]) -> KVCache | None:
        """Return the part of the cache that is durable, up to the first block that is gone; called in save order."""
        size = self.layout.block_tokens
        known = self.before.blocks[: self.start // size]
        count = next((i for i, ref in enumerate(known) if ref.digest in gone), len(known))
        return KVCache(self.layout, count * size, self.cache_class, tuple(known[:count])) if count else None


def known_blocks(live: LiveKV, caches: SavedCaches) -> KnownBlocks | None:
    """Return what earlier saves wrote of a live cache and is still in it. Nothing is copied, held or marked."""
    before = caches.last(live)
    start = _unsaved_from(live, before)
    return KnownBlocks(live.layout, live.cache_class, start, before) if before is not None and start else None


def capture_kv(live: LiveKV, caches: SavedCaches, pool: Pool, available_bytes: Callable[[], int]) -> KVJob:
    """Capture a live cache in the calling thread. Raises: MemoryError when a cache that must be copied does not fit."""
    before = caches.last(live)
    start = _unsaved_from(live, before)
    unsaved_bytes = (live.tokens - start) * live.layout.token_bytes()
    way, view, lease = _snapshot(live, start, unsaved_bytes, pool, available_bytes)
    try:
        fallback = live.follow() if start and live.appends_only else None
        saved = caches.note(live, reused=before.witnesses[: start // live.layout.block_tokens] if before else ())
    except BaseException:
        if lease is not None:
            lease.free()
        raise
    return KVJob(live.layout, live.cache_class, live.tokens, start, way, view, saved, before, fallback, lease)


def _unsaved_from(live: LiveKV, before: Saved | None) -> int:
    """Return the first token, at a block's start, that must be written."""
    if before is None or before.layout != live.layout:
        return 0
    block = live.layout.block_tokens
    full = min(before.tokens, live.unchanged_tokens(), live.tokens) // block
    if full and live.witnesses(full - 1, full) != before.witnesses[full - 1 : full]:
        return 0  # the cache was changed behind the watch
    return full * block


def _snapshot(
    live: LiveKV, start: int, unsaved_bytes: int, pool: Pool, available_bytes: Callable[[], int]
) -> tuple[Way, KVView, Lease | None]:
    whole_bytes = live.tokens * live.layout.token_bytes()
    may_hold = live.appends_only and live.free_bytes(available_bytes()) - whole_bytes > RESERVE_BYTES
    if may_hold and start == 0:  # a first save: the pool's pages are still cold, and references cost nothing now
        return "held", live.hold(), None
    lease = pool.take(unsaved_bytes) if unsaved_bytes <= pool.size_bytes else None
    if lease is not None:
        try:
            return "copied", _copy(live, start, lease.memory), lease
        except BaseException:
            lease.free()
            raise
    if not live.appends_only:
        return "copied", _copy(live, start, memoryview(bytearray(unsaved_bytes))), None
    if may_hold:
        return "held", live.hold(), None
    return "followed", live.follow(), None


def _copy(live: LiveKV, start: int, memory: memoryview) -> KVView:
    width, at = live.layout.token_bytes(), 0
    images: dict[tuple[int, int], memoryview] = {}
    for begin, stop in block_ranges(live.tokens, live.layout.block_tokens, start):
        image = memory[at : at + (stop - begin) * width]
        live.copy(begin, stop, image)
        images[begin, stop] = image
        at += image.nbytes
    return _Images(images)


class _Images:
    def __init__(self, images: dict[tuple[int, int], memoryview]) -> None:
        self._images = images

    def block(self, start: int, stop: int) -> Sequence[memoryview]:
        return [self._images[start, stop]]
