"""Which KV caches have a block form, and in plain words why the others have none.

A block form needs, for every token, its keys and values as the model computed them, at a position that follows from
their place. What is refused here is prefilled again from the token ids; nothing of it is opened by mistake.
"""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache, StaticCache, StaticLayer

from ..state.tensors import DTYPE_SIZES
from .cache_watch import fed_tokens, plain_class

# By the name of a layer's class or of one that it is derived from: which exist depends on the library's version.
_LAYERS = {
    "LinearAttentionCacheLayerMixin": "linear attention, whose state is one for all tokens and has no positions",
    "DynamicSlidingWindowLayer": "a sliding window, and what fell out of it is gone",
    "StaticSlidingWindowLayer": "a sliding window, and what fell out of it is gone",
    "BaseQuantizedLayer": "quantised, in a form of the backend's own",
    "QuantizedLayer": "quantised, in a form of the backend's own",
    "DynamicIndexedLayer": "sparse attention with an index beside keys and values",
    "StaticIndexedLayer": "sparse attention with an index beside keys and values",
    "DummyLayer": "without keys and values of its own",
}


def why_unsupported(cache: Any) -> str | None:
    """Return why a cache has no block form here, or None when it has one."""
    if not isinstance(cache, Cache):
        return f"a {type(cache).__name__} is not a transformers Cache"
    if isinstance(cache, EncoderDecoderCache):
        return "an EncoderDecoderCache is two caches, one of them of the encoder's input"
    if getattr(cache, "offloading", False):
        return "an offloaded cache moves between host and device while it is used"
    if not cache.layers:
        return "the cache is empty"
    for i, layer in enumerate(cache.layers):
        if type(layer) not in (DynamicLayer, StaticLayer):
            return f"layer {i} is {_kind(layer)}"
        if not layer.is_initialized:
            return f"layer {i} holds nothing yet"
    cls = plain_class(cache)
    if cls not in (DynamicCache, StaticCache) or len({type(layer) for layer in cache.layers}) > 1:
        return f"a {cls.__name__} counts positions in a way of its own"
    return _why_odd(cache)


def _kind(layer: Any) -> str:
    name = type(layer).__name__
    known = next((_LAYERS[cls.__name__] for cls in type(layer).__mro__ if cls.__name__ in _LAYERS), None)
    return f"a {name}, which is not kept in token blocks" if known is None else f"{known} ({name})"


def _why_odd(cache: Any) -> str | None:
    """Return why the tensors of plain layers are not those of one sequence of tokens."""
    lengths = {int(layer.get_seq_length()) for layer in cache.layers}
    if len(lengths) != 1:
        return f"the cache is torn or pruned: its layers hold {sorted(lengths)} tokens"
    length = lengths.pop()
    if length == 0:
        return "the cache is empty"
    # Other libraries' evicting caches count what they were fed under one of these names.
    claimed = [int(getattr(cache, name, 0) or 0) for name in ("_seen_tokens", "seen_tokens")]
    fed = max(fed_tokens(cache), *claimed)
    if length < fed:
        return (
            f"the cache was pruned: it holds {length} of the {fed} tokens that it was fed, and which of them does not "
            "follow from its length"
        )
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    dtypes, batches = {t.dtype for t in tensors}, {t.shape[0] for t in tensors}
    if len(dtypes) != 1 or str(tensors[0].dtype).removeprefix("torch.") not in DTYPE_SIZES:
        return f"the cache has tensors of {', '.join(sorted(map(str, dtypes)))}"
    return f"its layers have {sorted(batches)} rows" if len(batches) != 1 else None
