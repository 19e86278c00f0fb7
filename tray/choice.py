"""Which way to the tray, decided before pystray is imported: its own way of finding out may hang, and may die.

Pure; `probes` looks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Name = Literal["bus", "appindicator", "win32", "darwin"]
Host = Literal["no-bus", "no-watcher", "no-host", "host"]  # how far the way over the session bus goes, now
_OWN: dict[str, Name] = {"win32": "win32", "darwin": "darwin"}


@dataclass(frozen=True, slots=True)
class Legacy:
    """What an X display without StatusNotifierItem offers."""

    tray: bool = False  # an XEmbed tray takes icons
    appindicator: bool = False  # GTK 3 and the AppIndicator library, for this Python


@dataclass(frozen=True, slots=True)
class Choice:
    """The way that was chosen, and what the user is to know of it."""

    name: Name
    notice: str | None = None


NO_BUS = "There is no session bus: the icon appears when there is one. The dashboard (`torpor open`) has everything."
XEMBED_ONLY = (
    "This panel takes only old icons (XEmbed). Install gir1.2-gtk-3.0, gir1.2-ayatanaappindicator3-0.1 and python3-gi"
    " for Torpor's Python, and start the tray again; until then the dashboard (`torpor open`) has everything."
)


def choose_way(platform: str, host: Callable[[], Host], legacy: Callable[[], Legacy]) -> Choice:
    """Choose; what is not needed is not looked at.

    The bus is the way wherever it can become one: a host may come later, and a bus, too. Only where an old tray takes
    icons now, and nothing better does, GTK is worth its memory.
    """
    if platform in _OWN:
        return Choice(_OWN[platform])
    reach = host()
    if reach == "host":
        return Choice("bus")
    if reach == "no-bus":  # AppIndicator would hang on it
        return Choice("bus", NO_BUS)
    old = legacy()
    if not old.tray:
        return Choice("bus")
    return Choice("appindicator") if old.appindicator else Choice("bus", XEMBED_ONLY)
