"""Fresh memory for tensors, in huge pages where the system has them.

Fresh pages are the largest single cost of a restore: each of 36,000 small ones for 1,000 tokens of Qwen3-VL is a fault
of its own; in huge pages there are 72. The tensors of one call share a mapping, which is freed when the last of them
is: so one call a layer, since a DynamicCache replaces its tensors layer by layer at the first token.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress

import torch

HUGE_PAGE_BYTES = 2 << 20
_ALIGN_BYTES = 64  # what torch's own allocator gives
_ADVICE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)


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
    """Map memory that starts at a huge page's border."""
    mapping = mmap.mmap(-1, size_bytes + HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    assert _ADVICE is not None
    with suppress(OSError):  # a kernel without huge pages
        mapping.madvise(_ADVICE)
    whole = torch.frombuffer(mapping, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE_PAGE_BYTES
    return whole[start : start + size_bytes]
