"""What an SDK tells with a commit: how long the save has taken so far, and how long it held its caller. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import BadInput

LONGEST_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds from `save` to the commit, and of those the ones in which the caller waited."""

    save_s: float
    stall_s: float

    def to_header(self) -> str:
        """Write it as the value of a header."""
        return f"save={self.save_s:.6f}; stall={self.stall_s:.6f}"


def parse_timing(text: str) -> Timing:
    """Read the value of a header. Raises: BadInput."""
    parts = dict(part.strip().partition("=")[::2] for part in text.split(";"))
    if set(parts) != {"save", "stall"}:
        raise BadInput("a timing is `save=SECONDS; stall=SECONDS`")
    return Timing(parse_seconds(parts["save"]), parse_seconds(parts["stall"]))


def parse_seconds(value: object) -> float:
    """Read a duration in seconds. Raises: BadInput."""
    try:
        seconds = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_S:
        raise BadInput("a duration is a number of seconds, at most a day")
    return seconds
