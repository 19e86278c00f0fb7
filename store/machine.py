"""The file `machine-id`: what tells this home from others that use the same bucket."""

from __future__ import annotations

import re
import secrets
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
