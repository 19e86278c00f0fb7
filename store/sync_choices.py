"""The file `sync.json`: what the user said of the second copy: pause, limits, policy. It outlives a restart."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import orjson

from ..state.errors import BadInput
from ..state.kv_policy import KVPolicy, parse_policy
from .files import translated, write_private


@dataclass(frozen=True, slots=True)
class SyncChoices:
    """The choices. Times in seconds since the epoch, limits in bytes a second; None is without limit, or no pause.

    A pause that was made at `paused_at` ends at `paused_until`, or with None when it is ended.
    """

    paused_at: float | None = None
    paused_until: float | None = None
    up_limit: float | None = None
    down_limit: float | None = None
    kv_policy: KVPolicy = "auto"
    kv_daily_bytes: int | None = None

    def pause_left_s(self, now: float) -> float | None:
        """Return how long the pause goes on, None for ever; 0 without one.

        A clock that was set back does not make it longer than it was meant to be.
        """
        if self.paused_at is None:
            return 0.0
        if self.paused_until is None:
            return None
        return min(max(self.paused_until - now, 0.0), max(self.paused_until - self.paused_at, 0.0))


def read_sync_choices(path: Path) -> SyncChoices:
    """Return the choices; the defaults for a file that is not there, or one that was not written by us.

    Raises: StoreFailed.
    """
    with translated("read", path):
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return SyncChoices()
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return SyncChoices()
    return _choices(value) if isinstance(value, dict) else SyncChoices()


def write_sync_choices(path: Path, choices: SyncChoices) -> None:
    """Replace the file, durably. Raises: StoreFull, StoreFailed."""
    write_private(path, orjson.dumps(asdict(choices), option=orjson.OPT_INDENT_2))


def _choices(value: dict[str, Any]) -> SyncChoices:
    """Read what can be read: one bad value does not take the others with it."""
    found: dict[str, Any] = {}
    for each in fields(SyncChoices):
        given = value.get(each.name)
        if each.name == "kv_policy":
            try:
                found[each.name] = parse_policy(str(given))
            except BadInput:
                continue
        elif isinstance(given, (int, float)) and not isinstance(given, bool) and given > 0:
            found[each.name] = int(given) if each.name == "kv_daily_bytes" else float(given)
    return SyncChoices(**found)
