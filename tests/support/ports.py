"""Ports that stay free while nobody listens there: below those that the system lends to connections."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """Find a port of 127.0.0.1 for a server that comes and goes."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with socket.socket() as server, suppress(OSError):
            server.bind(("127.0.0.1", port))
            return port
