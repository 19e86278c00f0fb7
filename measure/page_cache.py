"""Drop files from the page cache or bring them there, and check that it was done.

`posix_fadvise` forgets the clean pages of one file and leaves everybody else's alone, which `drop_caches` does not.
It is advice, so `mincore` has the last word.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy

_READ_BYTES = 8 << 20
_libc = ctypes.CDLL(None, use_errno=True)


def files_under(folder: Path) -> list[Path]:
    """Return the regular files under a folder."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]


def evict(paths: Iterable[Path]) -> float:
    """Drop files from the page cache; return the share of their pages that stayed."""
    paths = list(paths)
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)  # dirty pages cannot be dropped
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    return resident_share(paths)


def bring(paths: Iterable[Path]) -> float:
    """Read what is missing of files into the page cache; return the share of their pages that is not there even so."""
    paths = list(paths)
    buffer = memoryview(bytearray(_READ_BYTES))
    for path in paths:
        if resident_share([path]) < 1 and path.stat().st_size:
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
    return 1 - resident_share(paths)


def resident_share(paths: Iterable[Path]) -> float:
    """Return the share of some files' pages that are in the page cache."""
    counts = list(_counts(paths))
    total = sum(pages for _, pages in counts)
    return sum(resident for resident, _ in counts) / total if total else 0.0


def _counts(paths: Iterable[Path]) -> Iterator[tuple[int, int]]:
    for path in paths:
        size = path.stat().st_size
        if size == 0:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
            yield _resident(mapped, size)


def _resident(mapped: mmap.mmap, size: int) -> tuple[int, int]:
    pages = -(-size // mmap.PAGESIZE)
    view = numpy.frombuffer(mapped, dtype=numpy.uint8)
    found = numpy.zeros(pages, dtype=numpy.uint8)
    status = _libc.mincore(
        ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size), found.ctypes.data_as(ctypes.c_void_p)
    )
    del view  # the map cannot be closed while somebody looks at it
    if status != 0:
        raise OSError(ctypes.get_errno(), "mincore")
    return int((found & 1).sum()), pages
