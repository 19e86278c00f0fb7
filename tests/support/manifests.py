"""A manifest with everything in it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from torpor.state.fingerprint import Fingerprint
from torpor.state.manifest import BlobRef, KVCache, KVLayer, KVLayout, Manifest

FULL = Fingerprint(*[f"digest of part {i}" for i in range(12)])
LAYOUT = KVLayout("bfloat16", 1, (KVLayer(2, 8, 8),))
KV = KVCache(LAYOUT, 65, "DynamicCache", (BlobRef("a" * 64, 64 * 64), BlobRef("b" * 64, 64)))
VISION = {
    "$tensor": {"shape": [32], "dtype": "uint8", "kind": "torch", "blocks": [{"digest": "c" * 64, "size_bytes": 32}]}
}
LAYERS = {"metadata": {}, "text_context": {}, "tokens": {}, "media": [], "vision_cache": {"v": VISION}}


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "id": "01M81P35719XNDZ4R57NMV6DYZ",
        "session_id": "s",
        "created_at": 1.0,
        "adapter": "transformers",
        "layers": LAYERS,
        "tokens": 66,
        "fingerprint": FULL,
        "kv_cache": KV,
    }
    return Manifest(**{**values, **changes})


_words = st.sampled_from(["a", "b", "role", "content", "text", "type", "name", "tool_calls", "thinking", "children"])
_tags = st.sampled_from(["$float", "$int", "$tuple", "$map", "$tensor", "$bytes", "$text", "$what", "$"])
_bodies = st.sampled_from(["size_bytes", "data", "blocks", "shape", "dtype", "kind", "digest"])
_blob = st.just({"digest": "c" * 64, "size_bytes": 32})
_scalars = st.none() | st.booleans() | st.integers(-5, 70) | st.floats() | st.text(max_size=9) | _words
# Trees as a manifest may hold them when someone else wrote it: tags of every kind with bodies of every kind.
hostile_trees = st.recursive(
    _scalars | _blob | st.just(VISION),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(_words, inner, max_size=4)
        | st.dictionaries(_tags, inner, min_size=1, max_size=2)
        | st.dictionaries(_tags, st.dictionaries(_bodies, inner, max_size=4), min_size=1, max_size=1)
        | st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": inner})
        | st.fixed_dictionaries({"$map": st.lists(st.lists(inner, min_size=2, max_size=2), max_size=3)})
    ),
    max_leaves=25,
)
