"""What tells this home from others that use the same bucket, and this run of the machine from others."""

from __future__ import annotations

import re
import secrets
from functools import cache
from pathlib import Path

from .files import translated, write_private

_MACHINE = re.compile(r"[0-9a-f]{16}")


def machine_id(path: Path) -> str:
    """Return the id of this home, made at the first call, durably. Raises: StoreFull, StoreFailed.

    One that cannot be read is made anew: records under the old one are then another machine's, which is harmless.
    """
    with translated("read", path):
        try:
            found = path.read_text("ascii", "replace").strip()
        except FileNotFoundError:
            found = ""
    if _MACHINE.fullmatch(found):
        return found
    made = secrets.token_hex(8)
    write_private(path, made.encode() + b"\n")
    return made


@cache
def boot_id() -> str:
    """Return what names this run of the machine: another one after a reboot, which no process outlives."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "no-boot-id"
