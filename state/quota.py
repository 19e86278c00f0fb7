"""How much disk the home may take: limits as the user writes them, and what of them is left.

```
0 ──────────────── soft ──────── hard - reserve ── hard
   nothing happens  │  eviction  │  text and tokens only
```

Behind the soft limit what can be had again is let go. The last `reserve_bytes` are for text and tokens, so that a save
whose KV cache is refused still has room for them. Nothing is admitted that would pass the hard limit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from .errors import InvalidSettings

GIB = 1 << 30
FLOOR_SHARE, FLOOR_MOST = 0.05, 5 * GIB  # of the disk, that others need too
RESERVE_SHARE, RESERVE_MOST = 0.05, GIB  # of the quota, for text and tokens
SMALL_BYTES = 1 << 20  # new bytes of a save for which nobody asks beforehand
BLOCK_BYTES = 4096  # of the file system: a file takes whole ones

Trouble = Literal["quota", "floor"]
_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_SIZE = re.compile(r"(\d{1,16}(?:\.\d{1,6})?)\s*([kmgtp]?)(i?b)?", re.ASCII | re.IGNORECASE)
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", re.ASCII)


def parse_limit(text: str, whole_bytes: int) -> int:
    """Return the bytes that `200GB`, `1.5T`, `4096` or, of `whole_bytes`, `20%` name; K, M, G are 1024-based.

    Raises: InvalidSettings.
    """
    wanted = text.strip()
    if share := _SHARE.fullmatch(wanted):
        if float(share[1]) <= 100:
            return int(whole_bytes * float(share[1]) / 100)
    elif found := _SIZE.fullmatch(wanted):
        number, unit = found[1], found[2]
        return int(float(number) * (1 << _SHIFTS[unit.lower()]))
    raise InvalidSettings(f"{text[:40]!r} is not a size", hint="Write 20% (of the disk), 200GB, 1.5T or bytes.")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the home may take, in bytes: at most `hard`, `soft` when it can be helped, `floor` left free on the disk."""

    hard_bytes: int
    soft_bytes: int
    floor_bytes: int
    reserve_bytes: int


def limits_of(disk_bytes: int, quota: str, soft_quota: str, free_floor: str | None) -> Limits:
    """Return the limits on a disk of some size. Raises: InvalidSettings."""
    hard = parse_limit(quota, disk_bytes)
    soft = min(parse_limit(soft_quota, hard), hard)
    floor = (
        min(int(disk_bytes * FLOOR_SHARE), FLOOR_MOST) if free_floor is None else parse_limit(free_floor, disk_bytes)
    )
    return Limits(hard, soft, floor, min(int(hard * RESERVE_SHARE), RESERVE_MOST))


@dataclass(frozen=True, slots=True)
class Disk:
    """How full it is, in bytes: what the home takes, what was promised and is not written yet, what is free."""

    used_bytes: int
    promised_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Shortfall:
    """How many bytes must go before something fits, and by which limit."""

    size_bytes: int
    trouble: Trouble


def shortfall(limits: Limits, disk: Disk, wanted_bytes: int, *, text: bool) -> Shortfall | None:
    """Tell what is missing for some new bytes; None when they fit.

    Text and tokens may use all of the quota, and what is left of the disk: they are small, and cannot be had again.
    """
    top = limits.hard_bytes - (0 if text else limits.reserve_bytes)
    over = disk.used_bytes + disk.promised_bytes + wanted_bytes - top
    below = limits.floor_bytes - (disk.free_bytes - disk.promised_bytes - wanted_bytes)
    if not text and below > max(over, 0):
        return Shortfall(below, "floor")
    return Shortfall(over, "quota") if over > 0 else None


def can_ever_fit(limits: Limits, wanted_bytes: int, *, text: bool) -> bool:
    """Tell whether some bytes would fit an empty home: when not, nothing is let go for them."""
    return wanted_bytes <= limits.hard_bytes - (0 if text else limits.reserve_bytes)


def unasked_bytes(limits: Limits, disk: Disk) -> int:
    """Return how many new bytes a save may write without asking first: few, and none when it is getting tight.

    A hundred times over, since others may do the same in this moment.
    """
    return SMALL_BYTES if shortfall(limits, disk, 100 * SMALL_BYTES, text=False) is None else 0


def on_disk(size_bytes: int) -> int:
    """Return the bytes that a file takes on the disk."""
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def in_words(size_bytes: int) -> str:
    """Write a number of bytes for a person."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size_bytes >= 1 << shift:
            return f"{size_bytes / (1 << shift):.1f} {unit}"
    return f"{size_bytes} bytes"
