"""What a model is, as digests of its parts. Names of models never prove anything.

The parts: `weights` and `vision_weights` are BLAKE3 over canonical lines of all tensors (codec/weights.py), the latter
with the vision config; `adapters` is BLAKE3 over what active LoRA adapters add (`none` where nothing). `quantization`,
`text_config`, `rope_config`, `processor`, `tokenizer` and `chat_template` are BLAKE3 over JSON with sorted keys, less
what does not change a computation; `kv_dtype`, `kv_layout` and `cache_class` are short texts as they are.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

# A part that is known to be absent (no LoRA, no quantisation), as against `None`, which is unknown and proves nothing.
NONE = "none"

KV_PARTS = ("weights", "quantization", "adapters", "text_config", "rope_config", "kv_dtype", "kv_layout", "cache_class")
VISION_PARTS = ("vision_weights", "processor")
TOKEN_PARTS = ("tokenizer", "chat_template")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Digests (or short canonical texts) of the parts that decide what may be reused. `None` is unknown."""

    weights: str | None = None
    quantization: str | None = None
    adapters: str | None = None
    text_config: str | None = None
    rope_config: str | None = None
    kv_dtype: str | None = None
    kv_layout: str | None = None
    cache_class: str | None = None
    vision_weights: str | None = None
    processor: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None

    def part(self, name: str) -> str | None:
        """Return one part by its name."""
        value: str | None = getattr(self, name)
        return value

    def key(self, parts: tuple[str, ...]) -> str | None:
        """Return the SHA-256 key over some parts, or None where one is unknown.

        Encoding: for each part its name, '=', the length of the value in bytes, ':', the value, ';'.
        """
        digest = hashlib.sha256(b"torpor-fingerprint-v1;")
        for name in parts:
            value = self.part(name)
            if value is None:
                return None
            raw = value.encode()
            digest.update(b"%s=%d:%s;" % (name.encode(), len(raw), raw))
        return digest.hexdigest()

    def differing(self, other: Fingerprint, parts: tuple[str, ...]) -> tuple[str, ...]:
        """Return the parts that are not proven equal."""
        return tuple(p for p in parts if self.part(p) is None or self.part(p) != other.part(p))

    def to_dict(self) -> dict[str, str | None]:
        """Return the parts as a plain dict."""
        return {f.name: self.part(f.name) for f in fields(self)}
