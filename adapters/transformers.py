"""Sessions of `Qwen3VLForConditionalGeneration` and of any causal LM with a DynamicCache.

What must be kept for a session to go on bit for bit was found by trying (see docs/ARCHITECTURE.md): the KV of every
layer, the exact ids with the last sampled but unfed one, the rope deltas (an attribute of the model, not of the cache),
grids and token types, the attention mask, the RNG state; and for a new prefill without pixels the pooled embeddings
with every deepstack tensor in order.
"""

from __future__ import annotations

from .chat import start_chat
from .session import TransformersSession
from .target import TransformersTarget
from .vision import Media, encode_images

__all__ = ["Media", "TransformersSession", "TransformersTarget", "encode_images", "start_chat"]
