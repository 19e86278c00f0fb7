"""Keeps the search and the previews up to date behind every commit, in a thread of its own.

A commit enters its preview itself; its messages come right behind it, those alone that are new. At a start, what is
behind (all of it, after an upgrade) is taken in by the way, newest first, with rests in between.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from ..state.errors import TorporError
from .catalog import Catalog
from .search_reading import SearchReading

log = logging.getLogger("torpor.search")
SETTLE_S = 0.3  # saves come in bursts: a session that is saved again meanwhile is read once
STOP_S, RETRY_S = 10.0, 60.0
REST = 2.0  # times as long as a turn took that nobody waits for


class SearchCare:
    """Reads what was saved. Safe to call from several threads."""

    def __init__(self, catalog: Catalog, steady: Callable[[], float] = time.monotonic) -> None:
        self._catalog, self._steady = catalog, steady
        self._changed: dict[str, None] = {}  # sessions, in the order in which they changed
        self._behind: deque[str] = deque()  # sessions of before the start
        self._before: str | None = None  # the backup up to which all have previews, from the newest on
        self._all_seen = self._broken = False
        self._removed = True  # perhaps, before a crash
        self._wake, self._stop = threading.Condition(), threading.Event()
        self._reading = SearchReading(catalog, self._stop.is_set)
        self._thread = threading.Thread(target=self._loop, name="search", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._catalog.tell_changes_with(self.changed)
        self._thread.start()

    def stop(self) -> None:
        """End, behind what is being read."""
        self._stop.set()
        with self._wake:
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    def changed(self, session_ids: Iterable[str], removed: bool) -> None:
        """Have sessions read again soon: something was saved or `removed`, or the title changed."""
        with self._wake:
            self._removed |= removed
            self._changed.update(dict.fromkeys(session_ids))
            self._wake.notify()

    def is_broken(self) -> None:
        """Have the index of words made anew: it cannot be read."""
        with self._wake:
            self._broken = True
            self._wake.notify()

    def waiting(self) -> int:
        """Return how many sessions are to be read."""
        with self._wake:
            return len(self._changed) + len(self._behind)

    def settle(self) -> None:
        """Read everything that is behind, now and in this thread."""
        self._behind.extend(self._reading.behind())
        while self._work():
            pass

    def compact(self) -> None:
        """Take the words of what was removed out of the file for good, as far as anything was."""
        with self._wake:
            removed, self._removed = self._removed, False
        if removed:
            self._reading.compact()

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except TorporError as error:  # a full disk
                log.warning("the search is behind, and goes on in %d s: %s", RETRY_S, error.detail)
            except Exception:
                log.exception("the search is behind, for a reason that is a defect of ours")
            self._stop.wait(RETRY_S)

    def _follow(self) -> None:
        """Read what is behind, and then what changes, until the end."""
        self._behind.extend(self._reading.behind())
        more = True
        while self._wait(0.0 if more else None):
            began = self._steady()
            more = self._work()
            if more and not self._changed:
                self._stop.wait((self._steady() - began) * REST)

    def _wait(self, at_most_s: float | None) -> bool:
        """Wait until there is something to do, and a moment for more of it; False at the end."""
        with self._wake:
            if not (self._changed or self._broken or self._stop.is_set()):
                self._wake.wait(at_most_s)
            fresh = bool(self._changed)
        return not self._stop.wait(SETTLE_S if fresh else 0.0)

    def _work(self) -> bool:
        """Read all sessions that changed, or one of those behind, or some previews; False when there is nothing."""
        with self._wake:
            broken, changed = self._broken, list(self._changed)
            self._broken = False
            self._changed.clear()
            if not changed and self._behind:
                changed = [self._behind.popleft()]
        if broken:
            self._remake()
        if self._removed and self._reading.is_empty():  # a removal found the words damaged, and made them anew
            changed += self._reading.behind()
        for session_id in changed:
            if self._stop.is_set():
                return False
            self._read(session_id)
        return broken or bool(changed) or self._fill_previews()

    def _read(self, session_id: str) -> None:
        try:
            if not self._reading.read(session_id):
                self._remake()
        except TorporError as error:  # it is behind until it changes, or the daemon starts
            log.warning("session %s cannot be searched: %s", session_id, error.detail)

    def _remake(self) -> None:
        behind = self._reading.remake()
        with self._wake:
            self._behind = deque(behind)
        log.warning("the index of words is made anew, from %d sessions", len(behind))

    def _fill_previews(self) -> bool:
        if not self._all_seen:
            self._before = self._reading.fill_previews(self._before)
            self._all_seen = self._before is None
        return not self._all_seen
