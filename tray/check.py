"""`torpor tray --check`: what a tray icon would find here."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from ..client.api import Api
from ..client.discover import find_endpoint, home_folder
from ..desktop import autostart, login_entries
from ..state.errors import TorporError
from .instance import Instance


def check(environ: Mapping[str, str]) -> dict[str, Any]:
    """Look around; nothing is shown and nothing is changed."""
    return {
        **_way(environ),
        "running": _running(environ),
        "at_login": login_entries.starts_here(autostart.TRAY_FILE, environ),
        **_daemon(environ),
    }


def _way(environ: Mapping[str, str]) -> dict[str, Any]:
    """Tell by which way an icon would be shown, and how far it goes: `host` shows icons."""
    from . import probes
    from .choice import choose_way

    reach = probes.host(environ) if sys.platform not in ("win32", "darwin") else "host"
    choice = choose_way(sys.platform, lambda: reach, lambda: probes.legacy(environ))
    return {"backend": choice.name, "reach": reach, "notice": choice.notice}


def _running(environ: Mapping[str, str]) -> int | None:
    """Return the process that shows an icon already."""
    held = Instance(home_folder(environ), environ)
    held.close()
    return held.pid


def _daemon(environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        api = Api(lambda: find_endpoint(environ))
    except TorporError as error:
        return {"daemon": None, "sentence": error.detail}
    try:
        status = api.status()
    except TorporError as error:
        return {"daemon": None, "sentence": error.detail}
    finally:
        api.close()
    return {"daemon": status["version"], "sentence": status["summary"]["sentence"]}


def in_words(found: Mapping[str, Any]) -> str:
    """Say it in lines."""
    reach = {
        "host": "this desktop shows tray icons",
        "no-host": "nothing shows tray icons now; one appears as soon as something does",
        "no-watcher": "nothing shows tray icons now; one appears as soon as something does",
        "no-bus": "there is no session bus",
    }
    lines = [
        f"icon      {reach[found['reach']]} ({found['backend']})",
        f"running   {'process ' + str(found['running']) if found['running'] is not None else 'no'}",
        f"at login  {'yes' if found['at_login'] else 'no'}",
        f"daemon    {found['daemon'] or 'does not answer'}: {found['sentence']}",
    ]
    return os.linesep.join(lines + ([found["notice"]] if found["notice"] else []))
