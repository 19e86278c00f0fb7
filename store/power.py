"""What the kernel says of batteries and outlets."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

SUPPLIES = Path("/sys/class/power_supply")
_NAMES = ("type", "online", "status", "scope")


def read_supplies(folder: Path = SUPPLIES) -> list[dict[str, str]]:
    """Return what is known of each supply; a machine that has no such folder has no battery."""
    found: list[dict[str, str]] = []
    with suppress(OSError):
        for supply in sorted(folder.iterdir()):
            values: dict[str, str] = {}
            for name in _NAMES:
                with suppress(OSError):
                    values[name] = (supply / name).read_text(errors="replace").strip()
            found.append(values)
    return found
