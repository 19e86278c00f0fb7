"""Leaves from bytes in any pieces: the same node as from one piece, and the bytes come back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.shelf import Shelf
from torpor.codec import leaves
from torpor.codec.leaves import LeafBuilder, LeafDigests, leaf_pieces
from torpor.codec.tree import ARRAY_CHUNK_BYTES, CHUNK_BYTES, INLINE_BYTES, leaf_size
from torpor.state.errors import InvalidManifest
from torpor.state.tensors import TensorSpec

SIZES = st.sampled_from([0, 1, 100, INLINE_BYTES - 1, INLINE_BYTES, INLINE_BYTES + 1, 3 * ARRAY_CHUNK_BYTES, 100_001])


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def content(node: Any, shelf: Shelf) -> bytes:
    ((tag, body),) = node.items()
    size = TensorSpec(tuple(body["shape"]), body["dtype"]).size_bytes if tag == "$tensor" else leaf_size(body)
    return b"".join(leaf_pieces(body, size, shelf.read))


@given(SIZES, st.integers(7, 70_000), st.sampled_from(["uint8", "float8_e5m2"]))
def test_a_tensor_in_any_pieces(size: int, step: int, dtype: str) -> None:
    data, spec = bytes(n % 251 for n in range(size)), TensorSpec((size,), dtype)
    shelf, other = Shelf(), Shelf()
    node = LeafBuilder(shelf.put).tensor(spec, "torch", pieces(data, step))
    assert node == LeafBuilder(other.put).tensor(spec, "torch", [data])
    assert shelf == other
    assert content(node, shelf) == data
    assert bool(shelf) == (size > INLINE_BYTES)
    chunk = ARRAY_CHUNK_BYTES if dtype == "uint8" else CHUNK_BYTES
    assert [n for n in map(len, shelf.values()) if n > chunk] == []
    assert LeafDigests().tree(node, shelf.read) == LeafDigests().tensor(spec, "torch", pieces(data, step + 1))


@given(SIZES, st.integers(7, 70_000))
def test_bytes_and_texts_in_any_pieces(size: int, step: int) -> None:
    shelf, data = Shelf(), b"x" * size
    node = LeafBuilder(shelf.put).data(pieces(data, step))
    assert content(node, shelf) == data
    text = LeafBuilder(shelf.put).text(pieces(data, step))
    assert text == data.decode() if size <= INLINE_BYTES else content(text, shelf) == data
    digests = LeafDigests()
    assert digests.tree([node, text], shelf.read) == [digests.data([data]), digests.text(pieces(data, step))]


def test_small_leaves_go_into_blobs_once_the_manifest_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "INLINE_BUDGET_BYTES", 2500)
    shelf = Shelf()
    builder = LeafBuilder(shelf.put)
    nodes = [builder.data([bytes([n]) * 1000]) for n in range(4)]
    assert ["data" in node["$bytes"] for node in nodes] == [True, True, False, False]
    assert [content(node, shelf) for node in nodes] == [bytes([n]) * 1000 for n in range(4)]


@pytest.mark.parametrize(
    "body",
    [
        {"data": "AA="},
        {"data": 7},
        {"data": "é"},
        {"data": "AAA="},
        {"blocks": 1},
        {"blocks": [{}]},
        {},
        {"blocks": []},
    ],
    ids=str,
)
def test_a_leaf_that_does_not_hold_what_it_says_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidManifest):
        b"".join(leaf_pieces(body, 1, Shelf().read))
