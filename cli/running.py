"""The daemon of a home from outside: whether it runs, starting it, and asking it to end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..client import connect
from ..desktop.launch import start_daemon
from ..desktop.own_command import own_command
from ..state.errors import Conflict, DaemonAlreadyRunning, DaemonNotRunning, Timeout, TorporError
from ..store.files import translated
from ..store.home import Home

START_S, STOP_S, POLL_S = 60.0, 60.0, 0.1
_LONGEST = 500


def status_of(home: Home) -> dict[str, Any] | None:
    """Return what the daemon of a home says of itself; None when none answers. Raises: TorporError of its answer."""
    try:
        with connect(home=home.root) as keeper:
            found = keeper.api.status()
    except DaemonNotRunning:
        return None
    return found if found["home"] == str(home.root) else None


def start(home: Home, environ: Mapping[str, str]) -> dict[str, Any]:
    """Start a daemon that goes on without this terminal; return its status once it answers.

    Raises: DaemonNotRunning with what it said, ServiceFailed, Timeout.
    """
    home.create()
    with translated("start", "the daemon"):
        process = start_daemon(own_command("serve"), str(home.root), environ)
    until = time.monotonic() + START_S
    while (found := status_of(home)) is None:
        if process is not None and process.poll() is not None:
            said = _last_words(home.logs / "start.log")
            raise DaemonNotRunning(f"the daemon ended: {said}", hint=f"See {home.logs}.")
        _wait(until, home)
    return found


def wait_until_ready(home: Home) -> dict[str, Any]:
    """Wait for a daemon that somebody else starts. Raises: Timeout."""
    until = time.monotonic() + START_S
    while (found := status_of(home)) is None:
        _wait(until, home)
    return found


def _wait(until: float, home: Home) -> None:
    if time.monotonic() > until:
        raise Timeout(f"the daemon does not answer after {START_S:.0f} s", hint=f"See {home.logs}.")
    time.sleep(POLL_S)


def _last_words(said: Path) -> str:
    return " ".join(said.read_text(encoding="utf-8", errors="replace").split())[-_LONGEST:] or "it said nothing"


def stop(home: Home) -> bool:
    """Ask a running daemon to end, and wait until it has; return whether there was one. Raises: Conflict."""
    from ..daemon.instance import InstanceLock

    if not home.lock.is_file():  # no daemon ever was here: nothing is put into a folder that may be somebody's else
        return False
    asked, until = False, time.monotonic() + STOP_S
    while True:
        try:
            InstanceLock(home).close()
            return asked
        except DaemonAlreadyRunning as error:
            if time.monotonic() > until:
                hint = "Stop it (and the service that starts it again), then try again; nothing was moved or removed."
                raise Conflict(f"the daemon does not end: {error.detail}", hint=hint) from error
        if not asked:
            os.kill(_pid(home), signal.SIGTERM)
            asked = True
        time.sleep(POLL_S)


def _pid(home: Home) -> int:
    """Return the process of the daemon, as it says itself. Raises: DaemonNotRunning and other errors of the API."""
    with connect(home=home.root) as keeper:
        status: dict[str, Any] = keeper.api.status()
    if status["home"] != str(home.root):
        raise TorporError(f"the daemon that answers is of {status['home']}", hint="Check TORPOR_HOME.")
    return int(status["pid"])
