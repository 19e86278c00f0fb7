"""Autostart entries and the home that each is of: a login knows TORPOR_HOME only from an entry's own command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..desktop import autostart
from ..desktop.own_command import own_command
from ..state.errors import TorporError
from ..store.home import Home

_NAME = "TORPOR_HOME"


def command_for(home: Home, command: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a login runs for a home."""
    named = () if _usual(environ) == home.root else ("env", f"{_NAME}={home.root}")
    return (*named, *own_command(command))


def is_of(entry_file: str, home: Home, environ: Mapping[str, str]) -> bool:
    """Tell whether this user's entry is there, on or off, and starts something for a home."""
    command = autostart.command_of(entry_file, environ)
    if command is None:
        return False
    named = next((word.partition("=")[2] for word in command if word.startswith(f"{_NAME}=")), None)
    try:
        return (_usual(environ) if named is None else Home.at(named).root) == home.root
    except TorporError:  # of a place that leads nowhere
        return False


def _usual(environ: Mapping[str, str]) -> Path:
    """Return the home of whoever is told of none."""
    return Home.from_environment({name: value for name, value in environ.items() if name != _NAME}).root
