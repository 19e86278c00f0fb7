"""Free memory that is really there.

Many a virtual machine gives memory that nobody uses back to its host, two seconds after it was freed, and has it back
page by page when somebody writes to it: on the machine on which this was found 1 GiB then takes 2 to 4 s where it
takes 0.1 s otherwise, and a figure says how long its contender rested. So pages are taken and freed right before.
"""

from __future__ import annotations

import mmap

from ..client.memory import available_bytes

_MOST_SHARE = 0.9  # of what is available: the rest is left to others
_PAGE = mmap.PAGESIZE


def have_at_hand(size_bytes: int) -> int:
    """Write to as many bytes of fresh memory, or as are available, and free them; return how many it were."""
    size_bytes = min(size_bytes, int(available_bytes() * _MOST_SHARE))
    if size_bytes < _PAGE:
        return 0
    with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as pages:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, size_bytes, _PAGE):
            pages[at] = 1
    return size_bytes
