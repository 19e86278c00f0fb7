"""A cache for one step, over the tensors of another one that stays as it is.

Each layer answers the step with a copy of its tensors that holds the new token, and keeps nothing of it: memory is
needed for one layer at a time, not for a second cache.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer, StaticLayer

Pair = tuple[torch.Tensor, torch.Tensor]


class _DynamicView(DynamicLayer):  # type: ignore[misc]
    """Tokens below `length` of a layer; `seen` is what the step wanted to append."""

    def __init__(self, layer: Any, length: int) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = layer.keys[:, :, :length], layer.values[:, :, :length]
        self.seen: Pair | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Pair:
        self.seen = (key_states, value_states)
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


class _StaticView(StaticLayer):  # type: ignore[misc]
    """The same for a layer of fixed size: its tensors keep their full length, as kernels see it."""

    def __init__(self, layer: Any, length: int) -> None:
        super().__init__(max_cache_len=layer.max_cache_len)
        self.keys, self.values = layer.keys, layer.values
        self.dtype, self.device = layer.dtype, layer.device
        self.cumulative_length = torch.tensor(length, device=layer.device)
        self.is_initialized = True
        self.seen: Pair | None = None

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Pair:
        at = int(self.cumulative_length)
        self.seen = (key_states, value_states)
        keys, values = self.keys.clone(), self.values.clone()
        keys[:, :, at : at + 1], values[:, :, at : at + 1] = key_states, value_states
        return keys, values


class CacheView(Cache):  # type: ignore[misc]
    """The first `length` tokens of a supported cache (`why_unsupported`), for one step of one token."""

    def __init__(self, cache: Any, length: int) -> None:
        kinds = {DynamicLayer: _DynamicView, StaticLayer: _StaticView}
        super().__init__(layers=[kinds[type(layer)](layer, length) for layer in cache.layers])

    def seen(self) -> list[Pair]:
        """Return K and V of the token that was run, for each layer. Raises: ValueError if a layer was left out."""
        found = [layer.seen for layer in self.layers]
        if any(pair is None for pair in found):
            raise ValueError("the step did not go through every layer")
        return found
