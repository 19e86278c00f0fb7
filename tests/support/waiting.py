"""Patience: what comes by itself is looked for until it is there, and a busy machine takes its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 60.0
_Value = TypeVar("_Value")


def until(look: Callable[[], _Value | None], what: object = "", wait_s: float = PATIENCE_S) -> _Value:
    """Look until there is something, and return it; `what` (or what it returns) says what was missed.

    The longer it takes, the less often: who looks all the time keeps a busy machine from what is waited for.
    """
    began = time.monotonic()
    while not (found := look()):
        waited_s = time.monotonic() - began
        assert waited_s < wait_s, what() if callable(what) else what
        time.sleep(min(0.01 + waited_s / 10, 0.25))
    return found
