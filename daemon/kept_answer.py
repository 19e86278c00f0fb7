"""An answer that is dear to make: it serves everybody until it is old, and is made once at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
FRESH_S = 1.0
AT_MOST = 20  # times as long as it took to make is it kept


class KeptAnswer(Generic[T]):
    """The last answer of `make`. Safe to use from several threads."""

    def __init__(self, make: Callable[[], T], steady: Callable[[], float] = time.monotonic) -> None:
        self._make, self._steady, self._making = make, steady, threading.Lock()
        self._kept: tuple[T, float] | None = None
        self._old_at = float("-inf")

    def get(self) -> tuple[T, float]:
        """Return an answer and how old it is in seconds. While a new one is made, others get the old one."""
        kept = self._kept
        if self._steady() < self._old_at and kept is not None:
            return self._aged(kept)
        if not self._making.acquire(blocking=kept is None):
            assert kept is not None
            return self._aged(kept)
        try:
            if self._kept is kept:  # nobody else made one while this one waited
                self._renew()
        finally:
            self._making.release()
        assert self._kept is not None
        return self._aged(self._kept)

    def _renew(self) -> None:
        began = self._steady()
        self._kept = (self._make(), began)
        ended = self._steady()
        self._old_at = ended + max(FRESH_S, AT_MOST * (ended - began))

    def _aged(self, kept: tuple[T, float]) -> tuple[T, float]:
        return kept[0], max(self._steady() - kept[1], 0.0)
