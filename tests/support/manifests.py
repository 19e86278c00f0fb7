"""A manifest with everything in it."""

from __future__ import annotations

from typing import Any

from torpor.state.fingerprint import Fingerprint
from torpor.state.manifest import BlobRef, KVCache, KVLayer, KVLayout, Manifest

FULL = Fingerprint(*[f"digest of part {i}" for i in range(12)])
LAYOUT = KVLayout("bfloat16", 1, (KVLayer(2, 8, 8),))
KV = KVCache(LAYOUT, 65, "DynamicCache", (BlobRef("a" * 64, 64 * 64), BlobRef("b" * 64, 64)))
VISION = {"$tensor": {"shape": [32], "dtype": "uint8", "blocks": [{"digest": "c" * 64, "size_bytes": 32}]}}
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
