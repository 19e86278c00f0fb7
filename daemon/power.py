"""Whether heavy work may be done now: not on battery, unless the user said so. Who waits is told when that changes.

Nobody asks again and again: the kernel tells of its supplies, in a thread that sleeps until it does.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Iterable, Mapping

from ..state.power import ON_BATTERY, on_battery
from ..store.power import open_uevents, read_supplies, told_of_power

log = logging.getLogger("torpor.power")
SETTLE_S = 1.0  # a plug that is put in comes as a burst, and the battery says so a little later than the outlet
STOP_S = 2.0


class Power:
    """Knows where the power comes from. Safe to call from several threads.

    With `always` heavy work is done on battery as well.
    """

    def __init__(
        self,
        *,
        always: bool = False,
        supplies: Callable[[], Iterable[Mapping[str, str]]] = read_supplies,
        uevents: Callable[[], socket.socket | None] = open_uevents,
        settle_s: float = SETTLE_S,
    ) -> None:
        self.always, self._supplies, self._settle_s = always, supplies, settle_s
        self._uevents = uevents()  # first: what changes behind the first look is told
        self._on_battery = on_battery(supplies())
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._waiting: Callable[[], list[str]] = list
        self._looking, self._stopping = threading.Lock(), threading.Event()
        self._nudge, self._nudged = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)

    @property
    def on_battery(self) -> bool:
        """Tell whether the machine runs on its battery."""
        return self._on_battery

    def may(self) -> bool:
        """Tell whether heavy work may be done now."""
        return self.always or not self._on_battery

    def why_not(self) -> str | None:
        """Say why heavy work waits; None when it does not."""
        return None if self.may() else ON_BATTERY

    def listen(self, told: Callable[[], None]) -> None:
        """Call a function when the machine was plugged in or out, in the thread that noticed; it must not wait."""
        self._listeners = (*self._listeners, told)

    def tells_with(self, waiting: Callable[[], list[str]]) -> None:
        """Learn what waits by this, by the names in state/power.py."""
        self._waiting = waiting

    def waiting(self) -> list[str]:
        """Return what waits for mains power now, apart from uploads."""
        return [] if self.may() else self._waiting()

    def look(self) -> None:
        """Look where the power comes from now, and tell everybody if that has changed."""
        with self._looking:
            before, self._on_battery = self._on_battery, on_battery(self._supplies())
            if before == self._on_battery:
                return
        log.info("the machine runs %s now", "on its battery" if self._on_battery else "on mains power")
        for told in self._listeners:
            told()

    def start(self) -> None:
        """Begin to listen to the kernel, if it can be heard here."""
        if self._uevents is not None:
            self._thread.start()

    def stop(self) -> None:
        """End at once; a second time changes nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        os.write(self._nudged, b"!")
        if self._thread.ident is not None:
            self._thread.join(STOP_S)
        if not self._thread.is_alive():
            os.close(self._nudge)
            os.close(self._nudged)
            if self._uevents is not None:
                self._uevents.close()

    def _run(self) -> None:
        assert self._uevents is not None
        poll = select.poll()
        poll.register(self._nudge, select.POLLIN)
        poll.register(self._uevents, select.POLLIN)
        while not self._stopping.is_set():
            poll.poll()
            if told_of_power(self._uevents) and not self._stopping.wait(self._settle_s):
                told_of_power(self._uevents)
                self.look()
