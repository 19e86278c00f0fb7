"""The way to the tray: decided first, and only then is pystray imported, with the backend that fits.

pystray chooses its own backend while it is imported, by trying them: a display that is not there is an exception, a
dead session bus is a hang. So it is told which one to take. Ours is none of them: it subclasses pystray's base.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import probes
from .choice import XEMBED_ONLY, Choice, Name, choose_way

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backend:
    """How icons are made here."""

    name: Name
    icon_class: type[Any]  # of pystray's Icon
    notice: str | None = None  # what to tell the user, once


def choose(environ: Mapping[str, str]) -> Backend:
    """Look around, decide, and import pystray. To be called before anything else imports it."""
    return load(choose_way(sys.platform, lambda: probes.host(environ), lambda: probes.legacy(environ)))


def load(choice: Choice) -> Backend:
    """Import pystray for what was chosen; where GTK fails after all, ours waits for a better tray."""
    if choice.name == "bus":
        return Backend("bus", _bus_icon(), choice.notice)
    try:
        icon_class = _import_pystray(choice.name).Icon
        if choice.name == "appindicator":
            icon_class = _ends_well(icon_class)
        return Backend(choice.name, icon_class, choice.notice)
    except Exception as error:  # GTK and its libraries raise whatever they like
        if choice.name != "appindicator":
            raise
        _log.warning("AppIndicator cannot be used: %s: %s", type(error).__name__, error)
        for name in [name for name in sys.modules if name.split(".")[0] == "pystray"]:
            del sys.modules[name]
        return Backend("bus", _bus_icon(), XEMBED_ONLY)


def _bus_icon() -> type[Any]:
    _import_pystray("dummy")
    from .bus_icon import BusIcon

    return BusIcon


def _ends_well(icon_class: type[Any]) -> type[Any]:
    """Have an icon of AppIndicator end where nobody shows notifications: pystray takes its last one back at the end."""

    class AppIndicatorIcon(icon_class):  # type: ignore[misc]
        def _finalize(self) -> None:
            try:
                super()._finalize()
            except Exception as error:  # of GLib, which mypy and we do not know
                _log.debug("the icon's end: %s", error)

    return AppIndicatorIcon


def _import_pystray(backend: str) -> Any:
    """Import pystray with one of its own backends; children of this process do not inherit the choice."""
    before = os.environ.get("PYSTRAY_BACKEND")
    os.environ["PYSTRAY_BACKEND"] = backend
    try:
        import pystray
    finally:
        if before is None:
            del os.environ["PYSTRAY_BACKEND"]
        else:
            os.environ["PYSTRAY_BACKEND"] = before
    return pystray
