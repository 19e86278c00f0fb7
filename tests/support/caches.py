"""Sessions around a real DynamicCache without a model: the geometry and the bytes are the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from blake3 import blake3
from torpor.adapters.dynamic_cache import CacheSink, LiveCache, why_unsupported
from torpor.client import Capture, KVSink, LiveKV, TargetState, Woken
from torpor.codec import torch_bridge
from torpor.state.fingerprint import Fingerprint
from torpor.state.manifest import KVCache
from transformers import DynamicCache, StaticCache

IDENTITY = Fingerprint(*(["same"] * 12))


@dataclass(eq=False)
class CacheSession:
    """A session that is a cache and a note; `grow` appends tokens as a model would."""

    cache: Any = None
    note: dict[str, Any] = field(default_factory=dict)
    layers: int = 3
    heads: int = 2
    dim: int = 8
    dtype: torch.dtype = torch.bfloat16

    def __post_init__(self) -> None:
        if self.cache is None:
            self.cache = DynamicCache()

    def grow(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for layer in range(self.layers):
            new = [torch.randn((1, self.heads, count, self.dim), generator=generator).to(self.dtype) for _ in "kv"]
            self.cache.update(*new, layer)

    @property
    def tokens(self) -> int:
        return int(self.cache.get_seq_length())

    def crop_to(self, tokens: int) -> None:
        if tokens < self.tokens:
            self.cache.crop(tokens - self.tokens)

    def tensors(self) -> list[torch.Tensor]:
        return [t for layer in self.cache.layers for t in (layer.keys, layer.values)]

    def copy_tensors(self) -> list[torch.Tensor]:
        return [t.clone() for t in self.tensors()] if self.tokens else []

    def digest(self) -> str:
        total = blake3()
        for tensor in self.tensors() if self.tokens else []:
            total.update(torch_bridge.tensor_leaf(tensor).data)
        return total.hexdigest()

    def capture(self) -> Capture:
        kv = LiveCache(self.cache) if why_unsupported(self.cache) is None else None
        return Capture(
            "test",
            {"text_context": {"note": self.note}, "tokens": {"n": self.tokens}},
            torch_bridge.to_leaf,
            tokens=self.tokens + 1,
            kv=kv,
            fingerprint=lambda: IDENTITY,
        )


class CacheTarget:
    """Wakes a `CacheSession`. `adopted` counts how often anything was handed over."""

    from_leaf = staticmethod(torch_bridge.from_leaf)

    def __init__(self, identity: Fingerprint = IDENTITY) -> None:
        self.identity, self.adopted = identity, 0

    def describe(self) -> TargetState:
        return TargetState(self.identity)

    def allocate(self, kv: KVCache) -> KVSink:
        return CacheSink(kv)

    def adopt(self, woken: Woken) -> CacheSession:
        self.adopted += 1
        cache = woken.kv.to_cache(None, "cpu") if isinstance(woken.kv, CacheSink) else DynamicCache()
        return CacheSession(cache, woken.layers["text_context"]["note"])

    def live(self, session: Any) -> LiveKV | None:
        return LiveCache(session.cache)


def static_cache(session: CacheSession, room: int) -> StaticCache:
    """Copy a session's tokens into a StaticCache, which is written in place."""
    from transformers import Qwen3Config

    config = Qwen3Config(
        num_hidden_layers=session.layers,
        num_key_value_heads=session.heads,
        num_attention_heads=session.heads,
        head_dim=session.dim,
    )
    cache = StaticCache(config, max_cache_len=room)
    for i, layer in enumerate(session.cache.layers):
        cache.update(layer.keys, layer.values, i)
    return cache
