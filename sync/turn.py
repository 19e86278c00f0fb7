"""A push that runs: what is counted of it, and how it is ended early."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from ..state.outbox import Item, Stage, priority
from .ports import Interrupted

_WINDOW_S, _GRAIN_S = 10.0, 0.25  # over which the rate is taken, and what is counted together


class RunningPush:
    """The pump's view of a push (port `Turn`). Safe to use from several threads."""

    def __init__(
        self, items: Sequence[Item], wall: float, steady: Callable[[], float], keep: Callable[[], None]
    ) -> None:
        self.items, self.started_at, self._steady, self._keep = tuple(items), wall, steady, keep
        self.sent_bytes, self.over = 0, threading.Event()
        self._lock, self._ended, self._yielding = threading.Lock(), False, False
        self._recent: deque[tuple[float, int]] = deque()
        self._last = steady()

    @property
    def priority(self) -> int:
        """Return the place in the queue of what is being sent."""
        return min(priority(item.stage) for item in self.items)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Return the stages that are being sent; none for a removal."""
        return tuple(item.stage for item in self.items if item.stage is not None)

    @property
    def ended(self) -> bool:
        """Tell whether it was to end at once."""
        return self._ended

    def sent(self, size_bytes: int) -> None:
        """Count bytes. Raises: Interrupted."""
        if self._ended:
            raise Interrupted
        now = self._steady()
        with self._lock:
            self.sent_bytes += size_bytes
            self._last = now
            if self._recent and now - self._recent[-1][0] < _GRAIN_S:
                self._recent[-1] = (self._recent[-1][0], self._recent[-1][1] + size_bytes)
                return
            self._recent.append((now, size_bytes))
            while self._recent[0][0] < now - _WINDOW_S:
                self._recent.popleft()

    def next_blob(self) -> None:
        """Go on to another blob, unless the push is to end. Raises: Interrupted."""
        if self._ended or self._yielding:
            raise Interrupted
        self._keep()

    def end(self) -> None:
        """End it at once."""
        self._ended = True

    def give_way(self) -> None:
        """End it behind the blobs that are under way."""
        self._yielding = True

    def still_s(self) -> float:
        """Return for how long no byte went out."""
        return self._steady() - self._last

    def rate(self) -> float:
        """Return the bytes a second of the last seconds."""
        now = self._steady()
        with self._lock:
            recent = [(at, size) for at, size in self._recent if at >= now - _WINDOW_S]
        if not recent:
            return 0.0
        return sum(size for _, size in recent) / max(now - recent[0][0], 1.0)
