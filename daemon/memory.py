"""Memory that a burst of work took is given back to the machine: the C library keeps what was freed, just in case.

Both are glibc's; elsewhere nothing happens. Figures are in docs/PERFORMANCE.md.
"""

from __future__ import annotations

import ctypes

_ARENA_MAX, _ARENAS = -8, 2  # M_ARENA_MAX of malloc.h; by default eight a core, each with room of its own


def _libc() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:  # not on Linux, or with another C library
        return None


def share_arenas() -> bool:
    """Let the threads of this process share two arenas; before it has others. Tell whether that was to be had."""
    libc = _libc()
    return libc is not None and libc.mallopt(_ARENA_MAX, _ARENAS) == 1


def give_back() -> bool:
    """Give back what is free; tell whether there was something."""
    libc = _libc()
    return libc is not None and libc.malloc_trim(0) == 1
