"""How many leading tokens of a saved KV cache may be taken over, and what sets the limit. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .manifest import KVCache, Manifest

DEFAULT_MAX_TOKENS = 131_072
MISSING = "missing or damaged"  # what is said of a blob of which nothing more is known


@dataclass(frozen=True, slots=True)
class Limit:
    """The first `tokens` positions may be taken over; `reason` says what ends them (None: nothing does)."""

    tokens: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What a restore may take. Bytes are net of what must stay free; None is unknown and limits nothing.

    `reasons` says of missing blobs where they are and why they cannot be had, if there is more to say.
    """

    max_tokens: int = DEFAULT_MAX_TOKENS
    host_bytes: int | None = None
    device_bytes: int | None = None
    missing: frozenset[str] = field(default_factory=frozenset)
    reasons: Mapping[str, str] = field(default_factory=dict)


def kv_limit(manifest: Manifest, room: Room) -> Limit:
    """Return how much of a cache fits and is there: whole, or cut at a block's border outside of every image."""
    kv = manifest.kv_cache
    if kv is None:
        return Limit(0, "no KV cache was saved")
    if says_pruned(manifest):
        return Limit(0, "the session says that its cache was pruned: which tokens it holds is not known")
    width, limits = kv.layout.token_bytes(), [Limit(kv.tokens, manifest.omitted.get("kv_cache"))]
    if kv.tokens >= manifest.tokens:  # no session of ours; its next token would be wrong
        limits.append(Limit(max(manifest.tokens - 1, 0), f"one of {manifest.tokens} ids must be left to be fed"))
    if kv.tokens > room.max_tokens:
        limits.append(Limit(room.max_tokens, f"max_recoverable_tokens is {room.max_tokens}"))
    for free, where in ((room.host_bytes, "host"), (room.device_bytes, "device")):
        if free is not None and free < kv.tokens * width:
            need = f"{_gib(kv.tokens * width)} are needed, {_gib(max(free, 0))} are free"
            limits.append(Limit(max(free, 0) // width, f"the {where}'s memory ends there: {need}"))
    for i, ref in enumerate(kv.blocks if room.missing else ()):
        if ref.digest in room.missing:
            limits.append(Limit(i * kv.layout.block_tokens, f"block {i} is {room.reasons.get(ref.digest, MISSING)}"))
            break
    least = min(limits, key=lambda limit: limit.tokens)
    if least.reason is None:
        return least
    return Limit(_border(least.tokens, manifest, kv.layout.block_tokens), least.reason)


def _border(tokens: int, manifest: Manifest, block: int) -> int:
    """Return the last block border at or before a position that lies in no image: its state would be torn."""
    if not manifest.media_spans and holds_media(manifest):
        return 0  # images somewhere, nobody knows where
    at = tokens // block * block
    for start, stop in reversed(manifest.media_spans):
        if start < at < stop:
            at = start // block * block
    return at


def holds_media(manifest: Manifest) -> bool:
    """Tell whether images or videos are part of a session."""
    return bool(manifest.media_spans or manifest.layers.get("media") or manifest.layers.get("vision_cache"))


def says_pruned(manifest: Manifest) -> bool:
    """Tell whether a session says that tokens were evicted from its cache; it may have been saved all the same."""
    layers = (manifest.layers.get(name) for name in ("metadata", "text_context", "config_snapshot"))
    return any(isinstance(layer, dict) and bool(layer.get("kv_cache_pruned")) for layer in layers)


def cut(kv: KVCache, tokens: int) -> KVCache:
    """Return the first tokens of a cache; `tokens` is all of them or lies at a block's border."""
    if tokens == kv.tokens:
        return kv
    blocks = tokens // kv.layout.block_tokens
    return replace(kv, tokens=tokens, blocks=kv.blocks[:blocks], keys=kv.keys[:blocks])


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):.2f} GiB"
