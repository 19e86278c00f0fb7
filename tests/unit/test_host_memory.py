"""Fresh memory for many tensors: right shapes, no overlap, freed with the last of them."""

from __future__ import annotations

import math

import pytest
import torch
from torpor.adapters.host_memory import HUGE_PAGE_BYTES, fresh_tensors


@pytest.mark.parametrize("scale", [1, 4000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.int8], ids=str)
def test_tensors_are_apart_and_keep_what_is_written(scale: int, dtype: torch.dtype) -> None:
    shapes = [(1, 3, 7, 5), (2, 1, scale, 64), (1, 2, 0, 8), (1, 1, scale, 33)]
    tensors = fresh_tensors(shapes, dtype)
    assert [tuple(t.shape) for t in tensors] == shapes
    assert all(t.is_contiguous() and t.dtype == dtype and t.data_ptr() % 64 == 0 for t in tensors if t.numel())
    for i, tensor in enumerate(tensors):
        tensor.fill_(i + 1)
    assert all((t == i + 1).all() for i, t in enumerate(tensors))


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_the_memory_goes_with_the_last_tensor() -> None:
    shapes = [(1, 8, 1024, 128)] * 64  # 128 MiB
    size = 64 * math.prod(shapes[0]) * 2
    before = resident_bytes()
    tensors = fresh_tensors(shapes, torch.bfloat16)
    for tensor in tensors:
        tensor.zero_()
    assert resident_bytes() - before > size * 0.9
    kept = tensors.pop()
    del tensors, tensor
    assert kept.sum() == 0
    del kept
    assert resident_bytes() - before < 4 * HUGE_PAGE_BYTES
