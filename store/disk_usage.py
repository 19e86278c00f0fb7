"""What a home takes on its disk, by class of file: the same figure as `du`, without looking at every file each time.

Allocated blocks count (a sparse file takes what it takes), a file with several names once, and folders too. In folders
of `_UNCHANGING` no file changes once it has its name, so they are looked into again only when their own mtime changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from .files import translated
from .home import Home

_BLOCK = 512  # the unit of st_blocks, whatever the file system's own is
_RACY_NS = 2_000_000_000  # an mtime so new may stay as it is when the folder changes again
_UNCHANGING = ("blobs", "manifests", "sidecars", "trash", "quarantine")
_CLASS_OF = {"sessions": "sidecars", "groups": "sidecars"}  # the others are called like their folder
# A file that moves while a walk goes on goes this way: it is found once or twice, and never not at all.
_WAY = ("staging", "manifests", "blobs", "trash", "quarantine")
CLASSES = ("blobs", "manifests", "sidecars", "staging", "outgoing", "trash", "quarantine", "database", "logs", "other")

Inode = tuple[int, int]


@dataclass(slots=True)
class _Folder:
    """What lies in one folder; `linked` are its files that have several names, `below` its folders."""

    mtime_ns: int
    looked_ns: int
    size_bytes: int = 0
    linked: dict[Inode, int] = field(default_factory=dict)
    below: list[str] = field(default_factory=list)

    def holds(self, mtime_ns: int) -> bool:
        """Tell whether nothing can have changed since it was looked into."""
        return self.mtime_ns == mtime_ns and self.looked_ns - mtime_ns > _RACY_NS


class DiskUsage:
    """Measures one home. Not safe to use from several threads at once."""

    def __init__(self, home: Home, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._home, self._now_ns = home, now_ns
        self._known: dict[str, _Folder] = {}

    def measure(self, *, pause: Callable[[], object] = lambda: None, anew: bool = False) -> dict[str, int]:
        """Return the bytes that each class takes. What comes and goes meanwhile is counted or not.

        `pause` is called behind every folder that was looked into; `anew` forgets what was seen. Raises: StoreFailed.
        """
        known, seen = ({} if anew else self._known), dict[str, _Folder]()
        found, linked = dict.fromkeys(CLASSES, 0), set[Inode]()
        waiting = [(str(self._home.root), "other")]
        with translated("measure", self._home.root):
            while waiting:
                path, kind = waiting.pop()
                with suppress(FileNotFoundError, NotADirectoryError):
                    status = os.lstat(path)
                    folder = known.get(path)
                    if kind not in _UNCHANGING or folder is None or not folder.holds(status.st_mtime_ns):
                        folder = self._look(path, status.st_mtime_ns)
                        pause()
                    seen[path] = folder
                    found[kind] += status.st_blocks * _BLOCK + folder.size_bytes
                    found[kind] += sum(size for inode, size in folder.linked.items() if inode not in linked)
                    linked.update(folder.linked)
                    waiting += [(f"{path}/{name}", self._class_of(path, name, kind)) for name in reversed(folder.below)]
            self._set_database_apart(found)
        self._known = seen
        return found

    def _look(self, path: str, mtime_ns: int) -> _Folder:
        made = _Folder(mtime_ns, self._now_ns())
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    made.below.append(entry.name)
                    continue
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1:
                        made.linked[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK
                    else:
                        made.size_bytes += status.st_blocks * _BLOCK
        made.below.sort(key=lambda name: _WAY.index(name) if name in _WAY else -1)
        return made

    def _class_of(self, path: str, name: str, kind: str) -> str:
        if path == str(self._home.store):
            called = _CLASS_OF.get(name, name)
            return called if called in CLASSES else "other"
        return "logs" if path == str(self._home.root) and name == self._home.logs.name else kind

    def _set_database_apart(self, found: dict[str, int]) -> None:
        """Count the index by itself: it lies beside what is small."""
        for entry in os.scandir(self._home.root):
            if entry.name.startswith("index.") and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    size = entry.stat(follow_symlinks=False).st_blocks * _BLOCK
                    found["database"] += size
                    found["other"] -= size
