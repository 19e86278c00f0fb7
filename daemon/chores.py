"""What the daemon does by the way: one thread, one chore after the other, each at its own interval.

A chore that fails is tried again at its next turn and stops no other. Between turns the thread sleeps.
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


@dataclass(frozen=True, slots=True)
class Chore:
    """Something to do again and again: for the first time `first_s` after the start, `every_s` when that is None.

    `run` must return soon once `Chores.stopping` is set, when it takes long.
    """

    name: str
    every_s: float
    run: Callable[[], object]
    first_s: float | None = None


class Chores:
    """Runs chores in a thread of its own."""

    def __init__(
        self,
        chores: Iterable[Chore],
        steady: Callable[[], float] = time.monotonic,
        *,
        ended: Callable[[str, float, bool], object] = lambda name, took_s, well: None,
    ) -> None:
        """Take the chores. `ended` is told of every turn: the name, the seconds that it took, whether it went well."""
        self._steady, self._wake, self._ended = steady, threading.Condition(), ended
        self.stopping = threading.Event()
        self._chores = {chore.name: chore for chore in chores}
        self._due: dict[str, float] = {}
        self._thread = threading.Thread(target=self._loop, name="chores", daemon=True)

    def start(self) -> None:
        """Begin."""
        now = self._steady()
        for chore in self._chores.values():
            self._due[chore.name] = now + (chore.every_s if chore.first_s is None else chore.first_s)
        self._thread.start()

    def stop(self) -> None:
        """End, behind the chore that is being done."""
        with self._wake:
            self.stopping.set()
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def _next(self) -> Chore | None:
        """Wait for the chore that is due next; None at the end."""
        with self._wake:
            while not self.stopping.is_set():
                name = min(self._due, key=self._due.__getitem__)
                left = self._due[name] - self._steady()
                if left <= 0:
                    self._due[name] = self._steady() + self._chores[name].every_s
                    return self._chores[name]
                self._wake.wait(left)
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
