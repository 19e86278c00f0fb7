"""`torpor open`: the dashboard in the browser, by a link that opens once."""

from __future__ import annotations

import webbrowser
from typing import Annotated

import typer

from ..client import connect
from .output import show


def open_dashboard(
    print_only: Annotated[bool, typer.Option("--print", help="Print the link instead of opening a browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Open the dashboard. The link opens once, within a minute; whoever has it may do what you may."""
    with connect() as keeper:
        link = keeper.api.json("POST", "/v1/login/links")
    opened = not (print_only or as_json) and webbrowser.open(link["url"])
    note = "The dashboard opens in your browser." if opened else link["url"]
    show(link | {"opened": opened}, as_json, lambda: note)
