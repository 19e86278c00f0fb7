"""Notice when a live DynamicCache loses tokens it had.

The cache object gets a subclass of its own class whose `crop`, `reset` and the batch operations tell the watch before
and after. Nothing else changes: `isinstance` holds, the class keeps its name, and a copy or a pickle of the cache is
of the original class, unwatched.
"""

from __future__ import annotations

import copyreg
import threading
import weakref
from typing import Any, Protocol

_SHRINKING = ("crop", "reset")
_REWRITING = ("reorder_cache", "batch_repeat_interleave", "batch_select_indices")


class Follower(Protocol):
    """Somebody who still has to read the tensors as they are now."""

    def freeze(self) -> None:
        """Take hold of the tensors: they are about to change."""
        ...


class Watch:
    """What is known of one live cache: its leading tokens below `unchanged` are as they were at the last mark.

    `fed` is how many tokens it was given and did not give back by `crop` or `reset`. Holds it fewer, some were evicted.
    """

    def __init__(self) -> None:
        self.unchanged = self.fed = 0
        self._followers: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()

    def follow(self, follower: Follower) -> None:
        """Have a follower told before the next change."""
        with self._lock:
            self._followers.add(follower)

    def before_change(self) -> None:
        """Let every follower take hold."""
        with self._lock:
            followers = list(self._followers)
            self._followers.clear()
        for follower in followers:
            follower.freeze()

    def after_change(self, unchanged: int, length: int) -> None:
        """Note how many leading tokens survived unchanged, and how many there are."""
        self.unchanged, self.fed = min(self.unchanged, unchanged), min(self.fed, length)


def watch(live_cache: Any) -> Watch:
    """Return the watch of a cache, attached on the first call."""
    found = live_cache.__dict__.get("_torpor_watch")
    if isinstance(found, Watch):
        return found
    attached = Watch()
    live_cache.__class__ = _watched_class(type(live_cache))
    live_cache._torpor_watch = attached
    return attached


def fed_tokens(live_cache: Any) -> int:
    """Return how many tokens a cache is known to have been fed; 0 if nobody watches it."""
    found = live_cache.__dict__.get("_torpor_watch")
    return found.fed if isinstance(found, Watch) else 0


def plain_class(live_cache: Any) -> type:
    """Return the class that a cache has without its watch."""
    cls = type(live_cache)
    return getattr(cls, "_torpor_base", cls)


_classes: dict[type, type] = {}


def _watched_class(base: type) -> type:
    if base not in _classes:
        _classes[base] = _make_watched_class(base)
    return _classes[base]


def _make_watched_class(base: type) -> type:
    members: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": _reduce,
        "_torpor_base": base,
    }
    for name in (*_SHRINKING, *_REWRITING):
        if hasattr(base, name):
            members[name] = _telling(base, name)
    return type(base.__name__, (base,), members)


def _telling(base: type, name: str) -> Any:
    original = getattr(base, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        state: Watch = self._torpor_watch
        state.before_change()
        if name in _REWRITING:
            state.after_change(0, self.get_seq_length())
        try:
            return original(self, *args, **kwargs)
        finally:
            length = self.get_seq_length()
            state.after_change(length if name in _SHRINKING else 0, length)

    method.__name__, method.__doc__ = name, original.__doc__
    return method


def _reduce(self: Any, protocol: Any) -> Any:
    """Copy and pickle as the original class, without the watch."""
    state = {key: value for key, value in self.__dict__.items() if key != "_torpor_watch"}
    return copyreg.__newobj__, (plain_class(self),), state  # type: ignore[attr-defined]
