"""The watched folders: those that the user added (`watch.json`) and those of the settings."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..db.index import Index
from ..db.watched import WatchedFiles
from ..state.errors import BadInput, Conflict, NotFound, TorporError
from ..state.watching import is_utf8, printable
from ..store.home import Home
from ..store.watch_list import read_watch_list, write_watch_list
from . import importer
from .importer import Importer
from .watch_events import Notifier
from .watch_folder import FolderWatch, Pace
from .watch_report import describe

STOP_S = 2.0
_FIRST_LOOK_S = 2.0  # what an answer waits for, so that it can say how the folder is watched
_LIST_HINT = "`torpor watch ls` lists the watched folders."


@dataclass(frozen=True, slots=True)
class RefusedFolder:
    """A folder that is to be watched and cannot be, until the user changes something."""

    folder: str
    source: str
    problem: TorporError

    def describe(self) -> dict[str, Any]:
        """Return what is to be known of this folder."""
        return describe(self.folder, self.source, "off", self.problem)


class Watches:
    """All watched folders of a home. Safe to call from several threads."""

    def __init__(
        self,
        home: Home,
        index: Index,
        *,
        command: Sequence[str] = importer.COMMAND,
        deadline_s: float = importer.DEADLINE_S,
        pace: Pace | None = None,
        polling: bool = False,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._home, self._files = home, WatchedFiles(index)
        self._command, self._deadline_s, self._pace = command, deadline_s, pace or Pace()
        self._polling, self._wall = polling, wall
        self._lock, self._turn, self._notifier = threading.Lock(), threading.Lock(), Notifier()
        self._folders: dict[str, FolderWatch] = {}
        self._refused: dict[str, RefusedFolder] = {}
        self._told: Callable[[], None] = lambda: None

    def tell(self, told: Callable[[], None]) -> None:
        """Call a function when a folder cannot be read, or can be again, in the thread that noticed."""
        self._told = told

    @property
    def turn(self) -> threading.Lock:
        """Return what lets one file at a time be imported."""
        return self._turn

    def load(self, settled: Sequence[str]) -> None:
        """Take the folders of the settings and those that were added. One that cannot be taken is told in the status.

        Raises: InvalidSettings, StoreFailed.
        """
        with self._lock:
            for source, folders in (("settings", settled), ("added", read_watch_list(self._home.watch_json))):
                for folder in folders:
                    resolved = os.path.realpath(folder)
                    if resolved in self._folders:
                        continue
                    try:
                        self._refuse(resolved)
                    except TorporError as error:
                        self._refused[resolved] = RefusedFolder(resolved, source, error)
                    else:
                        self._folders[resolved] = self._made(resolved, source)

    def start(self) -> None:
        """Start to watch, once the imports can reach the daemon. Raises: StoreFailed, IndexDamaged."""
        with self._lock:
            for watch in self._folders.values():
                watch.start()

    def stop(self) -> None:
        """Stop to watch; an import that runs is killed. Takes a few seconds at most."""
        with self._lock:
            for watch in self._folders.values():
                watch.stop()
            until = time.monotonic() + STOP_S
            for watch in self._folders.values():
                watch.join(max(until - time.monotonic(), 0.0))
            self._folders.clear()
            self._notifier.close()

    def add(self, folder: str) -> dict[str, Any]:
        """Watch a folder from now on; one that is watched already stays as it is.

        Raises: BadInput, Conflict, NotFound, StoreFull, StoreFailed, IndexDamaged.
        """
        resolved = _existing(folder)
        with self._lock:
            watch = self._folders.get(resolved)
            if watch is None:
                self._refuse(resolved)
                self._write([*self._added(), resolved])
                self._refused.pop(resolved, None)
                watch = self._folders[resolved] = self._made(resolved, "added")
                watch.start()
        watch.wait_for_first_look(_FIRST_LOOK_S)
        return watch.describe()

    def remove(self, folder: str) -> dict[str, Any]:
        """Stop to watch a folder; its files and their backups stay.

        Raises: BadInput, NotFound, Conflict, StoreFull, StoreFailed.
        """
        names = (_absolute(folder).rstrip("/"), os.path.realpath(folder))
        with self._lock:
            watch = next((found for name in names if (found := self._any().get(name)) is not None), None)
            if watch is None:
                raise NotFound(f"{printable(folder)} is not watched", hint=_LIST_HINT)
            if watch.source == "settings":
                hint = "Take it out of TORPOR_WATCH or config.toml and restart the daemon."
                raise Conflict(f"{watch.folder} is watched because the settings say so", hint=hint)
            self._write([name for name in self._added() if name != watch.folder])
            self._refused.pop(watch.folder, None)
            if (running := self._folders.pop(watch.folder, None)) is not None:
                running.stop()
                running.join(STOP_S)
            self._files.forget_folder(watch.folder)
        return watch.describe()

    def rescan(self) -> None:
        """Look at all folders now, and try what failed again."""
        with self._lock:
            for watch in self._folders.values():
                watch.rescan()

    def describe(self) -> list[dict[str, Any]]:
        """Return what is to be known of each folder. Touches no file."""
        return [watch.describe() for watch in self._any().values()]

    def _any(self) -> dict[str, FolderWatch | RefusedFolder]:
        return {**self._folders, **self._refused}

    def _added(self) -> list[str]:
        return [watch.folder for watch in self._any().values() if watch.source == "added"]

    def _write(self, folders: list[str]) -> None:
        write_watch_list(self._home.watch_json, list(dict.fromkeys(folders)))

    def _made(self, folder: str, source: str) -> FolderWatch:
        return FolderWatch(
            folder,
            source,
            files=self._files,
            importer=Importer(str(self._home.root), self._turn, self._command, self._deadline_s),
            notifier=self._notifier,
            pace=self._pace,
            polling=self._polling,
            wall=self._wall,
            told=lambda: self._told(),
        )

    def _refuse(self, folder: str) -> None:
        """Refuse what would import our own files, or files twice."""
        home = os.path.realpath(self._home.root)
        if _overlap(folder, home):
            hint = "Choose a folder that neither lies in the home folder nor contains it."
            raise BadInput(f"{folder} cannot be watched: the home folder is {home}", hint=hint)
        for other in self._folders:
            if _overlap(folder, other):
                hint = f"`torpor watch remove {other}` first, if {folder} is to take its place."
                raise Conflict(f"{folder} and {other}, which is watched already, lie in each other", hint=hint)


def _overlap(one: str, other: str) -> bool:
    return os.path.commonpath([one, other]) in (one, other)


def _absolute(folder: str) -> str:
    if not os.path.isabs(folder) or "\0" in folder or not is_utf8(folder):
        raise BadInput(f"{printable(folder)} is not an absolute path in UTF-8", hint="Name the folder from / on.")
    return folder


def _existing(folder: str) -> str:
    """Resolve a folder: the added one may be a link, once. Raises: BadInput, NotFound."""
    resolved = os.path.realpath(_absolute(folder))
    if not is_utf8(resolved):
        raise BadInput(f"{printable(resolved)} is not UTF-8", hint="Rename the folder.")
    if not os.path.lexists(resolved):
        raise NotFound(f"there is no folder {resolved}", hint="Make it first: mkdir -p does.")
    if not os.path.isdir(resolved):
        raise BadInput(f"{resolved} is not a folder", hint="Name the folder that holds the files.")
    return resolved
