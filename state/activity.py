"""What happened, day by day or hour by hour, as a chart shows it. Pure.

It is counted by quarters of an hour: the offset of every time zone from UTC is a multiple of one, so the days of any
zone are made of whole ones, on the days when its clocks change too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Literal

Step = Literal["day", "hour"]
QUARTER_S = 900
HOUR_S, DAY_S = 3600, 86_400


@dataclass(frozen=True, slots=True)
class Quarter:
    """What happened in the quarter of an hour that begins `at` seconds since the epoch."""

    at: float
    backups: int = 0
    bytes_written: int = 0
    restores: int = 0


@dataclass(frozen=True, slots=True)
class Point:
    """What happened from `at` on, until the next point."""

    at: float
    backups: int = 0
    bytes_written: int = 0
    restores: int = 0


def starts(now: float, days: int, step: Step, zone: tzinfo) -> list[float]:
    """Return where the steps of the last days begin: at a local midnight, the last one today's."""
    today = datetime.fromtimestamp(now, zone).date()
    midnights = [_midnight(today - timedelta(days=days - 1 - n), zone) for n in range(days)]
    if step == "day":
        return midnights
    return [midnights[0] + n * HOUR_S for n in range(int((now - midnights[0]) // HOUR_S) + 1)]


def _midnight(day: date, zone: tzinfo) -> float:
    return datetime.combine(day, time(), zone).timestamp()


def fold(quarters: Iterable[Quarter], begins: list[float]) -> list[Point]:
    """Add quarters up into steps that begin so, each step there, empty ones too; what is older is left out.

    What a clock that is ahead has dated tomorrow counts in the last step.
    """
    points = [Point(at) for at in begins]
    for quarter in quarters:
        number = bisect_right(begins, quarter.at) - 1
        if number < 0:
            continue
        there = points[number]
        points[number] = replace(
            there,
            backups=there.backups + quarter.backups,
            bytes_written=there.bytes_written + quarter.bytes_written,
            restores=there.restores + quarter.restores,
        )
    return points
