"""A plain nested dict in the four layers `metadata, vision_cache, text_context, config_snapshot`.

Values are JSON, bytes, numpy arrays and torch tensors of any dtype and shape; each comes back as what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..client.capture import Capture, KVSink, LiveKV, Woken
from ..codec import torch_bridge
from ..codec.tree import FromLeaf
from ..state.errors import UnsupportedState
from ..state.manifest import KVCache, LayerName
from ..state.plan import TargetState

PLAIN_LAYERS: tuple[LayerName, ...] = ("metadata", "vision_cache", "text_context", "config_snapshot")


class PlainSession:
    """A session that is nothing but its state."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.state = dict(state)

    def capture(self) -> Capture:
        """Copy the state. Raises: UnsupportedState on a layer or value that has no place."""
        unknown = set(self.state) - set(PLAIN_LAYERS)
        if unknown:
            raise UnsupportedState(
                f"unknown layers {sorted(map(str, unknown))}", hint=f"A plain state has {', '.join(PLAIN_LAYERS)}."
            )
        layers = {name: self.state[name] for name in PLAIN_LAYERS if name in self.state}
        return Capture("plain", layers, torch_bridge.to_leaf)


class PlainTarget:
    """Takes every layer as it was stored; KV blocks, which only an engine can use, are left alone."""

    from_leaf: FromLeaf = staticmethod(torch_bridge.from_leaf)

    def describe(self) -> TargetState:
        """Tell that nothing has to match."""
        return TargetState(as_stored=True, takes=PLAIN_LAYERS)

    def allocate(self, kv: KVCache) -> KVSink:
        """Refuse: there is no engine that could use KV blocks. Raises: UnsupportedState."""
        raise UnsupportedState(f"a plain target cannot hold a {kv.cache_class}")

    def adopt(self, woken: Woken) -> PlainSession:
        """Make a session of the layers."""
        return PlainSession({name: value for name, value in woken.layers.items() if name in PLAIN_LAYERS})

    def live(self, session: Any) -> LiveKV | None:
        """Return None: there is no live cache."""
        return None
