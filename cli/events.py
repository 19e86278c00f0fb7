"""`torpor events`: what happened, and what happens."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import orjson
import typer

from ..client import connect
from ..client.api import Api
from ..state.errors import DaemonNotRunning
from . import output
from .output import show, table, when
from .visible import visible

WAIT_S = 20.0  # of one question: the daemon answers as soon as something happens
AGAIN_S = 1.0  # between two looks for a daemon that is away
_STYLES = {"warning": "yellow", "error": "bold red"}


def events(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then print each as it comes, until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on stdout; with --follow one a line and event.")
    ] = False,
) -> None:
    """Say what happened: backups, imports, the second copy, repairs, refusals."""
    with connect() as keeper:
        newest = keeper.api.events(limit=limit)
        if follow:
            for event in [*reversed(newest["events"]), None]:
                _say(event, as_json)
            for event in following(keeper.api, newest["after"]):
                _say(event, as_json)
    if not newest["events"] and not as_json:
        output.console.print("Nothing has happened yet.")
        return
    show({"events": newest["events"]}, as_json, lambda: _table(newest["events"]))


def following(
    api: Api, after: int, *, wait_s: float = WAIT_S, sleep: Callable[[float], object] = time.sleep
) -> Iterator[dict[str, Any]]:
    """Yield events as they come, for ever; a daemon that is away is waited for."""
    away = False
    while True:
        try:
            found = api.events(after, limit=1000, wait_s=wait_s)
        except DaemonNotRunning as error:
            if not away:
                output.errors.print(visible(error.detail), style="dim", markup=False, highlight=False)
            away = True
            sleep(AGAIN_S)
            continue
        away, after = False, found["after"]
        yield from found["events"]


def _say(event: dict[str, Any] | None, as_json: bool) -> None:
    if event is None:
        sys.stdout.flush()
    elif as_json:
        sys.stdout.buffer.write(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))
        sys.stdout.flush()
    else:
        head = f"{when(event['at'])}  {event['level']:<7}  {event['kind']:<18}  "
        output.console.print(head, end="", style=_STYLES.get(event["level"]), markup=False, highlight=False)
        output.console.print(visible(_rest(event)), markup=False, highlight=False, soft_wrap=True)


def _rest(event: dict[str, Any]) -> str:
    of = event["backup_id"] or event["session_id"]
    return str(event["detail"]) + (f"  ({of})" if of else "")


def _table(found: list[dict[str, Any]]) -> Any:
    rows = table("!when", "!level", "!kind", "what")
    for event in reversed(found):
        rows.add_row(when(event["at"]), event["level"], event["kind"], _rest(event))
    return rows
