"""What a restore of KV blocks costs that can be counted: reads, passes, memory beside the tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torpor.adapters.dynamic_cache import CacheSink
from torpor.adapters.host_memory import HUGE_PAGE_BYTES, fresh_tensors, touch
from torpor.client import restore
from torpor.client.restore import PIECE_BYTES, submit_blocks
from torpor.codec.kv_blocks import cut_up, tensor_runs
from torpor.state.errors import BlobDamaged
from torpor.state.manifest import BlobRef, KVCache, KVLayer, KVLayout, block_ranges
from torpor.store.blobs import BlobStore
from torpor.store.staging import Staging

LAYOUT = KVLayout("bfloat16", 2, (KVLayer(3, 64, 32),) * 9)
TOKENS = 150  # two full blocks and a partial one


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def saved(blobs: BlobStore, tmp_path: Path) -> tuple[KVCache, list[torch.Tensor]]:
    """A cache of random bits in a store, written block by block without the code under test."""
    (tmp_path / "blobs").mkdir(mode=0o700)
    (tmp_path / "staging").mkdir(mode=0o700)
    staging, generator = Staging(tmp_path / "staging"), torch.Generator().manual_seed(7)
    shapes = [(2, 3, TOKENS, dim) for _ in LAYOUT.layers for dim in (64, 32)]
    tensors = [torch.randint(-(2**15), 2**15, s, dtype=torch.int16, generator=generator) for s in shapes]
    refs: list[BlobRef] = []
    for start, stop in block_ranges(TOKENS, LAYOUT.block_tokens):
        data = b"".join(t[:, :, start:stop].contiguous().numpy().tobytes() for t in tensors)
        refs.append(blobs.put(staging, [memoryview(data)], set()).ref)
    return KVCache(LAYOUT, TOKENS, "DynamicCache", tuple(refs)), tensors


def read(kv: KVCache, blobs: BlobStore, sink: Any) -> None:
    with ThreadPoolExecutor(2) as threads:
        for future in submit_blocks(kv, sink, blobs, threads):
            future.result()


def same_bits(sink: CacheSink, tensors: list[torch.Tensor]) -> bool:
    return all(torch.equal(a.view(torch.int16), b) for a, b in zip(sink.tensors, tensors, strict=True))


@pytest.mark.parametrize("piece_bytes", [1, 50_000, 100_000, PIECE_BYTES, 1 << 30])
def test_bits_come_back_whatever_the_pieces(
    saved: tuple[KVCache, list[torch.Tensor]], blobs: BlobStore, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv, tensors = saved
    monkeypatch.setattr(restore, "PIECE_BYTES", piece_bytes)
    sink = CacheSink(kv)
    read(kv, blobs, sink)
    assert same_bits(sink, tensors)


def test_every_byte_is_read_once_in_large_pieces(
    saved: tuple[KVCache, list[torch.Tensor]], blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv, _ = saved
    counts: list[int] = []
    preadv = os.preadv

    def counting(fd: int, buffers: Sequence[Any], offset: int) -> int:
        counts.append(preadv(fd, buffers, offset))
        return counts[-1]

    monkeypatch.setattr(os, "preadv", counting)
    read(kv, blobs, CacheSink(kv))
    assert sum(counts) == sum(ref.size_bytes for ref in kv.blocks)
    runs = [
        run
        for start, stop in block_ranges(TOKENS, LAYOUT.block_tokens)
        for run in tensor_runs(LAYOUT.tensor_bytes(), stop - start, PIECE_BYTES)
    ]
    assert len(counts) == len(runs) == 5  # 2 + 2 + 1


def test_the_memory_beside_the_tensors_is_one_piece_a_thread(
    saved: tuple[KVCache, list[torch.Tensor]], blobs: BlobStore
) -> None:
    kv, _ = saved
    seen: set[tuple[int, int]] = set()

    class Watching(CacheSink):
        def put(self, start: int, stop: int, piece: memoryview, first: int = 0) -> None:
            seen.add((torch.frombuffer(piece, dtype=torch.uint8).data_ptr(), piece.nbytes))
            super().put(start, stop, piece, first)

    read(kv, blobs, Watching(kv))
    assert len({place for place, _ in seen}) <= 2 + 1  # a thread's may grow once
    assert max(size for _, size in seen) <= PIECE_BYTES


def test_a_damaged_block_is_told_although_its_pieces_were_scattered(
    saved: tuple[KVCache, list[torch.Tensor]], blobs: BlobStore
) -> None:
    kv, tensors = saved
    path = blobs.path(kv.blocks[1].digest)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    sink = CacheSink(kv)
    with pytest.raises(BlobDamaged):
        read(kv, blobs, sink)
    path.write_bytes(whole)
    read(kv, blobs, sink)  # again into the same memory, as after a block was fetched
    assert same_bits(sink, tensors)


def test_runs_are_whole_tensors() -> None:
    assert list(tensor_runs([4, 4, 4, 4], 10, 80)) == [(0, 80), (2, 80)]
    assert list(tensor_runs([4, 4, 4], 10, 80)) == [(0, 80), (2, 40)]
    assert list(tensor_runs([100, 4, 100], 10, 80)) == [(0, 1000), (1, 40), (2, 1000)]
    assert sum(size for _, size in tensor_runs(LAYOUT.tensor_bytes(), 7, 999)) == 7 * LAYOUT.token_bytes()


def test_a_buffer_is_asked_for_when_the_one_before_is_used() -> None:
    asked: list[int] = []

    def buffers() -> Iterable[memoryview]:
        for i in range(3):
            asked.append(i)
            yield memoryview(bytearray(5))

    parts = cut_up(buffers(), 3)
    assert [next(parts).nbytes, next(parts).nbytes, asked] == [3, 2, [0]]
    assert [part.nbytes for part in parts] == [3, 2, 3, 2]


def test_touched_pages_are_there_and_no_others() -> None:
    tensors = fresh_tensors([(1, 8, 1024, 128)] * 2, torch.bfloat16)
    assert tensors[0].data_ptr() % HUGE_PAGE_BYTES == 0
    touch(tensors)
    assert all(not tensor.any() for tensor in tensors)
    touch(
        [torch.empty(1 << 20, dtype=torch.int8), torch.empty(8 << 20, dtype=torch.int8)]
    )  # not of one call: left alone
