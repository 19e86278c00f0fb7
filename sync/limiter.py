"""A bandwidth limit: a token bucket for each direction, shared by all threads, changed at any time.

It is asked by the transport itself and is no decorator over Bucket: a body is read to be signed and summed before it is
sent, which costs no bandwidth, and the time that the limit holds a transfer back must not count against its deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..state.errors import BadInput

BURST_S = 0.25  # how much of a second may go at once: smooth enough for whoever shares the line
LEAST_BYTES, SHORTEST_WAIT_S, LONGEST_WAIT_S = 1024, 0.001, 0.25


class Limiter:
    """Bytes per second up and down; None is without limit.

    `sleep` waits for that many seconds, or shorter: what it slept is not trusted, the clock is asked again. So whoever
    closes the bucket, or lifts the limit, is waited for no longer than LONGEST_WAIT_S.
    """

    def __init__(
        self,
        up: float | None = None,
        down: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._up, self._down = _Flow(clock, up), _Flow(clock, down)
        self._sleep = sleep

    def set(self, *, up: float | None, down: float | None) -> None:
        """Change the limits; transfers that wait follow at once. Raises: BadInput."""
        self._up.limit(up)
        self._down.limit(down)

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """Return the limits: up, down."""
        return self._up.rate, self._down.rate

    def up(self, wanted: int, is_over: Callable[[], bool]) -> int:
        """Wait until some bytes may be sent; return how many, at most `wanted`. Nothing more is held back once over."""
        return self._take(self._up, wanted, is_over)

    def down(self, wanted: int, is_over: Callable[[], bool]) -> int:
        """Wait until some bytes may be received; return how many, at most `wanted`."""
        return self._take(self._down, wanted, is_over)

    def _take(self, flow: _Flow, wanted: int, is_over: Callable[[], bool]) -> int:
        while not is_over():
            granted, wait_s = flow.take(wanted)
            if granted:
                return granted
            self._sleep(min(max(wait_s, SHORTEST_WAIT_S), LONGEST_WAIT_S))
        return wanted


class _Flow:
    """One direction."""

    def __init__(self, clock: Callable[[], float], rate: float | None) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._tokens, self._filled_at = 0.0, clock()
        self.rate: float | None = None
        self.limit(rate)

    def limit(self, rate: float | None) -> None:
        if rate is not None and not rate > 0:
            raise BadInput("a bandwidth limit is a number of bytes per second above zero")
        with self._lock:
            self.rate = rate
            self._tokens, self._filled_at = 0.0, self._clock()

    def take(self, wanted: int) -> tuple[int, float]:
        """Return how many bytes may go now, and if none, in how many seconds some may."""
        with self._lock:
            if self.rate is None:
                return wanted, 0.0
            now = self._clock()
            burst = max(self.rate * BURST_S, LEAST_BYTES)
            self._tokens = min(burst, self._tokens + max(0.0, now - self._filled_at) * self.rate)
            self._filled_at = now
            least = min(wanted, LEAST_BYTES)
            if self._tokens < least:
                return 0, (least - self._tokens) / self.rate
            granted = min(wanted, int(self._tokens))
            self._tokens -= granted
            return granted, 0.0
