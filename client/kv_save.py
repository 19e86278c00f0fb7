"""How the KV cache of a running session is captured without stopping it, and which of its blocks are written.

Three ways to a consistent snapshot:

1. `followed`: the live tensors are copied a block at a time, in the background. What is already in never changes
   (DynamicCache replaces its tensors with every token by longer ones), and if the session crops its cache meanwhile,
   the watch takes hold of the old tensors just before. Neither time nor memory grows with the cache. Caches in the
   host's memory that only append are saved this way.
2. `copied`: the unsaved tokens are copied at once. Caches that write in place are always copied (into memory of their
   own if need be), and on a device what fits the pool: later saves.
3. `held`: references to the tensors are kept until they are written, at the price of one more cache in the device's
   memory once the session goes on. First saves of caches on a device, while there is room; else they are followed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from blake3 import blake3

from ..codec.kv_blocks import PIECE_BYTES, tensor_runs
from ..state.errors import SnapshotLost
from ..state.manifest import BlobRef, KVCache, KVLayout, block_ranges
from ..state.tensors import DTYPE_SIZES
from .capture import FollowedKV, KVView, LiveKV
from .memory import RESERVE_BYTES, Lease, Pool

Way = Literal["copied", "held", "followed"]


@dataclass(slots=True)
class Saved:
    """One capture of a live cache, and its blocks once they are durable (a prefix if the save failed)."""

    tokens: int
    witnesses: dict[int, bytes]  # of full blocks by number: of the last one at once, of all when the save has ended
    layout: KVLayout
    blocks: list[BlobRef] = field(default_factory=list)


class SavedCaches:
    """The last capture of each live cache, by the cache object itself."""

    def __init__(self) -> None:
        self._by_cache: weakref.WeakKeyDictionary[object, Saved] = weakref.WeakKeyDictionary()

    def last(self, live: LiveKV) -> Saved | None:
        """Return the last capture of a live cache."""
        return self._by_cache.get(live.cache)

    def note(
        self,
        live: LiveKV,
        blocks: Sequence[BlobRef] = (),
        reused: Mapping[int, bytes] = MappingProxyType({}),
        first: int = 0,
    ) -> Saved:
        """Note a capture, or (with `blocks`) a cache just filled from verified blocks; watch it from now on.

        Witnesses are taken from block `first` on; `reused` are those of blocks before.
        """
        live.mark()
        full = live.tokens // live.layout.block_tokens
        known = dict(reused) | dict(enumerate(live.witnesses(first, full), first))
        saved = self._by_cache[live.cache] = Saved(live.tokens, known, live.layout, list(blocks))
        return saved


@dataclass(slots=True)
class KVJob:
    """A captured cache on its way to the store: `before` has the blocks below `start`.

    The others are in `view`, or are copied from the cache that is `followed`, into memory of the pool.
    """

    layout: KVLayout
    cache_class: str
    tokens: int
    start: int
    way: Way
    view: KVView | None
    saved: Saved
    before: Saved | None
    followed: FollowedKV | None
    pool: Pool
    lease: Lease | None = None

    def reusable(self) -> list[BlobRef]:
        """Return the blocks below `start` that are known to be durable. Saves run in order, so they are settled now."""
        return self.before.blocks[: self.start // self.layout.block_tokens] if self.before is not None else []

    def segments(self, start: int, stop: int) -> Sequence[memoryview] | None:
        """Return the segments of a block that was captured; None where it has to be copied from the live cache."""
        return self.view.block(start, stop) if self.view is not None and start >= self.start else None

    def pieces(self, start: int, stop: int) -> Generator[memoryview, None, None]:
        """Copy a block from the followed cache, a piece at a time into the same memory. Raises: SnapshotLost."""
        if self.followed is None:
            raise SnapshotLost("a block that an earlier save wrote is gone from the store")
        runs = list(tensor_runs(self.layout.tensor_bytes(), stop - start, PIECE_BYTES))
        rows = LastRows(self.layout, stop - start)
        with self.pool.lent(max(size for _, size in runs)) as memory:
            for first, size in runs:
                self.followed.copy(start, stop, memory[:size], first)
                rows.note(first, memory[:size])
                yield memory[:size]
        if stop - start == self.layout.block_tokens:
            self.saved.witnesses[start // self.layout.block_tokens] = rows.digest()

    def finish(self, blocks: Sequence[BlobRef] | None) -> None:
        """Note the durable blocks (None: the save failed) for the next save of the same cache, and free memory."""
        self.saved.blocks = self.reusable() if blocks is None else list(blocks)
        if self.before is not None:  # its own are complete by now
            self.saved.witnesses = _below(self.before, self.start) | self.saved.witnesses
        self.before = self.view = self.followed = None
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
        followed = live.follow() if view is None or (start and live.appends_only) else None
        block = live.layout.block_tokens
        # Those of a followed cache are taken when its blocks are read, but for the last, which the next save needs.
        first = start // block if view is not None else max(live.tokens // block - 1, start // block)
        saved = caches.note(live, reused=_below(before, start) if before is not None else {}, first=first)
    except BaseException:
        if lease is not None:
            lease.free()
        raise
    return KVJob(live.layout, live.cache_class, live.tokens, start, way, view, saved, before, followed, pool, lease)


def _below(saved: Saved, start: int) -> dict[int, bytes]:
    """Return the witnesses of the blocks below a token; another thread may be adding some."""
    return {i: each for i, each in dict(saved.witnesses).items() if i < start // saved.layout.block_tokens}


class LastRows:
    """The last token of a block in its first and its last layer, as its pieces pass by: its witness.

    The digest is what `LiveKV.witnesses` gives.
    """

    def __init__(self, layout: KVLayout, tokens: int) -> None:
        self._widths, last = layout.tensor_bytes(), 2 * len(layout.layers) - 1
        self._tokens, self._dims = tokens, [dim for layer in layout.layers for dim in (layer.key_dim, layer.value_dim)]
        self._item_bytes, self._wanted = DTYPE_SIZES[layout.dtype], (0, 1, last - 1, last)
        self._rows: dict[int, list[bytes]] = {}

    def note(self, first: int, piece: memoryview) -> None:
        """Look at a piece that begins with tensor number `first`."""
        number, at = first, 0
        while at < piece.nbytes:
            size = self._widths[number] * self._tokens
            if number in self._wanted:
                row = self._dims[number] * self._item_bytes
                step = row * self._tokens
                self._rows[number] = [bytes(piece[end - row : end]) for end in range(at + step, at + size + 1, step)]
            number, at = number + 1, at + size

    def digest(self) -> bytes:
        """Return the witness, when all pieces were noted."""
        return blake3(b"".join(row for number in self._wanted for row in self._rows[number])).digest(length=16)


def _unsaved_from(live: LiveKV, before: Saved | None) -> int:
    """Return the first token, at a block's start, that must be written."""
    if before is None or before.layout != live.layout:
        return 0
    block = live.layout.block_tokens
    full = min(before.tokens, live.unchanged_tokens(), live.tokens) // block
    # Cropped while an earlier save is still reading: the witnesses from there on are those that are known.
    known = next((i for i in reversed(range(full)) if i in before.witnesses), None)
    if known is None or live.witnesses(known, known + 1) != [before.witnesses[known]]:
        return 0  # or the cache was changed behind the watch
    return (known + 1) * block


def _snapshot(
    live: LiveKV, start: int, unsaved_bytes: int, pool: Pool, available_bytes: Callable[[], int]
) -> tuple[Way, KVView | None, Lease | None]:
    if live.appends_only and live.on_host:
        return "followed", None, None
    whole_bytes = live.tokens * live.layout.token_bytes()
    may_hold = live.appends_only and live.free_bytes(available_bytes()) - whole_bytes > RESERVE_BYTES
    if may_hold and start == 0:  # a first save: references cost nothing now
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
    return "followed", None, None


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
