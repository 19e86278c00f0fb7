"""desktop_files.py ROOT: writes what a system is told of Torpor below ROOT/usr: manual, completions, menu, icons, unit.

All of it comes from the `torpor` that is imported, so nothing here can differ from what the commands do.
"""

from __future__ import annotations

import gzip
import os
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from command_tree import Command, command_tree
from completions import bash, fish, zsh
from icons import SIZES, picture
from manual import manual
from torpor.desktop import application, unit
from torpor.desktop.autostart import TRAY_FILE, text_of, tray_entry
from torpor.state import errors

COMMAND = "/usr/bin/torpor"
OWN_COMMAND = "/usr/lib/torpor/bin/torpor"  # as own_command() says it there, which `torpor service status` compares


def main() -> None:
    """Run the command line."""
    usr = Path(sys.argv[1]) / "usr"
    share = usr / "share"
    tree = command_tree()
    _write(share / "man/man1/torpor.1.gz", gzip.compress(_manual(tree).encode(), 9, mtime=0))
    _write(share / "bash-completion/completions/torpor", bash(tree).encode())
    _write(share / "zsh/vendor-completions/_torpor", zsh(tree).encode())
    _write(share / "fish/vendor_completions.d/torpor.fish", fish(tree).encode())
    _write(share / "applications" / application.ENTRY_FILE, application.desktop_entry((COMMAND,)).encode())
    _write(share / "applications" / TRAY_FILE, _tray().encode())
    _write(share / "mime/packages" / application.TYPE_FILE, application.media_type().encode())
    _write(usr / "lib/systemd/user" / unit.UNIT, unit.unit_text((OWN_COMMAND, "serve")).encode())
    _icons(share / "icons/hicolor")


def _manual(tree: Command) -> str:
    """Return the manual page; its date is that of the sources."""
    day = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC).date().isoformat()
    return manual(tree, version("torpor"), day, _statuses())


def _statuses() -> dict[int, str]:
    """Return what each exit status means: the title of the class nearest the root of the tree that has it."""
    found: dict[int, str] = {}
    level: list[type[errors.TorporError]] = [errors.TorporError]
    while level:
        for each in level:
            found.setdefault(each.exit_code, f"{each.title}.")
        level = [below for each in level for below in each.__subclasses__()]
    return found


def _tray() -> str:
    """Return the menu's entry of the tray: that of the autostart, without what only a session reads."""
    lines = text_of(tray_entry((COMMAND, "tray"))).splitlines()
    lines = [line.replace("Name=Torpor", "Name=Torpor Tray") for line in lines if not line.startswith("X-GNOME")]
    return "\n".join((*lines, "Categories=Utility;Archiving;", ""))


def _icons(folder: Path) -> None:
    svg = files("torpor.web").joinpath("dashboard", "icon.svg").read_text(encoding="utf-8")
    _write(folder / "scalable/apps" / application.ICON_FILE, svg.encode())
    for size in SIZES:
        target = folder / f"{size}x{size}/apps/torpor.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        picture(svg, size).save(target, optimize=True)


def _write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


if __name__ == "__main__":
    main()
