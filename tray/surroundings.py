"""What the tray starts and ends beside itself: a browser, the daemon."""

from __future__ import annotations

import os
import signal
import threading
import webbrowser
from collections.abc import Mapping

from ..client.discover import home_folder
from ..desktop.own_command import own_command
from ..state.errors import TorporError

OF_THE_TRAY = ("MALLOC_ARENA_MAX",)  # what keeps this process small would slow the daemon down


def browse(link: str) -> None:
    """Open a link in the user's browser. Raises: TorporError."""
    if not webbrowser.open(link):
        raise TorporError("no browser could be opened", hint="`torpor open --print` prints a link.")


def start_daemon(environ: Mapping[str, str]) -> None:
    """Start the daemon: as the service where there is one. Raises: ServiceFailed, OSError."""
    from ..desktop import launch  # subprocess and more, for a thing that is done once a month

    inherited = {name: value for name, value in environ.items() if name not in OF_THE_TRAY}
    process = launch.start_daemon(own_command("serve"), home_folder(environ), inherited)
    if process is not None:  # when it ends, somebody has to see to it that it is gone
        threading.Thread(target=process.wait, name="daemon", daemon=True).start()


def end(pid: int) -> None:
    """Ask a process to end. One that has ended is fine."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
