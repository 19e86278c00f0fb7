"""How many token ids two backups have in common, and how little is read to know it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.manifests import hostile_trees, manifest
from support.shelf import Shelf
from torpor.adapters.token_state import narrow
from torpor.codec import torch_bridge, tree
from torpor.codec.token_ids import TokenCounts, compare_ids
from torpor.state.errors import BadInput
from torpor.state.manifest import BlobRef, Manifest


def saved(ids: Any, shelf: Shelf) -> Manifest:
    encoded = tree.encode({"ids": ids}, torch_bridge.to_leaf)
    for leaf, body in encoded.pending:
        tree.fill(body, [shelf.put(chunk) for chunk in tree.chunks(leaf)])
    return replace(manifest(kv_cache=None), layers={"tokens": encoded.value})


def ids_of(*values: int) -> torch.Tensor | None:
    return narrow(torch.tensor([values], dtype=torch.int64))


class Reader:
    """Reads from a shelf and counts."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf, self.bytes = shelf, 0

    def __call__(self, refs: list[BlobRef]) -> memoryview:
        self.bytes += sum(ref.size_bytes for ref in refs)
        return memoryview(b"".join(bytes(self.shelf.read(ref)) for ref in refs))


def compared(a: Any, b: Any) -> TokenCounts | None:
    shelf = Shelf()
    return compare_ids(saved(a, shelf), saved(b, shelf), Reader(shelf))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [((1, 2, 3), (1, 2, 3, 4), 3), ((1, 2, 3), (1, 9, 3), 1), ((5,), (6,), 0), ((1, 2), (1, 2), 2), ((1, 2, 300), (1, 2), 2)],
)  # fmt: skip
def test_the_common_head(a: tuple[int, ...], b: tuple[int, ...], same: int) -> None:
    assert compared(ids_of(*a), ids_of(*b)) == TokenCounts(len(a), len(b), same)


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40))
def test_any_two_lists(a: list[int], b: list[int]) -> None:
    same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert compared(torch.tensor([a], dtype=torch.int64), np.array(b, dtype=np.int32)) == TokenCounts(
        len(a), len(b), same
    )


def test_of_long_ids_only_the_chunks_that_differ_are_read() -> None:
    """Also where the last chunk has grown, and where they lie in blobs at one end only."""
    shelf = Shelf()
    first = torch.arange(1 << 17, dtype=torch.int32)[None]
    grown, edited = torch.cat([first, first[:, :5000]], 1), first.clone()
    edited[0, 100_000] = 7
    saves = [saved(ids, shelf) for ids in (first, grown, edited, first[:, :50])]
    for other, same, most in ((1, 1 << 17, 40_000), (2, 100_000, 300_000), (3, 50, 1 << 20)):
        read = Reader(shelf)
        counts = compare_ids(saves[0], saves[other], read)
        assert counts is not None
        assert counts.same == same
        assert read.bytes <= most


@pytest.mark.parametrize(
    "ids",
    [None, 5, "text", torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3), torch.tensor([True]),
     torch.zeros((), dtype=torch.int64)],
)  # fmt: skip
def test_what_is_no_row_of_ids_is_not_compared(ids: Any) -> None:
    assert compared(ids, ids_of(1)) is None
    assert compared(ids_of(1), ids) is None


@given(hostile_trees, hostile_trees)
def test_hostile_layers(a: Any, b: Any) -> None:
    """Whatever lies there, the answer is a count, none, or a typed error."""

    def read(refs: list[BlobRef]) -> memoryview:
        return memoryview(bytes(sum(ref.size_bytes for ref in refs)))

    for left, right in ((a, b), ({"ids": a}, {"ids": b}), ({"ids": a}, {"ids": a})):
        both = [replace(manifest(kv_cache=None), layers={"tokens": layer}) for layer in (left, right)]
        try:
            counts = compare_ids(both[0], both[1], read)
        except BadInput:
            continue
        assert counts is None or 0 <= counts.same <= min(counts.a, counts.b)
