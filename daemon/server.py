"""uvicorn without its ten wake-ups a second, on a TCP port and a Unix socket at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from ..store.files import translated

# sockaddr_un holds 108 bytes with the closing NUL.
_MAX_SOCKET_PATH = 107
SHUTDOWN_TIMEOUT_S = 30


class QuietServer(uvicorn.Server):
    """A server that sleeps until it is told to stop, instead of polling for it, and exits with status 0 then."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen for signals before anybody is told that the server is ready."""
        self._stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        await super().startup(sockets)

    async def main_loop(self) -> None:
        """Wait for SIGTERM or SIGINT."""
        self.server_state.default_headers = self.config.encoded_headers
        await self._stop.wait()
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `main_loop`: nothing is raised again after a clean stop."""
        yield


def bind_tcp(port: int) -> socket.socket:
    """Bind 127.0.0.1 at a port, or at any free one when it is taken. Raises: StoreFailed."""
    for candidate in (port, 0):
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # else no TCP_NODELAY
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", candidate))
            server.listen(128)
            return server
        except OSError:
            server.close()
            if candidate == 0:
                raise
    raise AssertionError("unreachable")


def bind_unix(path: Path) -> socket.socket | None:
    """Bind a Unix socket of mode 0600, replacing a dead one; None where the path is too long for the system.

    The caller holds the instance lock, so a socket that is there belongs to nobody.
    """
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        return None
    with translated("bind", path):
        path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            server.bind(str(path))
        finally:
            os.umask(before)
        server.listen(128)
    return server


def allowed_hosts(port: int, extra: list[str]) -> frozenset[str]:
    """Return the Host headers that are accepted over TCP, exactly."""
    return frozenset([f"127.0.0.1:{port}", f"localhost:{port}", *(name.lower() for name in extra)])
