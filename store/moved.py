"""The note `moved-to`, which a home leaves behind: whoever looks for it in the old place goes on to the new one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..state.errors import UnsafeHome
from .files import translated, write_private

NOTE = "moved-to"
_HOPS = 8  # of a home that was moved again and again
_LONGEST = 4096


def follow(root: Path) -> Path:
    """Return where a home is now. Raises: UnsafeHome when its note is somebody else's, StoreFailed."""
    seen = [root]
    while (target := read_note(seen[-1])) is not None:
        if target in seen or len(seen) > _HOPS:
            raise UnsafeHome(f"the notes about where {root} was moved to lead in a circle", hint=f"Remove {NOTE}.")
        seen.append(target)
    return seen[-1]


def read_note(root: Path) -> Path | None:
    """Return what the note of a folder says; None without one. Raises: UnsafeHome, StoreFailed."""
    path = root / NOTE
    with translated("read", path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            status = os.fstat(fd)
            text = os.read(fd, _LONGEST).decode("utf-8", "surrogateescape").rstrip("\n")
        finally:
            os.close(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise UnsafeHome(f"{path} is not a file that only you can write", hint="Look at it, and remove it.")
    target = Path(text)
    if not target.is_absolute() or "\0" in text:
        raise UnsafeHome(f"{path} holds no absolute path", hint="Correct or remove it.")
    return None if target == root else target


def leave_note(root: Path, target: Path) -> None:
    """Say in a folder that its home is elsewhere now, durably. Raises: StoreFull, StoreFailed."""
    write_private(root / NOTE, os.fsencode(target) + b"\n")
