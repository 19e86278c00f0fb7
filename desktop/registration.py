"""The menu's entry and the type of our files in one user's own folder, as `pip install` cannot put them there.

Where a package has put them under `/usr/share`, nothing of this is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from .application import ENTRY_FILE, ICON_FILE, MEDIA_TYPE, TYPE_FILE, desktop_entry, media_type

_SYSTEM_FOLDERS = "/usr/local/share:/usr/share"
_REFRESH_S = 60.0


@dataclass(frozen=True, slots=True)
class Registered:
    """What a desktop knows: the entry that counts, whether it is this user's own, and what opens our files."""

    entry: Path | None
    own: bool
    opens_files: str | None


def install(command: Sequence[str], environ: Mapping[str, str]) -> list[Path]:
    """Write the entry, the type and the icon, each whole or not at all, and have the desktop look again.

    `command` is how torpor is called, absolute. What was there of us before is replaced.
    Raises: OSError.
    """
    entry, kind, icon = _places(environ)
    icon_text = files("torpor.web").joinpath("dashboard", "icon.svg").read_text(encoding="utf-8")
    for target, text in ((icon, icon_text), (kind, media_type()), (entry, desktop_entry(command))):
        _write(target, text)
    _refresh(environ)
    return [entry, kind, icon]


def remove(environ: Mapping[str, str]) -> list[Path]:
    """Remove what `install` wrote; return what was there. Raises: OSError."""
    there = installed(environ)
    for path in there:
        path.unlink(missing_ok=True)
    if there:
        _refresh(environ)
    return there


def installed(environ: Mapping[str, str]) -> list[Path]:
    """Return those of our files that are in this user's folder."""
    return [path for path in _places(environ) if path.is_file()]


def registered(environ: Mapping[str, str]) -> Registered:
    """Tell what the desktop knows of us, by this user's files or those of the system."""
    own = _data_home(environ)
    others = [Path(each) for each in (environ.get("XDG_DATA_DIRS") or _SYSTEM_FOLDERS).split(":") if each]
    entries = (folder / "applications" / ENTRY_FILE for folder in (own, *others))
    entry = next((path for path in entries if path.is_file()), None)
    return Registered(entry, entry is not None and own in entry.parents, _opener(environ))


def _data_home(environ: Mapping[str, str]) -> Path:
    named = environ.get("XDG_DATA_HOME", "")
    return Path(named if os.path.isabs(named) else Path(environ.get("HOME") or Path.home()) / ".local" / "share")


def _places(environ: Mapping[str, str]) -> tuple[Path, Path, Path]:
    """Return where the entry, the type and the icon lie."""
    base = _data_home(environ)
    icons = base / "icons" / "hicolor" / "scalable" / "apps"
    return base / "applications" / ENTRY_FILE, base / "mime" / "packages" / TYPE_FILE, icons / ICON_FILE


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)


def _refresh(environ: Mapping[str, str]) -> None:
    """Rebuild the caches that desktops read. Where a program is missing, so is what would read its cache."""
    base = _data_home(environ)
    for program, folder in (
        ("update-mime-database", base / "mime"),
        ("update-desktop-database", base / "applications"),
    ):
        if folder.is_dir():
            _run([program, str(folder)], environ)


def _opener(environ: Mapping[str, str]) -> str | None:
    """Return the entry that opens our files, as the desktop says."""
    return (_run(["xdg-mime", "query", "default", MEDIA_TYPE], environ) or "").strip() or None


def _run(command: list[str], environ: Mapping[str, str]) -> str | None:
    """Run a program of the desktop, if there is one; return what it printed."""
    program = shutil.which(command[0], path=environ.get("PATH"))
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]], env=dict(environ), capture_output=True, text=True, timeout=_REFRESH_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout
