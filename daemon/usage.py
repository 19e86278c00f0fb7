"""How much disk the home takes, at any moment, without walking it at every question.

A walk (store/disk_usage.py) is exact. Between walks, what the daemon knows to have been written is added, and what it
removed is taken off. What came or went while a walk went on, that walk may have seen or not: then the figure is too
high until the next one, and never too low, since others are promised what it says is left.
A walk takes milliseconds in a home of thousands of files and seconds in one of a million, so its own duration decides
how often it is done: never more than a fiftieth of the time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..state.errors import TorporError
from ..store.disk_usage import CLASSES, DiskUsage

log = logging.getLogger("torpor.usage")

QUICK_S = 0.05  # a walk that takes no longer is done by whoever asks
PATIENCE_S = 0.2  # with the first walk; then the index has to do
AT_MOST = 50  # times a walk's duration pass before the next one
ANEW_S = 3600.0  # then a walk believes nothing that an earlier one saw


@dataclass(frozen=True, slots=True)
class Figure:
    """Bytes on the disk by class. `age_s` ago they were walked; `exact` when nothing came or went since."""

    classes: dict[str, int]
    age_s: float
    exact: bool

    @property
    def total_bytes(self) -> int:
        """Return the sum of all classes."""
        return sum(self.classes.values())


class Usage:
    """The figure of one home. Safe to use from several threads."""

    def __init__(
        self,
        disk_usage: DiskUsage,
        guess: Callable[[], dict[str, int]] = dict,
        steady: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Take the parts. `guess` gives classes until the first walk is done, where that takes long."""
        self._disk_usage, self._guess, self._steady, self._sleep = disk_usage, guess, steady, sleep
        self._lock, self._walking = threading.Lock(), threading.Lock()
        self._walked, self._known = dict.fromkeys(CLASSES, 0), False
        self._since: list[tuple[float, str, int]] = []  # what was added: when, class, bytes
        self._gone: Counter[str] = Counter()  # what was removed since the last walk ended, by class
        self._walks = 0  # that have ended
        self._began_at, self._took_s = float("-inf"), 0.0
        self._anew_at = self._steady() + ANEW_S

    def add(self, kind: str, size_bytes: int) -> None:
        """Note that so many bytes were written."""
        with self._lock:
            self._since.append((self._steady(), kind, size_bytes))
            if len(self._since) > 10_000:  # one for all, as old as the newest: it stays until a later walk
                self._since = [(self._steady(), name, size) for name, size in _sums(self._since).items()]

    @contextmanager
    def removing(self, kind: str) -> Iterator[Callable[[int], None]]:
        """Lend a way to say how many bytes the files took that are removed while this is open."""
        with self._lock:
            walks = self._walks

        def removed(size_bytes: int) -> None:
            with self._lock:
                if self._walks == walks:  # else a walk may have found them gone: they would be taken off twice
                    self._gone[kind] += size_bytes

        yield removed

    def figure(self) -> Figure:
        """Return the figure: exact where that is quick, else as it is known, and a walk that is due is begun.

        Raises: StoreFailed.
        """
        self._begin()
        if self._took_s <= QUICK_S and self._age_s() > 0:
            return self.exact()
        self.refresh()
        return self._figure()

    def estimate(self) -> int:
        """Return the total at once, from the last walk and what was added; begin a walk where one is due."""
        self._begin()
        self.refresh()
        with self._lock:
            came = sum(size for _, _, size in self._since)
            return max(sum(self._walked.values()) + came - self._gone.total(), 0)

    def exact(self) -> Figure:
        """Walk, and return what was found. Raises: StoreFailed."""
        with self._walking:
            self._walk(lambda: None)
        return self._figure()

    def walk_unless_new(self) -> bool:
        """Walk, unless the last walk began only a few of its durations ago; return whether. Raises: StoreFailed."""
        if self._took_s > QUICK_S and self._age_s() < 3 * self._took_s:
            return False
        self.exact()
        return True

    def _begin(self) -> None:
        """See to it that there is something to go by."""
        if self._known:
            return
        self.refresh()
        if self._walking.acquire(timeout=PATIENCE_S):
            self._walking.release()
        with self._lock:
            if not self._known:
                self._walked = dict.fromkeys(CLASSES, 0) | self._guess()
                self._known, self._took_s = True, PATIENCE_S

    def refresh(self) -> None:
        """Begin a walk in a thread of its own, if one is due and none is going on."""
        if self._age_s() <= max(AT_MOST * self._took_s, 1.0) or not self._walking.acquire(blocking=False):
            return
        try:
            threading.Thread(target=self._walk_gently, name="usage", daemon=True).start()
        except BaseException:
            self._walking.release()
            raise

    def _walk_gently(self) -> None:
        """Walk, resting as long as each folder took: others want the interpreter, too."""
        at = self._steady()

        def rest() -> None:
            nonlocal at
            took = self._steady() - at
            if took > 0.002:
                self._sleep(min(took, 0.1))
                at = self._steady()

        try:
            self._walk(rest)
        except TorporError as error:
            log.warning("the home cannot be measured: %s", error.detail)
        finally:
            self._walking.release()

    def _walk(self, pause: Callable[[], object]) -> None:
        began = self._steady()
        anew = began >= self._anew_at
        walked = self._disk_usage.measure(pause=pause, anew=anew)
        with self._lock:
            self._walked, self._began_at, self._took_s = walked, began, self._steady() - began
            self._known = True
            self._since = [each for each in self._since if each[0] >= began]  # a walk may have missed what came since
            self._gone, self._walks = Counter(), self._walks + 1  # and it may have missed already what went
            if anew:
                self._anew_at = began + ANEW_S

    def _age_s(self) -> float:
        return self._steady() - self._began_at

    def _figure(self) -> Figure:
        with self._lock:
            added, gone = _sums(self._since), self._gone
            classes = {name: max(size + added.get(name, 0) - gone[name], 0) for name, size in self._walked.items()}
            return Figure(classes, max(self._age_s(), 0.0), not added and not gone)


def _sums(since: list[tuple[float, str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for _, name, size in since:
        sums[name] = sums.get(name, 0) + size
    return sums
