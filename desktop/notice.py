"""Tell who sees no terminal why nothing happened: one notification, by whatever program of the desktop there is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from html import escape

_WAIT_S = 10.0
_NAME = "org.freedesktop.Notifications"


def has_display(environ: Mapping[str, str], platform: str = sys.platform) -> bool:
    """Tell whether this process belongs to a graphical session, in which a browser can open."""
    return platform in ("win32", "darwin") or bool(environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


def tell(title: str, body: str, environ: Mapping[str, str]) -> bool:
    """Show a notification; tell whether a program did. Servers may read markup in the body, so it is escaped."""
    for command in _commands(title, escape(body, quote=False)):
        program = shutil.which(command[0], path=environ.get("PATH"))
        if program is None:
            continue
        try:
            done = subprocess.run(
                [program, *command[1:]], env=dict(environ), capture_output=True, timeout=_WAIT_S, check=False
            )
        except (OSError, ValueError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return True
    return False


def _commands(title: str, body: str) -> tuple[list[str], ...]:
    call = ["busctl", "--user", "call", _NAME, f"/{_NAME.replace('.', '/')}", _NAME, "Notify", "susssasa{sv}i"]
    return (
        ["notify-send", "--app-name=Torpor", "--icon=torpor", "--", title, body],
        [*call, "--", "Torpor", "0", "torpor", title, body, "0", "0", "-1"],
    )
