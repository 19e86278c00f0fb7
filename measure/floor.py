"""What the memory of this machine allows: copies, and copies fused with BLAKE3, on all cores.

A verified restore cannot be faster than to bring every byte once into memory of its own and to hash it while it is
in the cache. Destinations are tensors of the same sizes as the adapter's, allocated within the time that is taken: as
`torch.empty` makes them, in small pages, or as the adapter does, in huge ones. `machine.always_fresh_memory` sees to
it that none of them has pages that were touched before.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from blake3 import blake3

from ..adapters.host_memory import fresh_tensors

Tensors = Sequence[torch.Tensor]
PIECE_BYTES = 256 << 10  # stays in the second-level cache between the copy and the hash


class Floor:
    """Copies of some tensors, one thread a core."""

    def __init__(self, sources: Tensors) -> None:
        self._sources = sources
        self._threads = ThreadPoolExecutor(os.cpu_count())
        self._touched: Tensors = ()

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def copy_hash_fresh(self) -> Tensors:
        """Copy and hash into fresh memory."""
        return self._into(self._fresh(), _copy_hash)

    def copy_hash_huge(self) -> Tensors:
        """Copy and hash into fresh memory of huge pages, where the system has them."""
        return self._into(self._fresh_huge(), _copy_hash)

    def copy_hash_warm(self) -> Tensors:
        """Copy and hash into memory that was touched before."""
        return self._into(self._warm, _copy_hash)

    def copy_fresh(self) -> Tensors:
        """Copy into fresh memory."""
        return self._into(self._fresh(), _copy)

    def copy_warm(self) -> Tensors:
        """Copy into memory that was touched before."""
        return self._into(self._warm, _copy)

    @property
    def _warm(self) -> Tensors:
        self._touched = self._touched or [tensor.clone() for tensor in self._sources]
        return self._touched

    def _fresh_huge(self) -> list[torch.Tensor]:
        pairs = [self._sources[i : i + 2] for i in range(0, len(self._sources), 2)]
        return [made for pair in pairs for made in fresh_tensors([tuple(t.shape) for t in pair], pair[0].dtype)]

    def _fresh(self) -> list[torch.Tensor]:
        return [torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in self._sources]

    def _into(self, targets: Tensors, copy: Callable[[torch.Tensor, torch.Tensor], None]) -> Tensors:
        for done in [self._threads.submit(copy, *pair) for pair in zip(targets, self._sources, strict=True)]:
            done.result()
        return targets


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)  # lets other threads run


def _copy_hash(target: torch.Tensor, source: torch.Tensor) -> None:
    hasher, view = blake3(), memoryview(target.reshape(-1).view(torch.uint8).numpy())
    to, origin = target.data_ptr(), source.data_ptr()
    for at in range(0, source.nbytes, PIECE_BYTES):
        size = min(PIECE_BYTES, source.nbytes - at)
        ctypes.memmove(to + at, origin + at, size)
        hasher.update(view[at : at + size])
    hasher.digest()
