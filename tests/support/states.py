"""Any plain state: nested values with everything that is awkward in them, as the layers of a manifest and its blobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from torpor.codec import tree
from torpor.codec.leaves import LeafBuilder
from torpor.codec.state_file import PLAIN_LAYERS
from torpor.state.manifest import BlobRef, KVCache, KVLayer, KVLayout, Manifest, block_ranges
from torpor.state.tensors import DTYPE_SIZES, TORCH_ONLY_DTYPES, TensorSpec

from support.manifests import FULL
from support.shelf import Shelf

BACKUP_ID = "01M81P35719XNDZ4R57NMV6DYZ"


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as its raw bytes, so that every dtype can be had without the library."""

    spec: TensorSpec
    kind: str
    seed: int

    @property
    def raw(self) -> bytes:
        part = bytes((self.seed + 7 * n) % 256 for n in range(min(self.spec.size_bytes, 1021)))
        return (part * (self.spec.size_bytes // 1021 + 1))[: self.spec.size_bytes]


def _tensor(dtype: str, kind: str, shape: tuple[int, ...], seed: int) -> Tensor:
    kind = "torch" if dtype in TORCH_ONLY_DTYPES else kind
    return Tensor(TensorSpec(() if kind == "numpy-scalar" else shape, dtype), kind, seed)


SHAPES = st.sampled_from([(), (0,), (3, 0, 2), (1,), (7,), (2, 3, 5), (1, 1025), (33_000,), (1, 6000), (40, 900)])
TENSORS = st.builds(
    _tensor,
    st.sampled_from(sorted(DTYPE_SIZES)),
    st.sampled_from(["torch", "numpy", "numpy-scalar"]),
    SHAPES,
    st.integers(0, 255),
)
CHARACTERS = st.characters(codec="utf-8") | st.sampled_from('"\\/\0\r\n\ufeff\u2028é🙂$')
LONG = st.builds(
    lambda part, size: (part * size)[:size],
    st.text(CHARACTERS, min_size=1, max_size=3),
    st.sampled_from([255, 1023, 1024, 1025, 8190, 8193, 32_767, 32_768, 32_769]),
)
TEXTS = st.text(CHARACTERS, max_size=12) | LONG
SCALARS = st.none() | st.booleans() | st.floats() | st.integers() | st.integers(-(1 << 70), 1 << 70)
KEYS = st.recursive(
    st.text(CHARACTERS, max_size=6) | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2).map(tuple),
    max_leaves=3,
)
NAMES = st.text(CHARACTERS, max_size=6) | st.sampled_from(
    ["$tensor", "$map", "$", "shape", "data", "torpor.v1", "format"]
)


def _like_a_tensor(inner: Any) -> Any:
    keys = dict.fromkeys(("shape", "dtype", "data", "compressed"), inner)
    return st.fixed_dictionaries(keys, optional={"kind": inner, "other": inner})


VALUES = st.recursive(
    SCALARS | TEXTS | st.binary(max_size=30) | st.sampled_from([bytes(1025), bytes(40_000)]) | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(NAMES, inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=3)
        | _like_a_tensor(inner)
    ),
    max_leaves=8,
)
METADATA = st.fixed_dictionaries(
    {}, optional={"model_name": VALUES, "timestamp": VALUES, "format": VALUES, "z": VALUES}
)
LAYERS = st.fixed_dictionaries({}, optional={**dict.fromkeys(PLAIN_LAYERS, VALUES), "metadata": METADATA | VALUES})


def encode(value: Any, shelf: Shelf) -> Any:
    """Encode a value as a save does."""
    builder = LeafBuilder(shelf.put)

    def to_leaf(found: Any) -> tree.Encoded | None:
        if not isinstance(found, Tensor):
            return None
        return tree.Encoded(builder.tensor(found.spec, found.kind, [found.raw]))

    encoded = tree.encode(value, to_leaf)
    for leaf, body in encoded.pending:
        tree.fill(body, [shelf.put(chunk) for chunk in tree.chunks(leaf)])
    return encoded.value


def saved(layers: dict[str, Any], shelf: Shelf, kv: KVCache | None = None) -> Manifest:
    """Make the manifest of a state."""
    encoded = {name: encode(value, shelf) for name, value in layers.items()}
    return Manifest(BACKUP_ID, "s", 1.5, "plain", encoded, fingerprint=FULL, kv_cache=kv)


def kv_cache(layout: KVLayout, tokens: int, shelf: Shelf) -> KVCache:
    """Make a KV cache whose blocks differ."""
    blocks: list[BlobRef] = []
    for start, stop in block_ranges(tokens, layout.block_tokens):
        blocks.append(shelf.put(memoryview(bytes([start % 251]) * ((stop - start) * layout.token_bytes()))))
    return KVCache(layout, tokens, "DynamicCache", tuple(blocks))


KV_LAYERS = st.builds(KVLayer, st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
KV_LAYOUTS = st.builds(
    KVLayout,
    st.sampled_from(sorted(DTYPE_SIZES)),
    st.integers(1, 2),
    st.lists(KV_LAYERS, min_size=1, max_size=3).map(tuple),
    st.integers(1, 5),
)
