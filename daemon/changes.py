"""That something changed: noted by whoever changes it, in any thread, and heard by whoever waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Changes:
    """Counts changes and tells listeners of them. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock, self._number = threading.Lock(), 0
        self._listeners: tuple[Callable[[], None], ...] = ()

    @property
    def number(self) -> int:
        """Return how many there were: as long as it stays, nothing changed."""
        return self._number

    def note(self) -> None:
        """Note a change. Listeners hear of it in this thread, behind the count."""
        with self._lock:
            self._number += 1
        for told in self._listeners:
            told()

    def listen(self, told: Callable[[], None]) -> None:
        """Call a function at each change; it must neither wait nor raise."""
        with self._lock:
            self._listeners = (*self._listeners, told)
