"""Kill the process at a named crash point: `TORPOR_CRASH_AT=name`, or `name:3` for the third time.

This is how the fault tests stop a real process between two durable steps; unset, it costs one dictionary look-up at
start-up and nothing after.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping

from ..state.crash_points import CRASH_POINTS, Checkpoint, no_checkpoint
from ..state.errors import InvalidSettings

VARIABLE = "TORPOR_CRASH_AT"


def from_environment(environment: Mapping[str, str]) -> Checkpoint:
    """Return the checkpoint that the environment asks for. Raises: InvalidSettings on an unknown name."""
    text = environment.get(VARIABLE, "")
    if not text:
        return no_checkpoint
    name, _, count = text.partition(":")
    if name not in CRASH_POINTS or not (count or "1").isdecimal():
        raise InvalidSettings(f"{VARIABLE}={text!r} names no crash point")
    return _Crash(name, int(count or "1"))


class _Crash:
    def __init__(self, name: str, passes: int) -> None:
        self._name, self._left, self._lock = name, passes, threading.Lock()

    def __call__(self, name: str) -> None:
        if name != self._name:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
