"""`torpor desktop`: the entry in the menu, and what a double click on a `.qwnbak` file does."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from ..desktop import registration
from ..desktop.application import MEDIA_TYPE
from ..desktop.own_command import own_command
from .output import show, table

app = typer.Typer(help="The entry in the menu, and double clicks on .qwnbak files.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command()
def install(as_json: Json = False) -> None:
    """Put Torpor into this user's menu, and have the file manager open .qwnbak files with it."""
    written = [str(path) for path in registration.install(own_command(), os.environ)]
    show({"written": written}, as_json, lambda: _lines("wrote", written))


@app.command()
def remove(as_json: Json = False) -> None:
    """Take out what `install` wrote. What a package of the system put there stays."""
    gone = [str(path) for path in registration.remove(os.environ)]
    show({"removed": gone}, as_json, lambda: _lines("removed", gone) if gone else "Nothing of it was there.")


@app.command()
def status(as_json: Json = False) -> None:
    """Say whether Torpor is in the menu, and what opens .qwnbak files."""
    found = registration.registered(os.environ)
    files = [str(path) for path in registration.installed(os.environ)]
    entry = None if found.entry is None else str(found.entry)
    value = {"entry": entry, "own": found.own, "files": files, "media_type": MEDIA_TYPE, "opens": found.opens_files}

    def render() -> Any:
        rows = table("!", "")
        rows.add_row("menu", f"{entry} ({'yours' if found.own else 'of the system'})" if entry else "not there")
        rows.add_row(".qwnbak", found.opens_files or "nothing opens it")
        if entry is None:
            rows.add_row("", "`torpor desktop install` puts both there.")
        return rows

    show(value, as_json, render)


def _lines(what: str, paths: list[str]) -> str:
    return "\n".join(f"{what} {path}" for path in paths)
