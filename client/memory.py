"""How much memory a snapshot may take: free memory of the host, and a small pool that is used again and again."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

POOL_BYTES = 64 << 20  # 455 tokens of Qwen3-VL: many messages' worth of new KV
RESERVE_BYTES = 1 << 30  # never plan to leave less than this free


def available_bytes() -> int:
    """Return the memory that can be taken without swapping (Linux; elsewhere 0, so that nothing is held).

    In a container the limit of its control group counts too, with the page cache as taken: careful, not exact.
    """
    free = 0
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    free = int(line.split()[1]) * 1024
    except OSError:
        return 0
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    return free if limit is None or used is None else min(free, max(limit - used, 0))


def spare_bytes() -> int | None:
    """Return the host memory that a restore may take without leaving too little free; None where nobody says."""
    free = available_bytes()
    return max(free - min(RESERVE_BYTES, free // 4), 0) if free else None


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # no such file outside a control group, or the word "max"
        return None


class Pool:
    """One buffer of bounded size that several pending saves share. Its pages are touched once and stay warm."""

    def __init__(self, size_bytes: int = POOL_BYTES) -> None:
        self.size_bytes = size_bytes
        self._buffer: memoryview | None = None
        self._free: list[tuple[int, int]] = [(0, size_bytes)]
        self._lock = threading.Lock()

    def warm(self, size_bytes: int) -> None:
        """Touch pages ahead of the first save that needs them: only such as nobody else holds."""
        lease = self.take(min(size_bytes, self.size_bytes))
        if lease is None:
            return
        try:
            for at in range(0, lease.memory.nbytes, mmap.PAGESIZE):
                lease.memory[at] = 0
        finally:
            lease.free()

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

    @contextmanager
    def lent(self, size_bytes: int) -> Iterator[memoryview]:
        """Lend a part for a while, or fresh memory when there is no room now."""
        lease = self.take(size_bytes) if size_bytes <= self.size_bytes else None
        if lease is None:
            yield memoryview(bytearray(size_bytes))
            return
        try:
            yield lease.memory
        finally:
            lease.free()

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
