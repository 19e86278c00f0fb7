"""Nested values through their JSON tree and back: nothing is changed, and hostile trees are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from torpor.codec import torch_bridge, tree
from torpor.state.errors import InvalidManifest, UnsupportedState
from torpor.state.manifest import BlobRef, layer_blobs
from torpor.state.tensors import DTYPE_SIZES


class Shelf(dict[str, bytes]):
    """Blobs in memory."""

    def put(self, data: memoryview) -> BlobRef:
        digest = blake3(data).hexdigest()
        self[digest] = bytes(data)
        return BlobRef(digest, data.nbytes)

    def read(self, refs: list[BlobRef]) -> memoryview:
        return memoryview(b"".join(self[ref.digest] for ref in refs))


def there_and_back(value: Any) -> Any:
    encoded, shelf = tree.encode(value, torch_bridge.to_leaf), Shelf()
    for leaf, body in encoded.pending:
        tree.fill(body, [shelf.put(chunk) for chunk in tree.chunks(leaf)])
    on_disk = orjson.loads(orjson.dumps(encoded.value))
    assert {ref.digest for ref in layer_blobs(on_disk)} == set(shelf)
    return tree.decode(on_disk, shelf.read, torch_bridge.from_leaf)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(k1, k2) and same(v1, v2) for (k1, v1), (k2, v2) in zip(a.items(), b.items(), strict=True)
        )
    return bool(a == b)


keys = st.text(st.characters(codec="utf-8")) | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8")) | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(keys, inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner)
    ),
    max_leaves=30,
)


@given(values)
def test_any_nested_value_comes_back_as_it_was(value: Any) -> None:
    try:
        there = there_and_back(value)
    except UnsupportedState:
        assert "\\ud" in ascii(value)  # only lone surrogates have no form
        return
    assert same(there, value)


@pytest.mark.parametrize(
    "value",
    [
        {"$tensor": 1}, {"$float": "nan"}, {"$": 1, "a": 2}, {"": 0}, {1: "a", "1": "b"}, {0: {-1: []}},
        float("nan"), float("inf"), -0.0, 2**64, -(2**63) - 1, 10**400, "\ufeffBOM \0 NUL\r\n", [(), ((),)],
        b"", b"x" * 5000, b"x" * 50_000, b"x" * (5 << 20), {None: 1}, {True: 1}, {1.5: 2}, {("a", 1): 2},
    ],
)  # fmt: skip
def test_awkward_values_come_back_as_they_were(value: Any) -> None:
    assert same(there_and_back(value), value)


TORCH_DTYPES = [name for name in DTYPE_SIZES if isinstance(getattr(torch, name, None), torch.dtype)]


@pytest.mark.parametrize("name", TORCH_DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (7,), (2, 3, 5), (1, 6000), (1, 70_000)])
def test_torch_tensors_of_every_dtype(name: str, shape: tuple[int, ...]) -> None:
    dtype = getattr(torch, name)
    size = math.prod(shape) * DTYPE_SIZES[name]
    raw = torch.randint(0, 2 if name == "bool" else 256, (size,), dtype=torch.uint8)
    tensor = raw.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
    back = there_and_back({"t": tensor})["t"]
    assert (back.dtype, back.shape) == (dtype, tensor.shape)
    assert torch.equal(back.reshape(-1).view(torch.uint8), raw) if size else back.numel() == 0


def test_strided_tensors_keep_their_values_and_not_their_neighbours() -> None:
    base = torch.arange(60_000.0).reshape(100, 600)
    for view in (base.t(), base[::2, 1:], base[:, :1], base.expand(2, 100, 600), base[3:4].flip(0)):
        leaf = torch_bridge.to_leaf(view)
        assert leaf is not None
        assert leaf.data.nbytes == view.numel() * 4
        assert torch.equal(there_and_back(view), view)


def test_conjugated_and_negated_views_are_resolved() -> None:
    z = torch.complex(torch.randn(4), torch.randn(4))
    assert torch.equal(there_and_back(z.conj()), z.conj().resolve_conj())


def test_a_parameter_comes_back_as_its_values() -> None:
    parameter = torch.nn.Parameter(torch.randn(3))
    assert torch.equal(there_and_back(parameter), parameter.detach())


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float32", "float64", "complex64"])
def test_numpy_arrays_and_scalars(dtype: str) -> None:
    for array in (
        np.ones((3, 4), dtype)[:, ::2],
        np.zeros((), dtype),
        np.zeros((0, 2), dtype),
        np.asfortranarray(np.ones((2, 3), dtype)),
    ):
        back = there_and_back([array])[0]
        assert isinstance(back, np.ndarray)
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert np.array_equal(back, array)
    scalar = np.ones(1, dtype)[0]
    assert type(there_and_back(scalar)) is type(scalar)


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]), np.array(["text"]), np.array([1], ">i4"), np.array([1], "M8[s]"), np.ma.array([1]),
        torch.eye(3).to_sparse(),
        object(), {1, 2}, range(3), lambda: 0, {b"bytes": 1}, "\ud800", {"\udfff": 1},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_has_no_lossless_form_is_refused_with_its_place(value: Any) -> None:
    with pytest.raises(UnsupportedState):
        there_and_back({"a": [value]})


def test_the_refusal_names_the_path() -> None:
    with pytest.raises(UnsupportedState, match=r"\$\.a\[1\]"):
        there_and_back({"a": [1, object()]})


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: {1: v}])
def test_nesting_is_taken_up_to_its_limit_and_refused_beyond(wrap: Any) -> None:
    deep: Any = 1.5
    taken = 0
    while True:
        try:
            assert same(there_and_back(deep), deep)
        except UnsupportedState:
            break
        deep, taken = wrap(deep), taken + 1
    assert taken > 50


def test_a_later_change_does_not_reach_the_tree() -> None:
    tensor, state = torch.zeros(20_000), {"list": [1]}
    encoded = tree.encode({"t": tensor, "s": state}, torch_bridge.to_leaf)
    tensor.fill_(1)
    state["list"].append(2)
    (leaf, _), = encoded.pending  # fmt: skip
    assert bytes(leaf.data) == bytes(80_000)
    assert encoded.value["s"] == {"list": [1]}


def test_growing_arrays_are_cut_fine_so_that_their_head_is_shared() -> None:
    ids = torch.arange(100_000, dtype=torch.int32)
    leaf = torch_bridge.to_leaf(ids[None])
    assert leaf is not None
    assert {chunk.nbytes for chunk in tree.chunks(leaf)[:-1]} == {tree.ARRAY_CHUNK_BYTES}
    matrix = torch_bridge.to_leaf(torch.zeros(300, 5000))
    assert matrix is not None
    assert {chunk.nbytes for chunk in tree.chunks(matrix)[:-1]} == {tree.CHUNK_BYTES}


def nothing(_: list[BlobRef]) -> memoryview:
    return memoryview(b"")


HOSTILE: list[Any] = [
    {"$what": 1}, {"$float": "1"}, {"$float": None}, {"$int": "1e5"}, {"$int": "9" * 5000}, {"$int": 5},
    {"$tuple": {}}, {"$map": {}}, {"$map": [[1]]}, {"$map": [1]}, {"$map": [[[], 1]]}, {"$float": "nan", "x": 1},
    {"$bytes": {}}, {"$bytes": {"size_bytes": -1, "data": ""}}, {"$bytes": {"size_bytes": 2, "data": "AA=="}},
    {"$bytes": {"size_bytes": 1, "data": "!"}}, {"$bytes": {"size_bytes": 1, "data": 7}},
    {"$bytes": {"size_bytes": 1, "blocks": [{}]}}, {"$bytes": {"size_bytes": 1, "blocks": [{"digest": "../x", "size_bytes": 1}]}},
    {"$bytes": {"size_bytes": 9, "blocks": [{"digest": "a" * 64, "size_bytes": 1}]}},
    {"$tensor": {"shape": [-1], "dtype": "int8", "data": ""}}, {"$tensor": {"shape": [1 << 62, 4], "dtype": "int8", "data": ""}},
    {"$tensor": {"shape": [2], "dtype": "object", "data": ""}}, {"$tensor": {"shape": [2], "dtype": "int8", "data": "AA=="}},
    {"$tensor": {"shape": ["2"], "dtype": "int8", "data": "AAA="}}, {"$tensor": {"shape": [True], "dtype": "int8", "data": "AA=="}},
    {"$tensor": {"shape": [1] * 99, "dtype": "int8", "data": "AA=="}}, {"$tensor": {"dtype": "int8", "data": "AA=="}},
    {"$tensor": []}, {"$int": "--5"}, {"$int": "+5"}, {"$map": [[{"$tuple": [[1]]}, 1]]},
    {"$map": [[{"$tensor": {"shape": [], "dtype": "int8", "kind": "numpy", "data": "AA=="}}, 1]]},
    {"$bytes": {"size_bytes": 1, "blocks": [{"digest": "a" * 64, "size_bytes": None}]}},
    {"$bytes": {"size_bytes": 1, "blocks": [{"digest": "a" * 64, "size_bytes": "1"}]}},
    {"$tensor": {"shape": [1], "dtype": "bfloat16", "kind": "numpy", "data": "AAA="}},
    {"$tensor": {"shape": [0, 1 << 62, 1 << 62], "dtype": "int8", "kind": "torch", "data": ""}},
]  # fmt: skip


@pytest.mark.parametrize("node", HOSTILE, ids=lambda node: ascii(node)[:60])
def test_hostile_trees_are_refused(node: Any) -> None:
    from torpor.state.errors import BadInput

    with pytest.raises(BadInput):
        tree.decode({"a": [node]}, nothing, torch_bridge.from_leaf)


def test_a_tree_that_is_too_deep_is_refused() -> None:
    node: Any = 1
    for _ in range(900):
        node = [node]
    with pytest.raises(InvalidManifest, match="deep"):
        tree.decode(node, nothing, torch_bridge.from_leaf)


def test_a_map_that_names_a_key_twice_is_refused() -> None:
    for pairs in ([[1, "a"], [1, "b"]], [[1, "a"], [True, "b"]], [["k", 1], ["k", 2]]):
        with pytest.raises(InvalidManifest, match="twice"):
            tree.decode({"$map": pairs}, nothing, torch_bridge.from_leaf)


def test_keys_that_were_made_to_collide_are_refused() -> None:
    """Integers that are equal modulo 2**61 - 1 have one hash: a hundred thousand of them would take a minute."""
    pairs = [[{"$int": str(n * ((1 << 61) - 1))}, n] for n in range(100, 60_000)]
    with pytest.raises(InvalidManifest, match="collide"):
        tree.decode({"$map": pairs}, nothing, torch_bridge.from_leaf)
    many = {(n, -n): n for n in range(20_000)} | {n << 62: n for n in range(1000)}
    assert same(there_and_back(many), many)


def test_integers_are_taken_as_long_as_python_reads_them_back() -> None:
    for value in (10**3999, -(10**3999)):
        assert there_and_back(value) == value
    with pytest.raises(UnsupportedState, match="bits"):
        there_and_back(10**4000)


def test_paths_in_refusals_stay_short() -> None:
    deep: Any = object()
    for _ in range(150):
        deep = {"k" * 500: deep}
    with pytest.raises(UnsupportedState) as caught:
        there_and_back(deep)
    assert len(caught.value.detail) < 1000
