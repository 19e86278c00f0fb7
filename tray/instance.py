"""One tray icon for a user and a home: a lock that ends with its process."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping


class Instance:
    """The lock. `pid` is None where this process has it, else who has it."""

    def __init__(self, home: str, environ: Mapping[str, str]) -> None:
        """Take the lock of a home folder, if it is free. Raises: OSError."""
        name = f"torpor-tray-{hashlib.sha256(home.encode(errors='surrogateescape')).hexdigest()[:16]}.lock"
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        self._fd = os.open(os.path.join(_folder(environ), name), flags, 0o600)
        self.pid: int | None = None
        if _lock(self._fd):
            os.ftruncate(self._fd, 0)
            os.write(self._fd, str(os.getpid()).encode())
        else:
            self.pid = int(os.pread(self._fd, 16, 0) or 0) if hasattr(os, "pread") else 0

    def close(self) -> None:
        """Free the lock, if it is ours."""
        os.close(self._fd)


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
