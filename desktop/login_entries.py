"""Autostart entries and the home that each is of: a login knows TORPOR_HOME only from an entry's own command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..state.errors import TorporError
from ..store.home import Home
from . import autostart
from .own_command import own_command

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


def command_here(command: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return what a login runs for the home that the environment names. Raises: UnsafeHome, StoreFailed."""
    return command_for(Home.from_environment(environ), command, environ)


def starts_here(entry_file: str, environ: Mapping[str, str]) -> bool:
    """Tell whether a login starts something for the home that the environment names."""
    if not autostart.enabled(entry_file, environ):
        return False
    try:
        return is_of(entry_file, Home.from_environment(environ), environ)
    except TorporError:
        return False


def _usual(environ: Mapping[str, str]) -> Path:
    """Return the home of whoever is told of none."""
    return Home.from_environment({name: value for name, value in environ.items() if name != _NAME}).root
