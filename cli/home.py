"""`torpor home`: where everything lies, and how it is moved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..state.errors import Conflict, MissingExtra
from ..store.home import Home
from .output import show, size
from .progress import bar
from .running import stop

app = typer.Typer(help="The home folder, in which everything lies.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command()
def where(as_json: Json = False) -> None:
    """Say which folder it is, and which file system holds it."""
    home = Home.from_environment(os.environ)
    try:
        from ..daemon.mounts import type_at
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed: pip install 'torpor[daemon]'") from error
    found = {"home": str(home.root), "file_system": type_at(str(home.root)) or None, "exists": home.store.is_dir()}
    show(found, as_json, lambda: f"{home.root} ({found['file_system'] or 'an unknown file system'})")


@app.command()
def move(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder, on any disk of this machine.")],
    as_json: Json = False,
) -> None:
    """Move everything to another folder. A running daemon is asked to stop first; the old place leads to the new one.

    On one disk that takes a moment; to another one all is copied, read back and compared before the old is removed.
    """
    try:
        from ..daemon.instance import InstanceLock
        from ..daemon.mounts import refuse_network_home
        from ..daemon.settings import load_settings
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed: pip install 'torpor[daemon]'") from error
    from ..store.move import check_target, move_home
    from ..store.staging import writers

    home, target = Home.from_environment(os.environ), Path(os.path.abspath(folder.expanduser()))
    check_target(home, target)
    if not load_settings().allow_network_home:
        refuse_network_home(target)
    stopped = stop(home)
    lock = InstanceLock(home)
    try:
        if open_by := writers(home.store / "staging"):
            raise Conflict(
                f"process {open_by[0]} has the store open and may be saving",
                hint="Close its keeper or end it, then try again; nothing was moved.",
            )
        with bar("moving", as_json) as told:
            moved = move_home(home, target, told)
    finally:
        lock.close()
    body = {"home": str(moved.root), "from": str(home.root), "way": moved.way, "copied_bytes": moved.copied_bytes}
    how = "renamed" if moved.way == "renamed" else f"{size(moved.copied_bytes)} copied and compared"
    lines = [f"{home.root} is {moved.root} now ({how}); the old folder holds a note that leads there."]
    lines += ["The daemon was stopped: start it again with `torpor serve`."] if stopped else []
    show(body | {"daemon_stopped": stopped}, as_json, lambda: "\n".join(lines))
