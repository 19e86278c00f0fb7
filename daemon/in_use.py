"""Backups that somebody is restoring: what they need is not let go of meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

IN_USE_S = 600.0  # behind the start of a restore


class InUse:
    """Backups that were asked for lately. It lives in memory: with the daemon, restores are gone or begin anew."""

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady, self._lock = steady, threading.Lock()
        self._since: dict[str, float] = {}

    def note(self, backup_ids: Iterable[str]) -> None:
        """Note that a restore begins."""
        now = self._steady()
        with self._lock:
            self._since.update(dict.fromkeys(backup_ids, now))

    def ids(self) -> frozenset[str]:
        """Return the backups that may be in use."""
        now = self._steady()
        with self._lock:
            self._since = {each: at for each, at in self._since.items() if now - at < IN_USE_S}
            return frozenset(self._since)
