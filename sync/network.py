"""Notice that the network changed or the machine slept, without asking again and again.

Linux tells of links, addresses and routes over a netlink socket. A suspended machine is told by two clocks: one counts
the time asleep, the other does not; they are compared at each event, and every few seconds while something waits.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

log = logging.getLogger("torpor.sync")

TICK_S = 5.0
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


class NetworkWatch:
    """A thread that calls `on_change` when the network changed or the machine woke up.

    It sleeps until something happens, and looks at the clocks only while `alert` says that something waits.
    """

    def __init__(
        self,
        on_change: Callable[[], None],
        alert: Callable[[], bool],
        *,
        asleep: Callable[[], float] = asleep_s,
        tick_s: float = TICK_S,
    ) -> None:
        self._on_change, self._alert, self._asleep, self._tick_s = on_change, alert, asleep, tick_s
        self._netlink = open_netlink()
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
        slept = self._asleep()
        while not self._stopping.is_set():
            ready = {fd for fd, _ in poll.poll(self._tick_s * 1000 if self._alert() else None)}
            changed = self._netlink is not None and self._netlink.fileno() in ready and self._drained()
            if self._nudge in ready:
                with suppress(BlockingIOError):
                    os.read(self._nudge, 4096)
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
