"""A writer's own folder for files that are not published yet, held by a lock.

A staging folder whose lock is free belongs to a dead process, and all in it is garbage at once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from pathlib import Path

from .files import make_private_folder, translated

_LOCK = "lock"


class Staging:
    """An open staging folder. Its file names are counters, never input."""

    def __init__(self, parent: Path) -> None:
        self._count, self._mutex, self._process = 0, threading.Lock(), os.getpid()
        with translated("open staging under", parent):
            self.folder = parent / f"w{os.getpid()}-{os.urandom(6).hex()}"
            make_private_folder(self.folder)
            self._lock_fd = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)  # a sweeper may hold it for a moment, to see that it is free

    def new_path(self) -> Path:
        """Return a path that no file of this folder has had."""
        with self._mutex:
            self._count += 1
            return self.folder / f"{self._count:08d}.tmp"

    def close(self) -> None:
        """Remove the folder and free its lock; in a process that was forked, leave both to whose they are."""
        if self._lock_fd >= 0:
            if os.getpid() == self._process:
                shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock_fd)
            self._lock_fd = -1


def sweep(parent: Path) -> int:
    """Remove the staging folders of dead writers; return how many there were. Raises: StoreFailed."""
    removed = 0
    with translated("sweep", parent), os.scandir(parent) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False) and _is_dead(Path(entry.path)):
                shutil.rmtree(entry.path, ignore_errors=True)
                removed += 1
    return removed


def writers(parent: Path) -> list[str]:
    """Return the processes that hold staging folders now, as the folders' names say. Raises: StoreFailed."""
    with translated("look into", parent), os.scandir(parent) as entries:
        held = [e.name for e in entries if e.is_dir(follow_symlinks=False) and _is_held(Path(e.path))]
    return sorted({name.removeprefix("w").partition("-")[0] for name in held})


def _is_held(folder: Path) -> bool:
    try:
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _is_dead(folder: Path) -> bool:
    try:
        fd = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        # Between making the folder and locking it lie microseconds; a folder without a lock is judged by its age.
        return _age_s(folder) > 60
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return _age_s(folder) > 1
    finally:
        os.close(fd)


def _age_s(folder: Path) -> float:
    import time

    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0
