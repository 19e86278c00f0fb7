"""Fresh memory for many tensors at once, in huge pages where the system has them.

Fresh pages are the largest single cost of a restore: each of 36,000 small ones for 1,000 tokens of Qwen3-VL is a fault
of its own. In huge pages there are 72. The memory is one mapping, freed when the last of its tensors is.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch

HUGE_PAGE_BYTES = 2 << 20
_ALIGN_BYTES = 64  # what torch's own allocator gives
_ADVICE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)


def fresh_tensors(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[torch.Tensor]:
    """Return uninitialised CPU tensors of some shapes."""
    sizes = [math.prod(shape) * dtype.itemsize for shape in shapes]
    total = sum(size + -size % _ALIGN_BYTES for size in sizes)
    if total < 4 * HUGE_PAGE_BYTES or _ADVICE is None:
        return [torch.empty(shape, dtype=dtype) for shape in shapes]
    memory, at = _huge(total), 0
    tensors = []
    for shape, size in zip(shapes, sizes, strict=True):
        tensors.append(memory[at : at + size].view(dtype).view(shape))
        at += size + -size % _ALIGN_BYTES
    return tensors


def _huge(size_bytes: int) -> torch.Tensor:
    """Map memory that starts at a huge page's border."""
    mapping = mmap.mmap(-1, size_bytes + HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    assert _ADVICE is not None
    mapping.madvise(_ADVICE)
    whole = torch.frombuffer(mapping, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE_PAGE_BYTES
    return whole[start : start + size_bytes]
