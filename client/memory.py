"""How much memory a snapshot may take: free memory of the host, and a small pool that is used again and again."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

POOL_BYTES = 64 << 20  # 455 tokens of Qwen3-VL: many messages' worth of new KV
RESERVE_BYTES = 1 << 30  # never plan to leave less than this free


def available_bytes() -> int:
    """Return the memory that can be taken without swapping (Linux; elsewhere 0, so that nothing is held)."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


class Pool:
    """One buffer of bounded size that several pending saves share. Its pages are touched once and stay warm."""

    def __init__(self, size_bytes: int = POOL_BYTES) -> None:
        self.size_bytes = size_bytes
        self._buffer: memoryview | None = None
        self._free: list[tuple[int, int]] = [(0, size_bytes)]
        self._lock = threading.Lock()

    def warm(self, size_bytes: int) -> None:
        """Touch the first pages ahead of the first save that needs them."""
        buffer = self._memory()
        for at in range(0, min(size_bytes, self.size_bytes), mmap.PAGESIZE):
            if not buffer[at]:
                buffer[at] = 0

    def _memory(self) -> memoryview:
        with self._lock:
            if self._buffer is None:
                self._buffer = memoryview(mmap.mmap(-1, self.size_bytes))
            return self._buffer

    def take(self, size_bytes: int) -> Lease | None:
        """Return a part of the pool, or None when there is no room now."""
        memory = self._memory()
        with self._lock:
            for i, (start, stop) in enumerate(self._free):
                if stop - start >= size_bytes:
                    self._free[i] = (start + size_bytes, stop)
                    return Lease(self, start, memory[start : start + size_bytes])
        return None

    def give_back(self, start: int, size_bytes: int) -> None:
        """Free a part; neighbours join."""
        with self._lock:
            merged: list[tuple[int, int]] = []
            for span in sorted([*self._free, (start, start + size_bytes)]):
                if merged and merged[-1][1] == span[0]:
                    merged[-1] = (merged[-1][0], span[1])
                elif span[0] < span[1]:
                    merged.append(span)
            self._free = merged


class Lease:
    """A part of a pool, to be freed once."""

    def __init__(self, pool: Pool, start: int, memory: memoryview) -> None:
        self._pool, self._start, self.memory = pool, start, memory
        self._open = True

    def free(self) -> None:
        """Give the part back."""
        if self._open:
            self._open = False
            self._pool.give_back(self._start, self.memory.nbytes)


@contextmanager
def freeing(lease: Lease | None) -> Iterator[None]:
    """Free a lease at the end of a block."""
    try:
        yield
    finally:
        if lease is not None:
            lease.free()
