"""Room on the disk: who wants to write asks, and what was promised to one is not promised to another.

A promise (to a save: under its id) counts as taken until what it is for was written. It ends with the commit, when it
is given back, or when nobody has renewed it for `LEASE_S`: then the process that held it is dead, or writes no more.
For little nobody asks; it is looked at when it is committed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count

from ..state.errors import QuotaFull, StoreFull, Unavailable
from ..state.manifest import Manifest, layer_blobs, manifest_blobs
from ..state.quota import (
    BLOCK_BYTES,
    SMALL_BYTES,
    Disk,
    Limits,
    Shortfall,
    can_ever_fit,
    in_words,
    limits_of,
    on_disk,
    shortfall,
    unasked_bytes,
)
from ..store.disk_usage import DiskUsage
from ..store.files import translated
from ..store.home import Home
from .catalog import Catalog
from .settings import Settings
from .usage import Usage

log = logging.getLogger("torpor.room")

PROMISES = 4096  # at once: each is looked at for every other one
LEASE_S = 120.0  # a writer renews it every second
TURN_S, WAITING = 3.0, 8  # how long, and how many at once, who does not fit waits for those who write
_FLOOR_HINT = "Free space on the disk of the home folder, remove backups (`torpor rm`), or lower TORPOR_FREE_FLOOR."

# Lets go of at least so many bytes, or of nothing, and returns how many; what a save of the session counts on stays.
MakeRoom = Callable[[int, str | None], int]


@dataclass(slots=True)
class _Promise:
    """Bytes that may still be written, those that were written of it, and when it ends."""

    left_bytes: int
    written_bytes: int
    ends_at: float
    text: bool


class Room:
    """The promises of one home. Safe to use from several threads."""

    def __init__(
        self,
        store: str,
        usage: Usage,
        limits: Callable[[int], Limits],
        steady: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        turn_s: float = TURN_S,
    ) -> None:
        """Take the parts; `limits` gets the size of the disk in bytes."""
        self._store, self.usage, self._limits = store, usage, limits
        self._steady, self._sleep, self._turn_s = steady, sleep, turn_s
        self._lock, self._numbers = threading.Lock(), count()
        self._waiting = threading.BoundedSemaphore(WAITING)
        self._promises: dict[str, _Promise] = {}
        self._make_room: MakeRoom = lambda size_bytes, session_id: 0

    def evict_with(self, make_room: MakeRoom) -> None:
        """Let go of things by this when something does not fit."""
        self._make_room = make_room

    def state(self) -> tuple[Limits, Disk]:
        """Return the limits on the present disk, and how full it is. Raises: StoreFailed."""
        with self._lock:
            limits, free_bytes = self._disk()
            return limits, Disk(self.usage.estimate(), self._promised(), free_bytes)

    def _disk(self) -> tuple[Limits, int]:
        with translated("look at the disk of", self._store):
            disk = os.statvfs(self._store)
        return self._limits(disk.f_blocks * disk.f_frsize), disk.f_bavail * disk.f_frsize

    def over_soft(self) -> int:
        """Return by how many bytes the home is above the soft limit; 0 below it. Raises: StoreFailed."""
        if self._over_soft() > 0:  # what would go for that must not go because something was counted twice
            self.usage.exact()
        return self._over_soft()

    def _over_soft(self) -> int:
        limits, disk = self.state()
        return max(disk.used_bytes + disk.promised_bytes - limits.soft_bytes, 0)

    def letting_go(self) -> AbstractContextManager[Callable[[int], None]]:
        """Lend a way to say how many bytes of blobs were let go while this is open."""
        return self.usage.removing("blobs")

    def unasked_bytes(self) -> int:
        """Return how many new bytes a save may write without asking first. Raises: StoreFailed."""
        return unasked_bytes(*self.state())

    def ask(
        self,
        name: str,
        size_bytes: int,
        *,
        written_bytes: int = 0,
        text: bool = False,
        session_id: str | None = None,
    ) -> None:
        """Promise a writer what it still has to write, having written so much in all, in place of what it was promised.

        What is let go of for it is never of the last backup of `session_id`, whose blobs a save reuses.
        Raises: QuotaFull, StoreFull, StoreFailed; what was promised before stays then.
        """
        with self._lock:
            found = self._promises.get(name)
            if found is not None:
                new = max(written_bytes - found.written_bytes, 0)
                self._count(found, min(new, found.left_bytes))  # whoever claims more makes nobody else's go for it
                if size_bytes <= found.left_bytes:
                    found.left_bytes = size_bytes
                    return
        self._admit(name, size_bytes, text=text, session_id=session_id)
        with self._lock:
            if (made := self._promises.get(name)) is not None:
                made.written_bytes = max(made.written_bytes, written_bytes)

    def end(self, name: str) -> None:
        """Take a promise back."""
        with self._lock:
            self._promises.pop(name, None)

    @contextmanager
    def taking(self, name: str | None = None, kind: str = "blobs") -> Iterator[Callable[[int], None]]:
        """Lend room for a file of unknown length, within a promise or not: it is told of each piece beforehand.

        `kind` is the class of file that it counts as from then on.
        Raises: as `ask`, in the telling.
        """
        own, taken = f"#{next(self._numbers)}", 0

        def take(size_bytes: int) -> None:
            nonlocal taken
            if name is None or not self._draw(name, size_bytes):
                self.ask(own, taken + size_bytes)
                taken += size_bytes

        try:
            yield take
            self.usage.add(kind, taken)
        finally:
            self.end(own)

    @contextmanager
    def committing(self, manifests: Sequence[Manifest], manifest_bytes: int) -> Iterator[None]:
        """Hold room for manifests whose blobs are there: what their save was promised, else what is left.

        Raises: QuotaFull, StoreFull, StoreFailed.
        """
        first, size = manifests[0], on_disk(manifest_bytes)
        name = first.id if first.group is None else first.group.id
        with self._lock:
            held = self._promises.get(name)
        written = max(_written(manifests) - (held.written_bytes if held else 0), 0)
        own = name if held is not None else f"#{next(self._numbers)}"
        if held is None:
            text = all(map(_is_text, manifests))
            self._admit(own, size, text=text, there_bytes=written, session_id=first.session_id)
        elif size > held.left_bytes:
            self._admit(own, size, text=True, session_id=first.session_id)
        try:
            yield
        except BaseException:
            if held is None:  # else its save tries again, or gives it back
                self.end(own)
            raise
        self.usage.add("blobs", written)
        self.usage.add("manifests", size)
        self.end(own)

    def _admit(
        self, name: str, size_bytes: int, *, text: bool, there_bytes: int = 0, session_id: str | None = None
    ) -> None:
        """Promise bytes, if need be behind a walk or an eviction. `there_bytes` are there, and perhaps not counted."""
        short = self._try(name, size_bytes + there_bytes, size_bytes, text)
        if short is not None and self.usage.walk_unless_new():
            there_bytes = 0
            short = self._try(name, size_bytes, size_bytes, text)
        if short is not None:
            short = self._wait(name, size_bytes + there_bytes, size_bytes, text, short)
        if short is not None and self._let_go(short, size_bytes, text, session_id):
            short = self._try(name, size_bytes + there_bytes, size_bytes, text)
            if short is not None:  # what went while a walk went on is counted until the next one
                self.usage.exact()
                short = self._try(name, size_bytes, size_bytes, text)
        if short is not None:
            raise self._refusal(short, size_bytes)

    def _wait(self, name: str, needed_bytes: int, size_bytes: int, text: bool, short: Shortfall) -> Shortfall | None:
        """Let those have their turn who are writing: what they wrote is counted twice until they say so."""
        if not self._waiting.acquire(blocking=False):  # too many wait already: others need the threads
            return short
        try:
            until, last = self._steady() + self._turn_s, short
            while self._others(name) and self._steady() < until:
                self._sleep(self._turn_s / 10)
                self.usage.walk_unless_new()
                found = self._try(name, needed_bytes, size_bytes, text)
                if found is None:
                    return None
                last = found
            return last
        finally:
            self._waiting.release()

    def _let_go(self, short: Shortfall, size_bytes: int, text: bool, session_id: str | None) -> bool:
        """Make room; not for what would not fit an empty home."""
        hopeless = short.trouble == "quota" and not can_ever_fit(self.state()[0], size_bytes, text=text)
        return not hopeless and self._make_room(short.size_bytes, session_id) > 0

    def _try(self, name: str, needed_bytes: int, size_bytes: int, text: bool) -> Shortfall | None:
        """Promise `size_bytes` if `needed_bytes` fit; else tell what is missing."""
        with self._lock:
            limits, free_bytes = self._disk()
            now = Disk(self.usage.estimate(), self._promised(text=text, but=name), free_bytes)
            short = shortfall(limits, now, needed_bytes, text=text)
            if short is None:
                before = self._promises.get(name)
                if before is None and len(self._promises) >= PROMISES:
                    raise Unavailable(f"room is promised to {PROMISES} saves", hint="Try again when some have ended.")
                written = before.written_bytes if before is not None else 0
                self._promises[name] = _Promise(size_bytes, written, self._steady() + LEASE_S, text)
            return short

    def _draw(self, name: str, size_bytes: int) -> bool:
        """Note that bytes of a promise are being written; False when there is none so large."""
        with self._lock:
            found = self._promises.get(name)
            if found is None or found.left_bytes < size_bytes:
                return False
            self._count(found, size_bytes)
            return True

    def _count(self, found: _Promise, size_bytes: int) -> None:
        found.left_bytes = max(found.left_bytes - size_bytes, 0)
        found.written_bytes += size_bytes
        found.ends_at = self._steady() + LEASE_S
        self.usage.add("blobs", size_bytes)

    def _promised(self, *, text: bool = False, but: str = "") -> int:
        """Return what is promised to others; what nobody renewed in time is forgotten. Under the lock.

        To text only what other text was promised counts: the rest was promised below its reserve, and may be written
        and counted already.
        """
        now = self._steady()
        for name in [name for name, promise in self._promises.items() if promise.ends_at < now]:
            del self._promises[name]
        others = (promise for name, promise in self._promises.items() if name != but)
        return sum(promise.left_bytes for promise in others if promise.text or not text)

    def _others(self, name: str) -> bool:
        with self._lock:
            return self._promised(but=name) > 0

    def _refusal(self, short: Shortfall, size_bytes: int) -> StoreFull:
        limits, disk = self.state()
        wanted = f"{in_words(size_bytes)} do not fit"
        if short.trouble == "floor":
            free, floor = in_words(disk.free_bytes), in_words(limits.floor_bytes)
            return StoreFull(f"{wanted}: {free} are free on the disk, and {floor} are left to others", hint=_FLOOR_HINT)
        promised = f", {in_words(disk.promised_bytes)} are promised to saves" if disk.promised_bytes else ""
        return QuotaFull(
            f"{wanted}: {in_words(disk.used_bytes)} of the quota of {in_words(limits.hard_bytes)} are used{promised}"
        )


def open_room(home: Home, settings: Settings, catalog: Catalog) -> Room:
    """Return the room of a home; commits of its catalog ask it from now on."""

    def guess() -> dict[str, int]:
        totals = catalog.index.totals()
        return {"blobs": totals.blob_bytes, "manifests": totals.backups * BLOCK_BYTES}

    def limits(disk_bytes: int) -> Limits:
        return limits_of(disk_bytes, settings.quota, settings.soft_quota, settings.free_floor)

    usage = Usage(DiskUsage(home), guess)
    usage.refresh()
    room = Room(str(home.store), usage, limits)

    def admit(manifests: Sequence[Manifest], manifest_bytes: int) -> AbstractContextManager[None]:
        if all(catalog.manifests.has(manifest.id) for manifest in manifests):  # once more: nothing is written
            return nullcontext()
        return room.committing(manifests, manifest_bytes)

    allowed, disk = room.state()
    log.info("the home takes %s of at most %s", in_words(disk.used_bytes), in_words(allowed.hard_bytes))
    catalog.admit_with(admit)
    return room


def _written(manifests: Sequence[Manifest]) -> int:
    """Return what saves say they wrote: no more than there is in their blobs, whatever they say."""
    said = sum(manifest.bytes_written for manifest in manifests)
    if said <= SMALL_BYTES:
        return said
    return min(said, sum(on_disk(size) for each in manifests for size, _ in manifest_blobs(each).values()))


def _is_text(manifest: Manifest) -> bool:
    """Tell whether nothing large is new with a backup: it holds text and tokens alone, or shares all blobs."""
    large = (layer_blobs(manifest.layers.get(name)) for name in ("media", "vision_cache"))
    return manifest.bytes_written == 0 or (
        manifest.kv_cache is None and all(next(blobs, None) is None for blobs in large)
    )
