"""What the tray starts and ends beside itself: a browser, the daemon."""

from __future__ import annotations

import os
import signal
import threading
import webbrowser
from collections.abc import Callable, Mapping
from contextlib import suppress

from ..client.discover import home_folder
from ..desktop.own_command import own_command
from ..state.errors import TorporError

SAID, MOST_WORDS = "logs/start.log", 300  # what a daemon that was started here prints; characters of it
OF_THE_TRAY = ("MALLOC_ARENA_MAX",)  # what keeps this process small would slow the daemon down


def browse(link: str) -> None:
    """Open a link in the user's browser. Raises: TorporError."""
    if not webbrowser.open(link):
        raise TorporError("no browser could be opened", hint="`torpor open --print` prints a link.")


def start_daemon(environ: Mapping[str, str]) -> Callable[[], str | None]:
    """Start the daemon: as the service where there is one. What is returned says why it ended, if it has by then.

    Raises: ServiceFailed, OSError.
    """
    from ..desktop import launch  # subprocess and more, for a thing that is done once a month

    inherited = {name: value for name, value in environ.items() if name not in OF_THE_TRAY}
    home = home_folder(environ)
    process = launch.start_daemon(own_command("serve"), home, inherited, SAID)
    if process is None:
        return lambda: None
    # When it ends, somebody has to see to it that it is gone.
    threading.Thread(target=process.wait, name="daemon", daemon=True).start()
    return lambda: None if process.returncode is None else _first_words(os.path.join(home, SAID))


def _first_words(path: str) -> str:
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return " ".join(file.read(MOST_WORDS).split())
    return ""


def end(pid: int) -> None:
    """Ask a process to end. One that has ended is fine."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
