"""Start the daemon so that it goes on when whoever started it has ended: as the service, or in a session of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import service


def start_daemon(
    command: Sequence[str], home: str, environ: Mapping[str, str], said: str = "logs/start.log"
) -> subprocess.Popen[bytes] | None:
    """Start the daemon of a home: as the service, where one is installed for it (None), else as a process of its own.

    Whether it is ready, its API tells; what a process of its own prints, also why it ended, lies in `said`.
    Raises: ServiceFailed, OSError.
    """
    if serves(service.status(environ), home):
        service.start(environ)
        return None
    return start_detached(command, Path(home) / said, environ, Path(home))


def serves(found: service.Service, home: str) -> bool:
    """Tell whether the service is installed, can be asked, and is that of a home."""
    return found.installed and found.reason is None and found.home in (None, home)


def start_detached(
    command: Sequence[str], said: Path, environ: Mapping[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own and in a folder; what it prints replaces the file `said`, mode 0600.

    A terminal that closes does not end it. Raises: OSError.
    """
    for made in (folder, said.parent):  # each by itself: what mkdir makes on its way is open to others
        made.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(said, flags, 0o600), "wb") as output:
        return subprocess.Popen(
            list(command),
            env=dict(environ),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
