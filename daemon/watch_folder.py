"""One watched folder: a thread that looks, decides (state/watching.py) and has files imported.

Events, a timer, a jump of the clock and `rescan` all lead to the same look. So overflow, missed events, restarts and
suspend need no care of their own.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..db.watched import WatchedFiles
from ..state.errors import TorporError, Unavailable
from ..state.watching import (
    SETTLE_S,
    Answer,
    Found,
    Look,
    WatchedFile,
    later,
    plan,
    remember,
    says_the_same,
)
from .importer import Importer, Stopped
from .watch_events import Notifier, Subscription
from .watch_report import describe, event_of, folder_problem, part_problem
from .watch_scan import FolderKey, Tree

log = logging.getLogger("torpor.daemon.watch")
_JUMP_S = 5.0
_REST, _POLL_REST = 10.0, 50.0  # a look at everything is followed by a rest of so many times what it took
_LINGER_S = 10.0  # a worker is kept for a file that is due so soon


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a folder is looked at, in seconds."""

    settle_s: float = SETTLE_S
    poll_s: float = 5.0  # where events do not tell, and while something is wrong with the folder
    rescan_s: float = 900.0  # everything, in case something was missed
    tick_s: float = 60.0  # notice that the clock jumped: the machine was asleep


@dataclass(frozen=True, slots=True)
class Work:
    """What to look at: everything, the files of some folders, or only those that are due."""

    everything: bool
    folders: frozenset[str]


