"""Fresh memory for tensors, in huge pages where the system has them.

Fresh pages are the largest single cost of a restore: each of 36,000 small ones for 1,000 tokens of Qwen3-VL is a fault
of its own; in huge pages there are 72. The tensors of one call share a mapping, which is freed when the last of them
is: so one call a layer, since a DynamicCache replaces its tensors layer by layer at the first token.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import sys
from collections.abc import Sequence
from contextlib import suppress

import torch

HUGE_PAGE_BYTES = 2 << 20
_ALIGN_BYTES = 64  # what torch's own allocator gives
_MOST_WASTED = 1 / 8  # of the last huge page's unused rest to the whole
_ADVICE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)
_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE: Linux 5.14, not among Python's names
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def fresh_tensors(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[torch.Tensor]:
    """Return uninitialised CPU tensors of some shapes."""
    sizes = [math.prod(shape) * dtype.itemsize for shape in shapes]
    total = sum(size + -size % _ALIGN_BYTES for size in sizes)
    if total < HUGE_PAGE_BYTES or _ADVICE is None:
        return [torch.empty(shape, dtype=dtype) for shape in shapes]
    memory, at = _huge(total), 0
    tensors = []
    for shape, size in zip(shapes, sizes, strict=True):
        tensors.append(memory[at : at + size].view(dtype).view(shape))
        at += size + -size % _ALIGN_BYTES
    return tensors


def _huge(size_bytes: int) -> torch.Tensor:
    """Map memory that starts at a huge page's border, and ends at one where that wastes little."""
    rest = -size_bytes % HUGE_PAGE_BYTES
    size_bytes += rest if rest <= size_bytes * _MOST_WASTED else 0
    mapping = mmap.mmap(-1, size_bytes + HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = torch.frombuffer(mapping, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE_PAGE_BYTES
    assert _ADVICE is not None
    with suppress(OSError):  # a kernel without huge pages
        mapping.madvise(_ADVICE, 0, start + size_bytes)
    return whole[start : start + size_bytes]


def touch(tensors: Sequence[torch.Tensor]) -> None:
    """Have the pages of the tensors of one `fresh_tensors` call there at once; where that cannot be, do nothing.

    Through ctypes, which lets other threads run meanwhile: `mmap.madvise` does not, and then nothing is gained.
    """
    mappings = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    start, end = tensors[0].data_ptr(), tensors[-1].data_ptr() + tensors[-1].nbytes
    if _libc is not None and len(mappings) == 1 and end - start >= HUGE_PAGE_BYTES:
        start -= start % mmap.PAGESIZE
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _POPULATE_WRITE)
