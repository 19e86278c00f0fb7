"""Take a home away, for good: what Torpor put there and nothing else. What somebody else put there stays, and is told.

The settings go too. The manifests go first: from then on no backup is there, and a removal that was cut short goes on.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..state.errors import StoreFailed, UnsafeHome
from .files import sync_folder, translated
from .home import Home
from .move import MARK, PLACES
from .moved import NOTE, read_note

_FOLDERS = ("store", "logs", "bench")
_IN_STORE = ("manifests", "blobs", "sessions", "groups", "staging", "outgoing", "quarantine", "trash")  # in that order
_OURS = re.compile(
    r"token|daemon\.json|torpor\.sock|index\.sqlite.*|index\.damaged-.*|index\.rebuilding|config\.toml|\.env|watch\.json"
    r"|sync\.json|clock\.json|tokens\.json|machine-id|repo\.key|start\.log|.*\.damaged|\..*\.\d+\.tmp|daemon\.lock"
    rf"|{NOTE}|{MARK}|{PLACES}"
)
_BLOCK = 512  # the unit of st_blocks


@dataclass(frozen=True, slots=True)
class Held:
    """What a home holds: backups, the bytes that it takes on the disk, and what in it is not of Torpor."""

    backups: int
    size_bytes: int
    foreign: tuple[Path, ...]


def look(home: Home) -> Held:
    """Count what a home holds; one that is not there holds nothing. Raises: StoreFailed."""
    manifests = home.store / "manifests"
    with translated("look into", home.root):
        if not home.root.is_dir():
            return Held(0, 0, ())
        backups = sum(name.endswith(".qwnbak") for name in os.listdir(manifests)) if manifests.is_dir() else 0
        return Held(backups, sum(_sizes(home.root)), tuple(sorted(_foreign(home))))


def refuse_what_is_no_home(home: Home) -> None:
    """Make sure that a folder is a home, or what a removal that was cut short has left of one.

    `store`, `logs` and `.env` are names that other programs give, too. Raises: UnsafeHome, StoreFailed.
    """
    with translated("look into", home.root):
        status = os.lstat(home.root)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise UnsafeHome(f"{home.root} is a link, no folder, or not yours: nothing in it is removed")
        if home.store.is_symlink():
            raise UnsafeHome(f"{home.store} is a link: nothing in {home.root} is removed")
        known = any((home.store / name).is_dir() for name in _IN_STORE[:2])
        if not known and not home.lock.is_file():
            raise UnsafeHome(f"{home.root} is no home of Torpor: nothing in it is removed", hint="Check TORPOR_HOME.")


def _foreign(home: Home) -> Iterator[Path]:
    yield from (Path(entry.path) for entry in os.scandir(home.root) if not _is_ours(entry))
    if home.store.is_dir() and not home.store.is_symlink():
        yield from (home.store / name for name in os.listdir(home.store) if name not in _IN_STORE)


def earlier_places(home: Home) -> list[Path]:
    """Return the folders whose note leads to a home. Raises: StoreFailed."""
    path = home.root / PLACES
    with translated("read", path):
        known = os.fsdecode(path.read_bytes()).split("\n") if path.is_file() else []
    return [place for place in map(Path, filter(None, known)) if _leads_to(place, home.root)]


def _leads_to(place: Path, root: Path) -> bool:
    with suppress(UnsafeHome, StoreFailed):  # a place that cannot be reached, or is somebody else's by now
        return read_note(place) == root
    return False


def remove_home(home: Home) -> Held:
    """Remove everything of ours in a home whose lock the caller holds; return what there was, and what stays.

    Durability: on return it is gone for good. Raises: UnsafeHome for a folder that is no home of ours, StoreFailed.
    """
    refuse_what_is_no_home(home)
    held = look(home)
    places = earlier_places(home)
    with translated("remove", home.root):
        for folder in (*(home.store / name for name in _IN_STORE), home.logs, home.bench):
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
        _remove_if_empty(home.store)
        for entry in sorted(os.scandir(home.root), key=lambda entry: entry.name == "daemon.lock"):
            if _is_ours(entry) and entry.name not in _FOLDERS:
                os.unlink(entry.path)
        sync_folder(home.root)
        for place in places:
            (place / NOTE).unlink(missing_ok=True)
        for folder in (home.root, *places):
            _remove_if_empty(folder)
    return held


def _is_ours(entry: os.DirEntry[str]) -> bool:
    if entry.is_dir(follow_symlinks=False):
        return entry.name in _FOLDERS
    return _OURS.fullmatch(entry.name) is not None


def _sizes(folder: Path) -> Iterator[int]:
    for entry in os.scandir(folder):
        with suppress(FileNotFoundError):  # of a daemon that runs
            yield entry.stat(follow_symlinks=False).st_blocks * _BLOCK
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(Path(entry.path))


def _remove_if_empty(folder: Path) -> None:
    """Remove a folder in which nothing is left but what a daemon once made to find out that it was not the home."""
    with suppress(OSError):
        folder.rmdir()
