"""Notice that the network changed or the machine slept, without asking again and again.

Linux tells of links, addresses and routes over a netlink socket, and of a wall clock that jumps through a timer that is
cancelled by it: it jumps when the machine wakes up, and when somebody sets it. Whether the machine slept is told by two
clocks besides, of which one counts the time asleep; they are compared at each event, and seldom while something waits.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

log = logging.getLogger("torpor.sync")

TICK_S, SELDOM_S = (
    5.0,
    60.0,
)  # between two looks at the clocks; seldom where the kernel tells of jumps
SETTLE_S = 0.2  # a change of the network comes as a burst
SLEPT_S = 2.0  # clocks are further apart than by any pause of ours
CONNECT_S, STOP_S = 3.0, 2.0
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # links; addresses and routes of IPv4 and of IPv6


def steady_clock() -> float:
    """Return seconds of a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def asleep_s() -> float:
    """Return for how many seconds the machine has slept since it started."""
    return steady_clock() - time.monotonic()


def can_connect(host: str, port: int, timeout_s: float = CONNECT_S) -> bool:
    """Tell whether somebody listens there: names are looked up, and no byte is sent."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except (OSError, UnicodeError):
        return False
    return True


def open_netlink() -> socket.socket | None:
    """Open a socket that becomes readable at each change of the network; None where that is not to be had."""
    family = getattr(socket, "AF_NETLINK", None)
    if family is None:
        return None
    try:
        found = socket.socket(family, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    except OSError:
        return None
    try:
        found.bind((0, _GROUPS))
    except OSError:
        found.close()
        return None
    return found


class _Times(ctypes.Structure):
    """`struct itimerspec`: seconds and nanoseconds of the interval, and of the time."""

    _fields_ = tuple((name, ctypes.c_long) for name in ("every_s", "every_ns", "at_s", "at_ns"))


def open_clock_jumps() -> int | None:
    """Open a file that becomes readable when the wall clock jumps; None where that is not to be had.

    Source: timerfd_create(2), TFD_TIMER_CANCEL_ON_SET; timekeeping_resume of Linux tells such timers too.
    """
    try:
        libc = ctypes.CDLL(None)
        found = int(libc.timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC))
    except (OSError, AttributeError):
        return None
    if found < 0:
        return None
    never = min(1 << 40, (1 << 8 * ctypes.sizeof(ctypes.c_long) - 1) - 1)
    absolute, cancel_on_set = 1, 2
    if libc.timerfd_settime(found, absolute | cancel_on_set, ctypes.byref(_Times(0, 0, never, 0)), None):
        os.close(found)
        return None
    return found


class NetworkWatch:
    """A thread that calls `on_change` when the network changed, the machine woke up, or its clock was set.

    It sleeps until something happens, and looks at the clocks only while `alert` says that something waits.
    """

    def __init__(
        self,
        on_change: Callable[[], None],
        alert: Callable[[], bool],
        *,
        asleep: Callable[[], float] = asleep_s,
        tick_s: float | None = None,
        clock_jumps: Callable[[], int | None] = open_clock_jumps,
    ) -> None:
        self._on_change, self._alert, self._asleep = on_change, alert, asleep
        self._netlink, self._jumps = open_netlink(), clock_jumps()
        self._tick_s = (TICK_S if self._jumps is None else SELDOM_S) if tick_s is None else tick_s
        self._nudge, self._nudged = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._stopping, self._closing, self._closed = threading.Event(), threading.Lock(), False
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End at once; a second time changes nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self.nudge()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
        if self._thread.is_alive():
            return
        with self._closing:
            self._closed = True
            os.close(self._nudge)
            os.close(self._nudged)
        if self._netlink is not None:
            self._netlink.close()
        if self._jumps is not None:
            os.close(self._jumps)

    def nudge(self) -> None:
        """Ask `alert` again: something waits from now on, or no longer."""
        with self._closing, suppress(BlockingIOError):  # full: it is nudged enough
            if not self._closed:
                os.write(self._nudged, b"!")

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._nudge, select.POLLIN)
        if self._netlink is not None:
            poll.register(self._netlink, select.POLLIN)
        if self._jumps is not None:
            poll.register(self._jumps, select.POLLIN)
        slept = self._asleep()
        while not self._stopping.is_set():
            ready = {fd for fd, _ in poll.poll(self._tick_s * 1000 if self._alert() else None)}
            changed = self._netlink is not None and self._netlink.fileno() in ready and self._drained()
            if self._nudge in ready:
                with suppress(BlockingIOError):
                    os.read(self._nudge, 4096)
            if self._jumps is not None and self._jumps in ready:
                changed = True
                with suppress(OSError):  # ECANCELED says that it was cancelled, and sets it again
                    os.read(self._jumps, 8)
            before, slept = slept, self._asleep()
            if (changed or slept - before > SLEPT_S) and not self._stopping.is_set():
                self._on_change()

    def _drained(self) -> bool:
        """Read away a burst of messages: what they say does not matter, only that there were some."""
        assert self._netlink is not None
        self._stopping.wait(SETTLE_S)
        with suppress(OSError):  # nothing left; or more came than the system kept, which says the same
            while self._netlink.recv(65536):
                pass
        return True
