"""The tray icon from its command line to its end: one for a home, on whatever shows icons here."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from ..client.api import Api
from ..client.discover import find_endpoint, home_folder
from ..state.errors import TorporError
from .instance import Instance

_log = logging.getLogger(__name__)
NO_HOST = (
    "This desktop shows no tray icons now. Torpor's appears as soon as something shows them; until then `torpor open` "
    "has everything. GNOME needs the extension “AppIndicator and KStatusNotifierItem Support”."
)


def main(arguments: Sequence[str]) -> int:
    """Show the icon until it is told to stop; return the exit status."""
    wanted = _read(arguments)
    logging.basicConfig(format="torpor tray: %(message)s", level=logging.WARNING)
    try:
        if wanted.check:
            return _check(os.environ, as_json=wanted.json)
        held = Instance(home_folder(os.environ), os.environ)
    except (TorporError, OSError) as error:
        print(f"torpor tray: {error}", file=sys.stderr)  # noqa: T201
        return getattr(error, "exit_code", 1)
    try:
        if not held.take():
            print(f"The tray icon is there already (process {held.pid}).")  # noqa: T201
            return 0
        return _run(os.environ)
    finally:
        held.close()


def _read(arguments: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser("torpor tray", description="Show at a glance that all sessions are safe.")
    parser.add_argument("--check", action="store_true", help="say what an icon would find here, and show none")
    parser.add_argument("--json", action="store_true", help="with --check: as one JSON object")
    return parser.parse_args(arguments)


def _run(environ: Mapping[str, str]) -> int:
    from .app import Tray
    from .backend import choose
    from .drawing import icons
    from .notifications import Notifications
    from .screen import ONE_SIZE, Screen

    backend = choose(environ)
    tray = Tray(lambda: Api(lambda: find_endpoint(environ)), _world(environ))
    icon = backend.icon_class("torpor", icon=icons("away", "any")[ONE_SIZE], title="Torpor")
    tray.screen = Screen(icon, Notifications(icon), tray.click, on_main_of(backend.name))
    _listen(tray, icon, backend.notice, environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: tray.quit())

    def shown(icon: Any) -> None:
        tray.start()
        icon.visible = True

    icon.run(shown)
    tray.quit()
    tray.join()
    return 0


def _listen(tray: Any, icon: Any, notice: str | None, environ: Mapping[str, str]) -> None:
    """Have the tray hear what the desktop says of the icon."""
    from .notices import Notice

    if notice is not None:
        _log.warning(notice)  # a notification of it may have nowhere to go
        tray.tell(Notice("tray", "Torpor's tray icon", notice, "low"))
    told: list[bool] = []

    def host(there: bool) -> None:
        if not there and not told and notice is None:
            told.append(True)
            _log.warning(NO_HOST)
            tray.tell(Notice("tray", "Torpor's tray icon", NO_HOST, "low"))

    def colours(scheme: int) -> None:
        from .colour_scheme import panel_of

        tray.lies_on(panel_of(scheme, environ.get("XDG_CURRENT_DESKTOP", "")))

    for name, heard in (("on_host", host), ("on_colours", colours)):
        if listen := getattr(icon, name, None):
            listen(heard)


def on_main_of(backend: str) -> Callable[[Callable[[], None]], None]:
    """Return how something is run where the platform wants its icon to be touched: on macOS in the main thread."""
    if backend != "darwin":
        return lambda work: work()
    found: Callable[[Callable[[], None]], None] = import_module("PyObjCTools.AppHelper").callAfter  # pystray's own need
    return found


def _world(environ: Mapping[str, str]) -> Any:
    from .deeds import World
    from .surroundings import browse, end, start_daemon

    return World(environ, browse, lambda: start_daemon(environ), end)


def _check(environ: Mapping[str, str], *, as_json: bool) -> int:
    from .check import check, in_words

    found = check(environ)
    print(json.dumps(found, indent=2) if as_json else in_words(found))  # noqa: T201
    return 0
