"""XDG autostart: a file that starts the tray (or, where there is no systemd, the daemon) at login.

Source: the Desktop Application Autostart Specification 0.5.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .entry_text import command_in, exec_value, string_value


@dataclass(frozen=True, slots=True)
class Entry:
    """One program that starts at login."""

    file_name: str
    name: str
    comment: str
    command: Sequence[str]


def place(entry_file: str, environ: Mapping[str, str]) -> Path:
    """Return where this user's entry of that file name lies."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return Path(base) / "autostart" / entry_file


def enabled(entry_file: str, environ: Mapping[str, str]) -> bool:
    """Tell whether this user's entry is there, can be read, and is not hidden (which is how desktops turn one off)."""
    try:
        text = place(entry_file, environ).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return not _OFF & {tuple(word.strip() for word in line.split("=", 1)) for line in text.splitlines()}


def command_of(entry_file: str, environ: Mapping[str, str]) -> list[str] | None:
    """Return the command line of this user's entry, on or off; None where there is none."""
    try:
        lines = place(entry_file, environ).read_text(encoding="utf-8", errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return command_in(next((line.removeprefix("Exec=") for line in lines if line.startswith("Exec=")), ""))


def enable(entry: Entry, environ: Mapping[str, str]) -> Path:
    """Write the entry, whole or not at all; return where.

    Raises:
        OSError: the folder cannot be written.
    """
    target = place(entry.file_name, environ)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        staged.write_text(text_of(entry), encoding="utf-8")
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)
    return target


def disable(entry_file: str, environ: Mapping[str, str]) -> bool:
    """Remove the entry; tell whether it was there."""
    try:
        place(entry_file, environ).unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def text_of(entry: Entry) -> str:
    """Return the entry as its file has it."""
    return "\n".join(
        (
            "[Desktop Entry]",
            "Type=Application",
            f"Name={string_value(entry.name)}",
            f"Comment={string_value(entry.comment)}",
            f"Exec={exec_value(entry.command)}",
            "Icon=torpor",
            "Terminal=false",
            "StartupNotify=false",
            "X-GNOME-Autostart-enabled=true",
            "",
        )
    )


_OFF = frozenset({("Hidden", "true"), ("X-GNOME-Autostart-enabled", "false")})
TRAY_FILE = "torpor-tray.desktop"
DAEMON_FILE = "torpor-daemon.desktop"


def tray_entry(command: Sequence[str]) -> Entry:
    """Return the tray's entry."""
    return Entry(TRAY_FILE, "Torpor", "Shows that sessions are safe, and wakes them", command)


def daemon_entry(command: Sequence[str]) -> Entry:
    """Return the daemon's entry, for desktops without systemd."""
    return Entry(DAEMON_FILE, "Torpor daemon", "Keeps backups of model sessions", command)
