"""The time that TTLs are judged by, as this machine's clocks give it (state/trusted_clock.py decides)."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ..state.errors import TorporError
from ..state.trusted_clock import Judged, Reading, first_anchor, judge
from ..store.clock_anchor import read_anchor, write_anchor
from ..store.machine import boot_id

log = logging.getLogger("torpor.clock")
KEPT_EVERY_S = 600.0  # the anchor on disk is no older, so a restart loses no more than that
_TIME_ERROR = 5  # adjtimex: the clock is not synchronised
_TIMEX_BYTES = 512  # more than `struct timex` has anywhere


def read_clocks() -> Reading:
    """Read this machine's clocks."""
    up_s = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
    return Reading(time.time(), up_s, boot_id(), _is_synchronised())


def _is_synchronised() -> bool:
    """Tell whether the kernel's clock is kept right by a server; one that was set by hand is not, from then on."""
    adjtimex = _adjtimex()
    return adjtimex is not None and 0 <= adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) < _TIME_ERROR


@cache
def _adjtimex() -> Callable[[Any], int] | None:
    try:
        found: Callable[[Any], int] = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    return found


class TrustedTime:
    """The trusted time of one home. Safe to call from several threads.

    `newest_at` tells when the newest backup was made: all that is known of the time where no anchor was kept.
    """

    def __init__(
        self, path: Path, newest_at: Callable[[], float | None], read: Callable[[], Reading] = read_clocks
    ) -> None:
        self._path, self._newest_at, self._read = path, newest_at, read
        self._lock = threading.Lock()
        self._anchor = read_anchor(path)
        self._kept_at: float | None = None  # in seconds of the machine's run
        self._told = False

    def now(self, server_at: float | None = None) -> float:
        """Return the trusted time; `server_at` is what the bucket's clock says now, if somebody has just asked it."""
        return self.judged(server_at).now

    def judged(self, server_at: float | None = None, *, believe: bool = False) -> Judged:
        """Return the trusted time, and why it is not the wall clock's. `believe`: the user says that this is right."""
        with self._lock:
            read = self._read()
            reading = Reading(read.wall, read.up_s, read.boot_id, read.synchronised, server_at)
            if self._anchor is None:
                self._anchor = first_anchor(self._newest_at(), reading)
            found = judge(self._anchor, reading, believe=believe)
            turned = self._anchor is None or found.anchor.sure != self._anchor.sure or believe
            self._anchor = found.anchor
            if turned or self._kept_at is None or not 0 <= reading.up_s - self._kept_at < KEPT_EVERY_S:
                self._keep(found, reading)
            self._tell(found)
        return found

    def _keep(self, found: Judged, reading: Reading) -> None:
        try:
            write_anchor(self._path, found.anchor)
            self._kept_at = reading.up_s
        except TorporError as error:
            log.warning("the time cannot be kept: %s", error.detail)

    def _tell(self, found: Judged) -> None:
        distrust = found.distrust is not None
        if distrust != self._told:
            if distrust:
                log.warning("TTLs go on by the time since the machine's start: %s", found.distrust)
            else:
                log.info("the clock is trusted again")
        self._told = distrust
