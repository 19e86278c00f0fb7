"""`torpor index rebuild`: the index of this home, made again from its files."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict
from typing import Any

from rich.text import Text

from ..state.errors import DaemonAlreadyRunning, MissingExtra
from ..store.home import Home
from .output import errors, show
from .visible import plain


def rebuild_from_files(as_json: bool) -> None:
    """Make the index again. Raises: DaemonAlreadyRunning, MissingExtra, StoreFull, StoreFailed."""
    try:
        from ..daemon.index_rebuild import rebuild_index
        from ..daemon.settings import load_settings
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed: pip install 'torpor[daemon]'") from error
    home = Home.from_environment(os.environ)
    try:
        logging.getLogger("torpor").setLevel(logging.ERROR)  # what it warns of is shown below
        if not as_json and errors.is_terminal:
            errors.print(plain("reading the manifests", "dim"))
        made = rebuild_index(home, load_settings(), time.time())
    except DaemonAlreadyRunning as error:
        hint = "Stop the daemon first. A restart alone is enough when the index is damaged: then it is made again."
        raise DaemonAlreadyRunning(error.detail, hint=hint) from error
    show(asdict(made), as_json, lambda: _said(asdict(made)))


def _said(made: dict[str, Any]) -> Text:
    lines = [f"{made['backups']} backups are in the index again"]
    if made["unusable"]:
        lines.append(f"{made['unusable']} manifests cannot be used; `torpor doctor` names them")
    if made["removals"]:
        lines.append(f"{made['removals']} removals from the bucket wait again")
    if made["aside"]:
        lines.append(f"the old index is {made['aside']}; it may be removed")
    return Text("\n").join(map(plain, lines))
