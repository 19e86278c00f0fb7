"""Small facts of the remote side that may be forgotten, in the index: what was found out about a storage, and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from ..db.remembered import Remembered


class SyncMemory:
    """Values of the kind `sync` by key, as JSON."""

    def __init__(self, remembered: Remembered, clock: Callable[[], float]) -> None:
        self._remembered, self._clock = remembered, clock

    def read(self, key: str) -> Any:
        """Return a value; None where there is none."""
        text = self._remembered.get("sync", key, now=self._clock())
        return None if text is None else orjson.loads(text)

    def write(self, key: str, value: object) -> None:
        """Remember a value. Durability: on return it survives power loss."""
        self._remembered.put("sync", key, orjson.dumps(value).decode(), now=self._clock())


class QuirksMemory:
    """The port of that name over one key."""

    def __init__(self, memory: SyncMemory, key: str) -> None:
        self._memory, self._key = memory, key

    def read(self) -> Mapping[str, Any] | None:
        """Return what was remembered."""
        found = self._memory.read(self._key)
        return found if isinstance(found, dict) else None

    def write(self, found: Mapping[str, Any]) -> None:
        """Remember what can be written as JSON."""
        self._memory.write(self._key, dict(found))
