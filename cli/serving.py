"""`torpor serve` without the rest of the command line.

The daemon lives for weeks in the process that this command is, and what commands need for arguments, tables and
requests takes 10 MiB. So the plain ways to call it are read here; all others, as every failure, are left to the whole
command line, which says what is wrong.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from ..state.errors import MissingExtra
from ..state.quota import in_words, limits_of


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for on the command line."""

    port: int | None = None
    as_json: bool = False


def asked(arguments: Sequence[str]) -> Asked | None:
    """Read the arguments behind `serve`; None for any that are better read by the whole command line."""
    port, as_json, left = None, False, list(arguments)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name == "--json" and not equals:
            as_json = True
        elif name == "--port" and (equals or left):
            value = value if equals else left.pop(0)
            if not (value.isascii() and value.isdigit()):
                return None
            port = int(value)
        else:
            return None
    return Asked(port, as_json)


def run(wanted: Asked) -> None:
    """Run the daemon; what goes wrong is said as by every command."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        serve(wanted.port, as_json=wanted.as_json)
    except Exception:
        from .output import reporting

        with reporting(wanted.as_json):
            raise


def serve(port: int | None, *, as_json: bool) -> None:
    """Run the daemon until SIGTERM or Ctrl-C, and say where it listens. Raises: MissingExtra, and what it raises."""
    try:
        from ..daemon.service import serve as run_daemon
        from ..daemon.settings import load_settings
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed: pip install 'torpor[daemon]'") from error
    from ..store.home import Home

    home, settings = Home.from_environment(os.environ), load_settings({"port": port})

    def ready(listening: dict[str, object]) -> None:
        if as_json:
            _print_json(listening)
        else:
            print(f"torpor {listening['version']} listens on {listening['url']} for {home.root}")
            print(stated(home.store, settings.quota, settings.soft_quota, settings.free_floor))
        sys.stdout.flush()

    run_daemon(home, settings, ready)


def _print_json(value: dict[str, object]) -> None:
    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
        text.encode(sys.stdout.encoding or "utf-8")
    except (TypeError, UnicodeEncodeError):  # a path that is not UTF-8, or not the terminal's
        from .output import print_json

        print_json(value)
    else:
        sys.stdout.write(text + "\n")


def stated(store: Path, quota: str, soft_quota: str, free_floor: str | None) -> str:
    """Say what a home may take of its disk."""
    disk = os.statvfs(store)
    limits = limits_of(disk.f_blocks * disk.f_frsize, quota, soft_quota, free_floor)
    share = f" ({quota} of the disk)" if "%" in quota else ""
    most, floor = in_words(limits.hard_bytes), in_words(limits.floor_bytes)
    return (
        f"It keeps at most {most} there{share}, and leaves {floor} of the disk to others; "
        "TORPOR_QUOTA and TORPOR_FREE_FLOOR change that."
    )
