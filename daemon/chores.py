"""What the daemon does by the way: one thread, one chore after the other, each at its own interval.

A chore that fails is tried again at its next turn and stops no other. Between turns the thread sleeps. What is heavy
waits while the machine runs on its battery. What became late together (the machine slept, it was on battery, another
chore took long) is done one by one with rests in between, not all at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..state.errors import TorporError

log = logging.getLogger("torpor.chores")
STOP_S = 10.0
LATE_S, REST_S = 30.0, 60.0  # what is later than that has a rest before it when another late one was just done
_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do again and again: for the first time `first_s` after the start, `every_s` when that is None.

    `run` must return soon once `Chores.stopping` is set, when it takes long. `heavy` ones wait for mains power.
    """

    name: str
    every_s: float
    run: Callable[[], object]
    first_s: float | None = None
    heavy: bool = False


def spaced(names: Iterable[str], now: float) -> dict[str, float]:
    """Return when chores are done that are late, one by one, the first after a rest."""
    return {name: now + REST_S * number for number, name in enumerate(names, 1)}


class Chores:
    """Runs chores in a thread of its own."""

    def __init__(
        self,
        chores: Iterable[Chore],
        steady: Callable[[], float] = time.monotonic,
        *,
        ended: Callable[[str, float, bool], object] = lambda name, took_s, well: None,
        may: Callable[[], bool] = lambda: True,
    ) -> None:
        """Take the chores. `ended` is told of every turn: the name, the seconds that it took, whether it went well.

        `may` tells whether heavy ones may be done now; `power_changed` is to be called when that is another answer.
        """
        self._steady, self._wake, self._ended = steady, threading.Condition(), ended
        self._may = may
        self.stopping = threading.Event()
        self._chores = {chore.name: chore for chore in chores}
        self._due: dict[str, float] = {}
        self._thread = threading.Thread(target=self._loop, name="chores", daemon=True)

    def start(self) -> None:
        """Begin."""
        self.plan()
        self._thread.start()

    def plan(self) -> None:
        """Set when each is due for the first time."""
        now = self._steady()
        for chore in self._chores.values():
            self._due[chore.name] = now + (chore.every_s if chore.first_s is None else chore.first_s)

    def stop(self) -> None:
        """End, behind the chore that is being done."""
        with self._wake:
            self.stopping.set()
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def waiting(self) -> list[str]:
        """Return the names of those that are due and wait for mains power."""
        with self._wake:
            return self._waiting()

    def _waiting(self) -> list[str]:
        return [name for name, due in self._due.items() if due == _NEVER]

    def power_changed(self) -> None:
        """Let what waited for mains power be done soon, one by one, if it may be now."""
        if not self._may():
            return
        with self._wake:
            self._due |= spaced(self._waiting(), self._steady())
            self._wake.notify()

    def take(self) -> Chore | float:
        """Return what is to be done now, or how many seconds there is nothing to do; under the lock of `_wake`."""
        while True:
            now, name = self._steady(), min(self._due, key=self._due.__getitem__)
            chore, left = self._chores[name], self._due[name] - now
            if left > 0:
                return left
            if chore.heavy and not self._may():
                self._due[name] = _NEVER
                continue
            self._due[name] = now + chore.every_s
            late = [each for each, due in self._due.items() if now - due > LATE_S]
            self._due |= spaced(sorted(late, key=self._due.__getitem__), now)
            return chore

    def _next(self) -> Chore | None:
        """Wait for the chore that is due next; None at the end."""
        with self._wake:
            while not self.stopping.is_set():
                found = self.take()
                if isinstance(found, Chore):
                    return found
                self._wake.wait(None if found == _NEVER else found)
        return None

    def _loop(self) -> None:
        while (chore := self._next()) is not None:
            began = self._steady()
            well = self._do(chore)
            self._ended(chore.name, self._steady() - began, well)

    @staticmethod
    def _do(chore: Chore) -> bool:
        try:
            chore.run()
        except (TorporError, OSError) as error:
            detail = error.detail if isinstance(error, TorporError) else str(error)
            log.warning("%s failed and is tried again in %d s: %s", chore.name, chore.every_s, detail)
            return False
        except Exception:
            log.exception("%s failed for a reason that is a defect of ours", chore.name)
            return False
        return True
