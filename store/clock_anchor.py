"""The last moment whose time was trusted, kept over restarts (state/trusted_clock.py)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson

from ..state.trusted_clock import Anchor
from .files import write_private

MAX_BYTES = 4096


def read_anchor(path: Path) -> Anchor | None:
    """Return what was kept; None when there is none, or it cannot be read: then nothing is known of the time."""
    try:
        with path.open("rb") as file:
            raw: Any = orjson.loads(file.read(MAX_BYTES))
        numbers = [float(raw[name]) for name in ("trusted", "up_s", "seen")]
        boot_id, sure = raw["boot_id"], raw["sure"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not all(map(math.isfinite, numbers)) or not isinstance(boot_id, str) or not isinstance(sure, bool):
        return None
    return Anchor(numbers[0], numbers[1], boot_id, numbers[2], sure)


def write_anchor(path: Path, anchor: Anchor) -> None:
    """Keep a moment, durably. Raises: StoreFull, StoreFailed."""
    body = {
        "trusted": anchor.trusted,
        "up_s": anchor.up_s,
        "boot_id": anchor.boot_id,
        "seen": anchor.seen,
        "sure": anchor.sure,
    }
    write_private(path, orjson.dumps(body, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))
