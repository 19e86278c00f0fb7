"""`torpor watch`: folders whose files become backups by themselves."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..client import connect
from .output import show, table, when
from .visible import plain

app = typer.Typer(help="Import what other programs write into a folder: *.qwnbak and *.pt.", no_args_is_help=True)
_LINES_AT_MOST = 5  # of failing files, in `torpor status`

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="A folder; what lies below it counts too.")]


@app.command()
def add(folder: Folder, as_json: Json = False) -> None:
    """Watch a folder: each file there is imported once it is whole, and again when it changes."""
    with connect() as keeper:
        found = keeper.api.json("POST", "/v1/watches", json={"folder": _absolute(folder)})
    show(found, as_json, lambda: _watches_table([found]))


@app.command()
def remove(folder: Folder, as_json: Json = False) -> None:
    """Stop to watch a folder. Its files and their backups stay."""
    with connect() as keeper:
        found = keeper.api.json("DELETE", "/v1/watches", params={"folder": _absolute(folder)})
    show(found, as_json, lambda: plain(f"{found['folder']} is no longer watched"))


@app.command("ls")
def list_watches(as_json: Json = False) -> None:
    """List the watched folders, and each file that could not be imported with the reason."""
    with connect() as keeper:
        found = keeper.api.watches()
    show({"watches": found}, as_json, lambda: _watches_table(found))


@app.command()
def rescan(as_json: Json = False) -> None:
    """Look at all watched folders now, and try files that failed again."""
    with connect() as keeper:
        found = keeper.api.json("POST", "/v1/watches/rescan")
    show(found, as_json, lambda: f"looking at {len(found['watches'])} folder(s)")


def _absolute(folder: str) -> str:
    """Name a folder from / on, leaving `..` and links to the daemon's machine, which resolves them."""
    return os.path.join(os.getcwd(), os.path.expanduser(folder))


def _watches_table(watches: list[dict[str, Any]]) -> Table | str:
    if not watches:
        return "No folder is watched; `torpor watch add DIR` adds one."
    rows = table("folder", "!how", ">files", ">waiting", ">failing")
    for watch in watches:
        counts = (str(watch[name]) for name in ("files", "waiting", "failing_count"))
        rows.add_row(watch["folder"], watch["mode"], *counts)
        for line in _complaints(watch, len(watch["failing"])):
            rows.add_row(line)
    return rows


def add_status_rows(rows: Table, watches: list[dict[str, Any]]) -> None:
    """Add to `torpor status` what is watched, and what is wrong there."""
    for watch in watches:
        rows.add_row("watched", f"{watch['folder']} ({watch['mode']}), {watch['files']} files")
        for line in _complaints(watch, _LINES_AT_MOST):
            rows.add_row("", line)


def _complaints(watch: dict[str, Any], at_most: int) -> list[Text]:
    problem, failing = watch["problem"], watch["failing"]
    lines = []
    if problem:
        lines.append(plain(f"{problem['detail']}. {problem['hint']}", "yellow"))
    for file in failing[:at_most]:
        about = "" if file["path"] in file["detail"] else f"{file['path']}: "
        lines.append(plain(f"not imported {when(file['at'])}: {about}{file['detail']}", "yellow"))
    if watch["failing_count"] > at_most and failing:
        lines.append(plain(f"and {watch['failing_count'] - at_most} more", "yellow"))
    return lines
