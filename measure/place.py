"""Where a bench puts its files: a folder that is gone at its end, on a disk that has room for them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..client.memory import available_bytes
from ..state.errors import BadInput, OutOfMemory, StoreFull
from ..state.quota import FLOOR_MOST, FLOOR_SHARE
from ..store.files import translated
from .settings import Settings
from .suite import Group

PREFIX = ".torpor-bench-"


@dataclass(frozen=True, slots=True)
class Need:
    """What a run has at once, at most. Groups follow one another, so the largest counts."""

    disk_bytes: int
    memory_bytes: int

    @classmethod
    def of(cls, groups: Sequence[Group], settings: Settings) -> Need:
        """Return what some groups need."""
        disk, memory = (
            max((call(settings) for call in calls), default=0)
            for calls in ([each.disk_bytes for each in groups], [each.memory_bytes for each in groups])
        )
        return cls(disk, memory)


def check(need: Need, folder: Path, *, free_disk: int | None = None, free_memory: int | None = None) -> None:
    """Make sure that there is room, and that the disk keeps what a daemon leaves to others on it.

    Raises: StoreFull, OutOfMemory.
    """
    with translated("look at", folder):
        usage = shutil.disk_usage(folder)
    floor = int(min(FLOOR_SHARE * usage.total, FLOOR_MOST))
    free_disk = usage.free if free_disk is None else free_disk
    if free_disk < need.disk_bytes + floor:
        raise StoreFull(
            f"the bench needs {_gib(need.disk_bytes)} on the disk of {folder}, and leaves {_gib(floor)} to others; "
            f"{_gib(free_disk)} are free",
            hint="Name a folder of another disk with --dir, or smaller sizes, e.g. --sizes 1000; nothing was written.",
        )
    free_memory = available_bytes() if free_memory is None else free_memory
    if 0 < free_memory < need.memory_bytes:
        raise OutOfMemory(
            f"the bench needs {_gib(need.memory_bytes)} of memory, and {_gib(free_memory)} are free",
            hint="Name smaller sizes, e.g. --sizes 1000, or end other programs; nothing was written.",
        )


def beside(home: Path) -> Path:
    """Return the folder next to a home, which lies on its disk. Raises: BadInput where that is another disk.

    Not within the home: what lies there counts towards its quota, and the user's daemon would let backups go for it.
    """
    at = home
    while not at.exists():
        at = at.parent
    parent = at if at != home else home.parent
    elsewhere = at == home and os.stat(home).st_dev != os.stat(parent).st_dev
    if elsewhere or not os.access(parent, os.W_OK):
        raise BadInput(f"nothing can be put beside {home}, on its disk", hint="Name a folder with --dir.")
    return parent


@contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """Make a folder for a run, and remove it with all that is in it; and those of runs that were killed."""
    parent = parent.resolve()  # a daemon there starts in a folder of its own
    with translated("make a folder in", parent):
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(fd)


def _sweep(parent: Path) -> None:
    for left in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # in use, somebody else's, or gone
            fd = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            finally:
                os.close(fd)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
