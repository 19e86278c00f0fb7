"""How fast a disk gives a file: read in turn by several threads, through the page cache and around it.

What is read is thrown away; the fastest way of a run is what a cold restore is held against.
"""

from __future__ import annotations

import mmap
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .page_cache import evict
from .rounds import seconds

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Way:
    """A way to read a file: how many pieces are on their way at once, and whether the page cache is left out."""

    depth: int
    direct: bool

    def __str__(self) -> str:
        return f"{'O_DIRECT' if self.direct else 'buffered'}, {self.depth} at once"


WAYS = [Way(depth, direct) for direct in (False, True) for depth in (1, 2, 4, 8)]


def read_all(path: Path, way: Way) -> None:
    """Read a file from its start to its end; each thread into a buffer of its own that it uses again and again."""
    fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if way.direct else 0))
    try:
        size = os.fstat(fd).st_size
        with ThreadPoolExecutor(way.depth) as threads:
            list(threads.map(lambda first: _read_each(fd, size, first, way.depth), range(way.depth)))
    finally:
        os.close(fd)


def _read_each(fd: int, size_bytes: int, first: int, step: int) -> None:
    with mmap.mmap(-1, PIECE_BYTES) as buffer:  # which begins at a page's border, as O_DIRECT wants it
        for at in range(first * PIECE_BYTES, size_bytes, step * PIECE_BYTES):
            os.preadv(fd, [buffer], at)


def fastest(path: Path, rounds: int) -> tuple[Way, dict[Way, float]]:
    """Return the way of the best median for a file that is not in the page cache, and the medians of all, in seconds.

    Ways that the file system does not offer are left out.
    """
    took: dict[Way, list[float]] = {}
    for _ in range(rounds):
        for way in WAYS:
            evict([path])
            try:
                took.setdefault(way, []).append(seconds(_reading(path, way)))
            except OSError:
                took.pop(way, None)  # no O_DIRECT here
    medians = {way: statistics.median(samples) for way, samples in took.items()}
    return min(medians, key=lambda way: medians[way]), medians


def _reading(path: Path, way: Way) -> Callable[[], None]:
    return lambda: read_all(path, way)
