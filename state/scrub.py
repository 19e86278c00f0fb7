"""How the background re-reading of blobs keeps its rate."""

from __future__ import annotations

CATCH_UP_S = 1.0  # of reading that may be made good: what was late for longer (a suspended machine) is not


class Pace:
    """Spreads reads over time. The mean is exact over any span that is long against `CATCH_UP_S`."""

    def __init__(self, rate_bytes_s: float, now: float) -> None:
        self._rate, self._due = rate_bytes_s, now

    def delay_s(self, count: int, now: float) -> float:
        """Count bytes that were read, and return how long to wait before the next ones."""
        self._due = max(self._due, now - CATCH_UP_S) + count / self._rate
        return max(self._due - now, 0.0)
