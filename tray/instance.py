"""One tray icon for a user and a home: a lock that ends with its process.

A desktop that has ended may leave its icon behind, on a bus that is no more (where each login has a bus of its own, and
nothing ends what it started). Whoever comes with another bus takes its place.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

GIVES_WAY_S, LOOK_S = 10.0, 0.1


class Instance:
    """The lock. `pid` is None where this process has it, else who has it."""

    def __init__(self, home: str, environ: Mapping[str, str], sleep: Callable[[float], None] = time.sleep) -> None:
        """Take the lock of a home folder, if it is free. Raises: OSError."""
        name = f"torpor-tray-{_short(home)}.lock"
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        self._fd = os.open(os.path.join(_folder(environ), name), flags, 0o600)
        self._bus, self._sleep = _short(environ.get("DBUS_SESSION_BUS_ADDRESS", "")), sleep
        self.pid: int | None = None
        if not _lock(self._fd):
            self.pid, self._their_bus = self._read()

    def take(self) -> bool:
        """Make it ours, and say so in it; False where an icon of this desktop has it."""
        if self.pid is not None and not (self._their_bus not in ("", self._bus) and self._takes_over(self.pid)):
            return False
        self.pid = None
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        os.write(self._fd, f"{os.getpid()} {self._bus}".encode())
        return True

    def close(self) -> None:
        """Free the lock, if it is ours."""
        os.close(self._fd)

    def _read(self) -> tuple[int, str]:
        os.lseek(self._fd, 0, os.SEEK_SET)
        pid, _, bus = os.read(self._fd, 100).decode("ascii", "replace").partition(" ")
        return (int(pid) if pid.isdecimal() else 0), bus

    def _takes_over(self, pid: int) -> bool:
        """End the icon of a desktop that is another one; tell whether its place is free."""
        if pid <= 0:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        for _ in range(int(GIVES_WAY_S / LOOK_S)):
            if _lock(self._fd):
                return True
            self._sleep(LOOK_S)
        return False


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _folder(environ: Mapping[str, str]) -> str:
    """Return a folder that is this user's alone and goes with the session; where there is none, one that we make."""
    if sys.platform == "win32":
        return tempfile.gettempdir()  # the user's own
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        return runtime
    folder = os.path.join(tempfile.gettempdir(), f"torpor-{os.geteuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if os.lstat(folder).st_uid != os.geteuid() or os.path.islink(folder):
        raise PermissionError(f"{folder} is somebody else's")
    return folder


def _lock(fd: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(fd, 1000, os.SEEK_SET)  # behind what is read
        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
