"""`torpor tray`: the icon, in a process that imports none of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from ..state.errors import MissingExtra

# A process with few threads needs few heaps of its own, and is some MiB smaller.
SMALL = {"MALLOC_ARENA_MAX": "1"}


def tray(
    check: Annotated[bool, typer.Option("--check", help="Say what an icon would find here, and show none.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: one JSON object on stdout.")] = False,
) -> None:
    """Show an icon in the tray: whether all is safe, and what can be done. It runs until it is quit.

    One icon a home; a second `torpor tray` says that it is there, and ends.
    """
    missing = [name for name in ("pystray", "PIL") if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"{missing[0]} is not installed: pip install 'torpor[tray]'")
    options = ["--check"] * check + ["--json"] * as_json
    command = [sys.executable, "-P", "-m", "torpor.tray", *options]
    environ = SMALL | dict(os.environ)
    if sys.platform == "win32":  # where a replaced process counts as ended
        raise typer.Exit(subprocess.run(command, env=environ, check=False).returncode)
    sys.stdout.flush()
    os.execve(sys.executable, command, environ)  # noqa: S606  (no shell is wanted)
