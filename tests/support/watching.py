"""Watched folders with real inotify, a real index and a stand-in for the import worker."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from torpor.daemon.watch_folder import FolderWatch, Pace
from torpor.daemon.watches import Watches
from torpor.db.index import Index
from torpor.store.home import Home

from support.waiting import until

WORKER = Path(__file__).with_name("stand_in_worker.py")
QUICK = Pace(settle_s=0.2, poll_s=0.3, rescan_s=600.0, tick_s=60.0)


class Watching:
    """A home and the folder `drop`, watched from `start` to `stop`."""

    def __init__(self, base: Path, **options: Any) -> None:
        self.home, self.drop, self.notes = Home(base / "home"), base / "drop", base / "notes"
        self.options = {"pace": QUICK, "command": [sys.executable, "-SE", str(WORKER), str(self.notes)]} | options
        self.home.create()
        self.drop.mkdir()
        self.notes.mkdir()

    def start(self, *settled: Path) -> Watching:
        self.index = Index(self.home.index)
        self.watches = Watches(self.home, self.index, **self.options)
        self.watches.load([str(folder) for folder in settled])
        self.watches.start()
        return self

    def stop(self) -> None:
        self.watches.stop()
        self.index.close()

    def watch(self, folder: Path | None = None) -> Watching:
        self.watches.add(str(folder or self.drop))
        return self

    def folder(self) -> FolderWatch:
        return self.watches._folders[str(self.drop)]

    def status(self) -> dict[str, Any]:
        return next(watch for watch in self.watches.describe() if watch["folder"] == str(self.drop))

    def asked(self) -> list[tuple[str, str]]:
        """What the worker was asked for, below the folder, and what it answered."""
        notes = self.notes / "asked"
        lines = notes.read_text().splitlines() if notes.exists() else []
        return [(os.path.relpath(path, self.drop), outcome) for path, outcome in map(json.loads, lines)]

    def outcomes(self, count: int) -> list[tuple[str, str]]:
        """Wait until the worker has answered so often and everything that waits is done."""
        until(lambda: len(self.asked()) >= count, f"{count} imports, not {self.asked()}")
        self.settled()
        return self.asked()

    def settled(self) -> None:
        until(lambda: self.status()["waiting"] == 0, "nothing waits")

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.index.recent_events() if event["kind"] == kind]

    def look(self) -> None:
        """Look at everything, and wait until that is done: what is there now was seen."""
        for _ in range(2):  # the look that runs may have passed what was written meanwhile
            before = self.folder()._full_at
            self.folder()._on_change(None)
            until(lambda before=before: self.folder()._full_at != before, "a look at everything")


def whole(number: int, size: int = 10) -> bytes:
    """A file that can be imported."""
    return b"%d" % number * size + b"END"