class FolderWatch:
    """Start with `start`, end with `stop`. `polling`: do without inotify."""

    def __init__(
        self,
        folder: str,
        source: str,
        *,
        files: WatchedFiles,
        importer: Importer,
        notifier: Notifier,
        pace: Pace,
        polling: bool = False,
        wall: Callable[[], float] = time.time,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """`told` is called when something is wrong with the folder, and when nothing is any more."""
        self.folder, self.source, self._told = folder, source, told
        self._files, self._importer, self._pace, self._wall = files, importer, pace, wall
        self._tree, self._subscription = Tree(folder), Subscription(notifier, self._on_change)
        self._known: dict[str, WatchedFile] = {}
        self._looks: dict[str, Look] = {}
        self._trying: dict[str, WatchedFile] = {}  # failed for a reason that may pass
        self._forced, self._mode = polling, "polling" if polling else "inotify"
        self._problem: TorporError | None = None
        self._limit: TorporError | None = None
        self._changed = threading.Condition()
        self._all, self._dirty, self._retry_failed, self._stopping = True, set[str](), False, False
        self._full_at, self._limit_at, self._rest_until = 0.0, 0.0, 0.0
        self._clocks = 0.0
        self._looked = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Start to look. Raises: StoreFailed, IndexDamaged."""
        self._known = self._files.of(self.folder)
        self._clocks = self._wall() - time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Tell the thread to end, and kill what it waits for."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._importer.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end of the thread; return whether it came: a dead network file system may hold it."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def rescan(self) -> None:
        """Look at everything now, and try what failed again."""
        with self._changed:
            self._all = self._retry_failed = True
            self._limit_at = 0.0
            self._changed.notify()

    def wait_for_first_look(self, timeout_s: float) -> None:
        """Wait until the folder was looked at once."""
        self._looked.wait(timeout_s)

    def describe(self) -> dict[str, Any]:
        """Return what is to be known of this folder. Touches no file."""
        rows = [*dict(self._known).values(), *dict(self._trying).values()]
        return describe(self.folder, self.source, self._mode, self._problem, rows, len(self._looks))

    def _on_change(self, folder: str | None) -> None:
        with self._changed:
            if folder is None:
                self._all = True
            else:
                self._dirty.add(folder)
            self._changed.notify()

    def _run(self) -> None:
        while (work := self._next_work()) is not None:
            try:
                self._look(work)
            except Stopped:
                break
            except TorporError as error:  # of the index, most likely: looked at again in a while
                self._report(error)
                self._look_again()
            except Exception as error:
                log.exception("watching %s", self.folder)
                self._report(TorporError(f"{type(error).__name__}: {error}"))
                self._look_again()
            self._looked.set()
        self._subscription.clear()
        self._importer.close()

    def _look_again(self) -> None:
        with self._changed:
            self._all = True
        self._rest_until = time.monotonic() + self._pace.poll_s

    def _next_work(self) -> Work | None:
        """Sleep until there is something to look at; None at the end."""
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                self._notice_jump(now)
                due = self._due_at(now)
                if due <= now:
                    everything = self._all or self._full_at <= now
                    work = Work(everything, frozenset(self._dirty))
                    self._all, self._dirty = False, set()
                    return work
                self._changed.wait(min(due, now + self._pace.tick_s) - now)
        return None

    def _due_at(self, now: float) -> float:
        if self._all or self._dirty:
            return max(now, self._rest_until)
        looks = min((look.due_s for look in self._looks.values()), default=self._full_at)
        return max(min(looks, self._full_at), self._rest_until)

    def _notice_jump(self, now: float) -> None:
        clocks = self._wall() - now
        if abs(clocks - self._clocks) > _JUMP_S:
            self._all = True
        self._clocks = clocks

    def _look(self, work: Work) -> None:
        """Look once, and import what is ready."""
        if work.everything:
            self._look_at_all()
            return
        folders: dict[str, dict[str, Found]] = {}
        for folder in work.folders:
            try:
                folders[folder] = self._tree.list_folder(folder)
            except OSError:  # moved, gone or closed: a look at everything tells
                self._on_change(None)
        listing = {path: found for files in folders.values() for path, found in files.items()}
        paths = {path for path in (*self._known, *self._looks) if os.path.dirname(path) in folders} | listing.keys()
        self._apply(listing, paths, announced=True)
        self._look_at_due()

    def _look_at_due(self) -> None:
        now = time.monotonic()
        due = [path for path, look in self._looks.items() if look.due_s <= now]
        listing = {path: found for path in due if (found := self._tree.look_at(path)) is not None}
        self._apply(listing, set(due))

    def _look_at_all(self) -> None:
        started = time.monotonic()
        with self._changed:
            retry, self._retry_failed = self._retry_failed, False
        try:
            listing = self._tree.list_all(self._cover)
        except OSError as error:
            self._subscription.clear()
            self._report(folder_problem(self.folder, error))
            self._full_at = time.monotonic() + self._pace.poll_s
            return
        self._subscription.keep_only(listing.folders if self._limit is None else set())
        self._mode = "polling" if self._forced or listing.remote or self._limit else "inotify"
        self._report(self._limit or part_problem(listing))
        took_s = time.monotonic() - started
        self._rest_until = time.monotonic() + min(_REST * took_s, self._pace.poll_s)
        pause_s = self._pace.rescan_s if self._mode == "inotify" else max(self._pace.poll_s, _POLL_REST * took_s)
        self._full_at = time.monotonic() + pause_s
        if retry:
            self._forget_failures()
        everything = (*self._known, *self._looks, *listing.files)
        covered = {path for path in everything if listing.covers(path)}
        self._apply(listing.files, covered, announced=self._mode == "inotify")

    def _forget_failures(self) -> None:
        self._forget([path for path, row in self._known.items() if row.state == "failed"])
        self._looks = {path: replace(look, due_s=0.0) for path, look in self._looks.items()}

    def _forget(self, paths: Sequence[str]) -> None:
        if paths:
            self._files.forget(paths)
        for path in paths:
            del self._known[path]

    def _cover(self, fd: int, key: FolderKey, path: str) -> None:
        """Watch a folder before it is listed. At a limit the whole tree is polled, and tried again now and then."""
        if self._forced:
            return
        if self._limit is not None and time.monotonic() < self._limit_at:
            return
        if path == self.folder:
            self._limit = None
        try:
            if self._limit is None:
                self._subscription.cover(fd, key, path)
        except Unavailable as error:
            self._limit, self._limit_at = error, time.monotonic() + self._pace.rescan_s

    def _apply(self, listing: Mapping[str, Found], paths: set[str], *, announced: bool = False) -> None:
        """Decide about some paths, listed or not, and do it."""
        known = {path: self._known[path] for path in paths & self._known.keys()}
        looks = {path: self._looks[path] for path in paths & self._looks.keys()}
        now_s, wall_s = time.monotonic(), self._wall()
        made = plan(
            listing, known, looks, now_s=now_s, wall_s=wall_s, settle_s=self._pace.settle_s, announced=announced
        )
        for path in looks.keys() - made.looks.keys():
            del self._looks[path]
            self._trying.pop(path, None)
        self._looks |= made.looks
        self._forget(made.gone)
        for path in made.ready:
            self._import(path, listing[path])
        now_s = time.monotonic()
        if not any(look.due_s < now_s + _LINGER_S for look in self._looks.values()):
            self._importer.close()

    def _import(self, path: str, found: Found) -> None:
        if self._tree.look_at(path) != found:  # others came first and it changed meanwhile: it has to settle again
            return
        answer = self._importer.ask(path, found.signature)
        if answer.outcome == "busy":
            self._looks[path] = later(self._looks[path], now_s=time.monotonic(), busy=True)
        elif answer.transient:
            self._try_later(path, found, answer)
        else:
            row = remember(path, self.folder, found, answer, at=self._wall())
            told = says_the_same(self._known.get(path), row)
            self._files.note(row, None if told else event_of(row, answer))
            self._known[path] = row
            self._looks.pop(path)
            self._trying.pop(path, None)

    def _try_later(self, path: str, found: Found, answer: Answer) -> None:
        row = remember(path, self.folder, found, answer, at=self._wall())
        told = self._trying.get(path)
        event = event_of(row, answer)
        if event is not None and (told is None or told.code != row.code):
            self._files.tell(event)
        self._trying[path] = row
        self._looks[path] = later(self._looks[path], now_s=time.monotonic(), busy=False)

    def _report(self, problem: TorporError | None) -> None:
        """Keep what is wrong with the folder; an event tells of it once."""
        before, self._problem = self._problem, problem
        if (problem and problem.code) == (before and before.code):
            return
        self._told()
        if problem is None:
            return
        detail = f"{problem.detail}. {problem.hint}"
        try:
            self._files.tell({"at": self._wall(), "level": "warning", "kind": "watch-problem", "detail": detail})
        except TorporError as error:  # the index is what is wrong, most likely; `torpor status` tells all the same
            log.error("%s; %s", detail, error.detail)
