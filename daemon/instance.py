"""One daemon a home: the instance lock, the token, and the file that says where the daemon listens."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from dataclasses import asdict, dataclass

import orjson

from ..state.errors import DaemonAlreadyRunning, UnsafeHome
from ..store.files import translated, write_private
from ..store.home import Home


@dataclass(frozen=True, slots=True)
class Listening:
    """The content of `daemon.json`."""

    api_version: int
    version: str
    pid: int
    url: str
    socket: str | None
    started_at: float


class InstanceLock:
    """The lock on a home folder. Raises: DaemonAlreadyRunning."""

    def __init__(self, home: Home) -> None:
        with translated("open", home.lock):
            self._fd = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise DaemonAlreadyRunning(f"a daemon with pid {owner} owns {home.root}") from error
        with translated("write", home.lock):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        """Free the lock."""
        os.close(self._fd)


def load_token(home: Home) -> str:
    """Return the bearer token, made on the first call: 256 random bits. Raises: UnsafeHome, StoreFailed."""
    if not os.path.lexists(home.token):
        write_private(home.token, secrets.token_urlsafe(32).encode())
    with translated("read", home.token):
        status = os.lstat(home.token)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise UnsafeHome(f"{home.token} is not a regular file of yours")
        if status.st_mode & 0o077:
            os.chmod(home.token, 0o600)
        token = home.token.read_bytes().decode("ascii", errors="replace").strip()
    if len(token) < 32 or not token.isprintable() or not token.isascii():
        raise UnsafeHome(f"{home.token} holds no usable token", hint="Remove the file; a new token is made at start.")
    return token


def announce(home: Home, listening: Listening) -> None:
    """Write `daemon.json`."""
    write_private(home.daemon_json, orjson.dumps(asdict(listening), option=orjson.OPT_INDENT_2))
