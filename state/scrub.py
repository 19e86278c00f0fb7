"""How the background re-reading of blobs keeps its rate, and when it rests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

CATCH_UP_S = 1.0  # of reading that may be made good: what was late for longer (a suspended machine) is not
_OUTLETS = ("Mains", "USB", "Wireless")


class Pace:
    """Spreads reads over time. The mean is exact over any span that is long against `CATCH_UP_S`."""

    def __init__(self, rate_bytes_s: float, now: float) -> None:
        self._rate, self._due = rate_bytes_s, now

    def delay_s(self, count: int, now: float) -> float:
        """Count bytes that were read, and return how long to wait before the next ones."""
        self._due = max(self._due, now - CATCH_UP_S) + count / self._rate
        return max(self._due - now, 0.0)


def on_battery(supplies: Iterable[Mapping[str, str]]) -> bool:
    """Tell whether a machine runs on its battery, by what the kernel says of its supplies.

    The battery of a mouse (`scope` is `Device`) says nothing of the machine.
    Source: Documentation/ABI/testing/sysfs-class-power of Linux.
    """
    own = [each for each in supplies if each.get("scope") != "Device"]
    if any(each.get("type") in _OUTLETS and each.get("online") == "1" for each in own):
        return False
    return any(each.get("type") == "Battery" and each.get("status") == "Discharging" for each in own)
