"""What the daemon remembers for others: values that may be forgotten, since they can be found again."""

from __future__ import annotations

import re
from typing import Literal

from .errors import BadInput

# `digest`: digests of files and of loaded models (what was hashed, by what proves that it is the same still).
# `rate`: how fast things went on this machine.
# `sync`: what was found out about the storage, and what went there today.
Kind = Literal["digest", "rate", "sync"]
KINDS: tuple[Kind, ...] = ("digest", "rate")  # that others may ask for
MAX_VALUE_BYTES = 4 << 20  # of its JSON
MAX_ENTRIES = 2_000  # of a kind; the least recently used go
_KEY = re.compile(r"[0-9a-z:_.-]{1,200}")


def parse_kind(text: str) -> Kind:
    """Check a kind. Raises: BadInput."""
    for kind in KINDS:
        if kind == text:
            return kind
    raise BadInput(f"{text[:40]!r} is not a kind of remembered value", hint=f"Kinds: {', '.join(KINDS)}.")


def parse_key(text: str) -> str:
    """Check a key. Raises: BadInput."""
    if _KEY.fullmatch(text) is None:
        raise BadInput(f"{text[:40]!r} is not a key", hint="Keys are 1 to 200 of 0-9 a-z : _ . -")
    return text
