"""`torpor home`: where everything lies, and how it is moved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..desktop import service
from ..desktop.own_command import own_command
from ..state.errors import Conflict, MissingExtra, ServiceFailed
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
    under = _under()
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
    moved_too = _move_service(under, home, moved.root)
    if moved_too:
        lines += ["Its service is of the new place now" + (", and runs." if under.runs else ".")]
    elif stopped:
        lines += ["The daemon was stopped: start it again with `torpor serve`."]
    body |= {"daemon_stopped": stopped and not (moved_too and under.runs), "service_moved": moved_too}
    show(body, as_json, lambda: "\n".join(lines))


def _under() -> service.Service:
    """Return the service, as far as it can be asked: a move needs none."""
    try:
        return service.status(os.environ)
    except ServiceFailed as error:
        return service.Service(installed=False, reason=error.detail)


def _move_service(under: service.Service, old: Home, new: Path) -> bool:
    """Let the service of a home follow it, since it may write in its home alone; tell whether it was of this one."""
    if under.reason is not None or under.home != str(old.root):
        return False
    service.install(own_command("serve"), str(new), os.environ, start_now=under.runs)
    return True
