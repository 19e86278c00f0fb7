"""What was found out about a storage, kept in the index: losing it costs a few small requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from ..db.remembered import Remembered

KEY = "quirks"


class RememberedQuirks:
    """The port `QuirksMemory` over the index."""

    def __init__(self, remembered: Remembered, clock: Callable[[], float]) -> None:
        self._remembered, self._clock = remembered, clock

    def read(self) -> Mapping[str, Any] | None:
        """Return what was remembered."""
        text = self._remembered.get("sync", KEY, now=self._clock())
        found = None if text is None else orjson.loads(text)
        return found if isinstance(found, dict) else None

    def write(self, found: Mapping[str, Any]) -> None:
        """Remember what can be written as JSON."""
        self._remembered.put("sync", KEY, orjson.dumps(dict(found)).decode(), now=self._clock())
