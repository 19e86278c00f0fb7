"""The command line that starts Torpor again later: from a unit, an autostart entry, a menu."""

from __future__ import annotations

import sys
from pathlib import Path


def own_command(*arguments: str, executable: str | None = None) -> tuple[str, ...]:
    """Return how this installation's `torpor` is called: the script beside the interpreter, else `python -m`.

    Absolute, since a session manager has another PATH than a terminal. What lies in the working directory is not run.
    """
    python = Path(executable or sys.executable)
    script = python.with_name("torpor")
    if script.is_file():
        return (str(script), *arguments)
    return (str(python), "-P", "-m", "torpor.cli.entry", *arguments)
