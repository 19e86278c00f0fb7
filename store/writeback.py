"""Have the kernel start to write a range of a file, without waiting: `sync_file_range` of Linux.

Python has no call for it. It is only a hint (fsync is what makes bytes durable), so elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

_WRITE = 2  # SYNC_FILE_RANGE_WRITE


def _find() -> Callable[[int, int, int], object] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        call = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return lambda fd, offset, size_bytes: call(fd, offset, size_bytes, _WRITE)


_call = _find()


def start_writeback(fd: int, offset: int, size_bytes: int) -> None:
    """Start to write `[offset, offset + size_bytes)`; returns at once and never fails."""
    if _call is not None:
        _call(fd, offset, size_bytes)
