"""What is there: the session bus, a watcher and a host on it, an old tray on the X display. Every look has a limit."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Mapping

from .choice import Host, Legacy

LOOK_S = 3.0
# In a process of its own: X and GTK may hang or die, and take memory that is not given back.
_LEGACY = """
import json, sys
found = {"tray": False, "appindicator": False}
try:
    import gi
    gi.require_version("Gtk", "3.0")
    gi.require_version("Gdk", "3.0")
    from gi.repository import Gtk
    for name in ("AppIndicator3", "AyatanaAppIndicator3"):
        try:
            gi.require_version(name, "0.1")
            found["appindicator"] = bool(Gtk.init_check()[0])
            break
        except ValueError:
            pass
except Exception:
    pass
try:
    from Xlib.display import Display
    display = Display()
    atom = display.intern_atom(f"_NET_SYSTEM_TRAY_S{display.get_default_screen()}")
    found["tray"] = bool(display.get_selection_owner(atom))
except Exception:
    pass
print(json.dumps(found))
"""
_log = logging.getLogger(__name__)


def host(environ: Mapping[str, str]) -> Host:
    """Say how far the way over the session bus goes."""
    return asyncio.run(_host(environ))


async def _host(environ: Mapping[str, str]) -> Host:
    from .registration import WATCHER, WATCHER_PATH
    from .session_bus import LOST, address, call, connect, leave

    try:
        bus = await connect(address(environ))
    except LOST as error:
        _log.info("no session bus: %s", error or type(error).__name__)
        return "no-bus"
    asked = [WATCHER, "IsStatusNotifierHostRegistered"]
    try:
        properties = "org.freedesktop.DBus.Properties"
        reply = await call(bus, WATCHER, WATCHER_PATH, properties, "Get", "ss", asked, within_s=LOOK_S)
    except LOST as error:
        _log.info("no watcher of status icons: %s", error or type(error).__name__)
        return "no-watcher"
    else:
        return "host" if reply.body[0].value else "no-host"
    finally:
        await leave(bus)


def legacy(environ: Mapping[str, str]) -> Legacy:
    """Look at the X display, if there is one."""
    if not environ.get("DISPLAY"):
        return Legacy()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LEGACY],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LOOK_S * 3,
            check=True,
        )
        return Legacy(**json.loads(done.stdout))
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        _log.info("the X display does not say what it takes: %s", type(error).__name__)
        return Legacy()
