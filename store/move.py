"""Move a home to another folder, so that at every moment exactly one of the two is the home, and whole.

On one file system the two folders change places in a single step, and the old one holds the note that leads to the new
one. Between file systems everything is copied and read back first; the note in the old folder is the commit, and only
behind it anything is removed. Until then the new folder holds the mark `moving-from`, with which it is no home.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from blake3 import blake3

from ..state.crash_points import Checkpoint, no_checkpoint
from ..state.errors import BadInput, Conflict, FileDamaged, StoreFailed, StoreFull, UnsafeHome
from .files import create_exclusive, make_private_folder, sync_folder, translated, write_private
from .home import Home
from .moved import NOTE, leave_note, read_note

MARK = "moving-from"
PLACES = "earlier-places"
_LEFT_OUT = frozenset({NOTE, MARK, "daemon.json", "daemon.lock", "torpor.sock"})  # of a running daemon, or of a move
_COPY_BYTES = 1 << 20
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = {errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EBUSY, errno.ENOTSUP, errno.EPERM}

Way = Literal["renamed", "copied"]
Progress = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class Moved:
    """How a home was moved: its new folder, and the bytes that were copied and read back."""

    root: Path
    way: Way
    copied_bytes: int


def move_home(
    home: Home,
    target: Path,
    progress: Progress = lambda done, total: None,
    *,
    exchange: Callable[[Path, Path], bool] | None = None,
    checkpoint: Checkpoint = no_checkpoint,
) -> Moved:
    """Move a home that nobody uses (the caller holds its lock) into a new or empty folder.

    After a crash or an error the home is where it was, or where it was to go; doing it again goes on.
    Raises: BadInput, Conflict, UnsafeHome, FileDamaged, StoreFull, StoreFailed.
    """
    check_target(home, target)
    make_private_folder(target)
    if not set(os.listdir(target)) - {NOTE, MARK}:
        if os.path.lexists(target / NOTE):  # a home was here: without its note this looks like one again
            _mark(target, home.root)
        leave_note(target, target)  # says nothing where it is, and where to go when it has changed places
        checkpoint("move.noted")
        if (exchange or change_places)(home.root, target):
            checkpoint("move.exchanged")
            with translated("sync", target):
                for folder in {home.root.parent, target.parent}:
                    sync_folder(folder)
            (home.root / MARK).unlink(missing_ok=True)
            _lead_here(target, home.root)
            return Moved(target, "renamed", 0)
    _mark(target, home.root)
    (target / NOTE).unlink(missing_ok=True)
    checkpoint("move.marked")
    copied = _copy(home.root, target, progress)
    checkpoint("move.copied")
    leave_note(home.root, target)
    checkpoint("move.committed")
    settle(Home(target))
    _lead_here(target, home.root)
    return Moved(target, "copied", copied)


def lead_to(old: Path, root: Path) -> None:
    """Let a folder that is no home lead to one: whoever looks there first goes on.

    Raises: Conflict, UnsafeHome, StoreFull, StoreFailed.
    """
    check_can_lead(old, root)
    make_private_folder(old)
    leave_note(old, root)
    _lead_here(root, old)


def check_can_lead(old: Path, root: Path) -> None:
    """Make sure that nothing in a folder would cease to count. Raises: Conflict, StoreFailed."""
    with translated("look into", old):
        names = set(os.listdir(old)) if old.is_dir() else set()
    if others := sorted(names - {NOTE, PLACES, "daemon.lock", "logs"}):
        raise Conflict(f"{old / others[0]} would not count any more", hint=f"Move it to {root} or away, and try again.")


def check_target(home: Home, target: Path) -> None:
    """Make sure that a home can go to a folder. Raises: BadInput, Conflict, UnsafeHome, StoreFailed."""
    old, new = Path(os.path.realpath(home.root)), Path(os.path.realpath(target))
    if old == new:
        raise BadInput(f"{target} is the home already", hint="Name another folder.")
    if old in new.parents or new in old.parents:
        raise BadInput(f"{target} and {home.root} lie in each other", hint="Name a folder beside it.")
    if not home.store.is_dir():
        raise BadInput(f"{home.root} holds no store", hint="TORPOR_HOME says which home is meant.")
    if os.path.lexists(home.root / MARK):
        raise UnsafeHome(f"{home.root} is itself the unfinished copy of another home")
    if os.path.lexists(target) and (target.is_symlink() or not target.is_dir()):
        raise UnsafeHome(f"{target} is a symbolic link or not a folder", hint="Name a new or empty folder.")
    names = set(os.listdir(target)) if target.is_dir() else set()
    if MARK in names:
        if _marked(target) not in (home.root, target):  # of itself: it was left when they had changed places
            raise Conflict(
                f"{target} holds the unfinished copy of {_marked(target)}", hint="Remove it, or finish that."
            )
    elif names - {NOTE}:
        raise BadInput(f"{target} holds other files", hint="Name a new or empty folder.")


def change_places(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where the system cannot do that. Raises: StoreFailed."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    at_cwd = -100
    if call(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    with translated("move", one):
        raise OSError(code, os.strerror(code))


def settle(home: Home) -> None:
    """Finish a move that was committed: remove what was left in the old place. Raises: UnsafeHome when it was not."""
    mark = home.root / MARK
    if not os.path.lexists(mark):
        return
    old = _marked(home.root)
    note = read_note(old)
    if note is None or os.path.realpath(note) != os.path.realpath(home.root):
        raise UnsafeHome(
            f"{home.root} is an unfinished copy of {old}",
            hint=f"Use {old}; finish the move with `torpor home move {home.root}`, or remove this folder.",
        )
    with translated("clear", old):
        for entry in list(os.scandir(old)):
            if entry.name == NOTE:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        mark.unlink()
        sync_folder(home.root)


def _lead_here(root: Path, old: Path) -> None:
    """Let all earlier places lead to where the home is now, not to one another: a disk between may be gone."""
    path = root / PLACES
    with translated("read", path):
        known = os.fsdecode(path.read_bytes()).split("\n") if path.exists() else []
    places = [place for place in dict.fromkeys([*known, str(old)]) if place and place != str(root)]
    for place in places:
        with suppress(UnsafeHome, StoreFailed):  # a place that cannot be reached leads nobody astray
            if read_note(Path(place)) is not None:
                leave_note(Path(place), root)
    write_private(path, os.fsencode("\n".join(places)) + b"\n")


def _mark(target: Path, root: Path) -> None:
    write_private(target / MARK, os.fsencode(root) + b"\n")


def _marked(root: Path) -> Path:
    with translated("read", root / MARK):
        return Path(os.fsdecode((root / MARK).read_bytes()).rstrip("\n"))


def _copy(root: Path, target: Path, progress: Progress) -> int:
    """Copy everything, durably, and read it back. What an earlier try has copied whole is only read back."""
    folders, files = _contents(root)
    total, done = 2 * sum(status.st_size for _, status in files), 0
    needed = sum(status.st_size for path, status in files if not _is_there(target / path, status))
    with translated("look at the disk of", target):
        disk = os.statvfs(target)
    if needed > disk.f_bavail * disk.f_frsize:
        raise StoreFull(f"{needed} bytes do not fit the disk of {target}", hint="Name a folder on a larger disk.")
    for folder in folders:
        make_private_folder(target / folder)
    _clear_others(target, {*folders, *(path for path, _ in files)})

    def told(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    for path, status in files:
        source, made = root / path, target / path
        with translated("copy", source):
            if not _is_there(made, status):
                _copy_file(source, made, status)
            told(status.st_size)
    for folder in folders:
        with translated("sync", target / folder):
            sync_folder(target / folder)
    for path, status in files:
        with translated("read back", target / path):
            if _digest(root / path) != _digest(target / path, from_disk=True):
                (target / path).unlink()
                raise FileDamaged(f"{target / path} came out with other bytes", hint="Check the new disk. Try again.")
        told(status.st_size)
    return sum(status.st_size for _, status in files)


def _clear_others(target: Path, moved: set[Path]) -> None:
    """Remove what an earlier try copied and the home has no more: removed backups, or a log that SQLite would apply."""
    for folder, entry in list(_walk(target, Path())):
        if folder / entry.name in moved:
            continue
        with translated("clear", entry.path):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)


def _contents(root: Path) -> tuple[list[Path], list[tuple[Path, os.stat_result]]]:
    """Return the folders and files of a home that move, by their paths in it. Raises: UnsafeHome."""
    folders, files = list[Path](), list[tuple[Path, os.stat_result]]()
    for folder, entry in _walk(root, Path()):
        path, status = folder / entry.name, entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            folders.append(path)
        elif stat.S_ISREG(status.st_mode) or (folder == Path() and entry.is_file()):
            files.append((path, status if stat.S_ISREG(status.st_mode) else entry.stat()))
        else:
            raise UnsafeHome(
                f"{root / path} is a link or no file", hint="Nothing of ours is; look at it, and remove it."
            )
    return [Path(), *folders], files


def _walk(root: Path, folder: Path) -> Iterator[tuple[Path, os.DirEntry[str]]]:
    with translated("look into", root / folder):
        entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
    for entry in entries:
        if (folder == Path() and entry.name in _LEFT_OUT) or folder == Path("store/staging"):
            continue
        yield folder, entry
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, folder / entry.name)


def _is_there(path: Path, status: os.stat_result) -> bool:
    """Tell whether an earlier try has copied a file: its time is set when all of it is written."""
    with suppress(FileNotFoundError):
        found = os.lstat(path)
        return (found.st_size, found.st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    return False


def _copy_file(source: Path, made: Path, status: os.stat_result) -> None:
    made.unlink(missing_ok=True)
    fd = create_exclusive(made)
    with open(fd, "wb", buffering=0) as out, source.open("rb", buffering=0) as file:
        shutil.copyfileobj(file, out, _COPY_BYTES)
        os.fsync(out.fileno())
        os.utime(out.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))


def _digest(path: Path, *, from_disk: bool = False) -> str:
    hasher, buffer = blake3(), bytearray(_COPY_BYTES)
    with path.open("rb", buffering=0) as file:
        if from_disk and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while count := file.readinto(buffer):
            hasher.update(memoryview(buffer)[:count])
    return hasher.hexdigest()
