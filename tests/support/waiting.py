"""Patience: what comes by itself is looked for until it is there, and a busy machine takes its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 60.0
_Value = TypeVar("_Value")


def until(look: Callable[[], _Value | None], what: object = "", wait_s: float = PATIENCE_S) -> _Value:
    """Look until there is something, and return it; `what` (or what it returns) says what was missed."""
    deadline = time.monotonic() + wait_s
    while not (found := look()):
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.01)
    return found
