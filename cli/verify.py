"""`torpor verify`: read backups from the disk, put right what is damaged, and say what can still be restored."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from ..client import connect
from ..state.errors import BadInput, BlobDamaged, Unavailable
from ..state.problems import from_problem
from .output import show, size
from .progress import bar
from .visible import plain

POLL_S = 0.1
_SHOWN = 20  # backups, unless --json


def verify(
    ref: Annotated[
        str | None, typer.Argument(help="A backup id or the end of one, or a session id for its newest backup.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every blob of every backup.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Read a backup (or all) from the disk and check every byte. What is damaged is healed from another copy.

    Ends with status 7 when something stays damaged.
    """
    if (ref is None) != everything:
        raise BadInput("name one backup, or say --all", hint="`torpor ls` lists backups.")
    with connect() as keeper:
        wanted = None if ref is None else keeper.api.backup(ref).id
        run = keeper.api.json("POST", "/v1/verify", json={"ref": wanted})
        try:
            with bar("reading", as_json) as told:
                while run["state"] == "running":
                    told(run["bytes_done"], run["bytes"])
                    time.sleep(POLL_S)
                    run = keeper.api.json("GET", f"/v1/verify/{run['id']}")
        except KeyboardInterrupt:
            keeper.api.json("DELETE", f"/v1/verify/{run['id']}")
            raise
    if run["problem"] is not None:
        raise from_problem(run["problem"])
    if run["state"] != "done":
        raise Unavailable("the verification was ended", hint="Run it again.")
    show(run, as_json, lambda: Group(*_lines(run)))
    if any(each["state"] == "damaged" for each in run["backups"]):
        raise typer.Exit(BlobDamaged.exit_code)


def _lines(run: dict[str, Any]) -> list[Text]:
    counts = [f"{run['blobs']} blobs read, {size(run['bytes_done'])}"]
    counts += [f"{run[name]} {words}" for name, words in _COUNTS.items() if run[name]]
    lines = [plain("; ".join(counts), "red" if run["damaged"] else "")]
    for each in run["backups"][:_SHOWN]:
        lines += _backup_lines(each)
    if len(run["backups"]) > _SHOWN:
        lines.append(plain(f"and {len(run['backups']) - _SHOWN} more; --json lists them"))
    return lines


_COUNTS = {"healed": "healed", "damaged": "damaged", "unsure": "right only at the second reading: look at the disk"}


def _backup_lines(each: dict[str, Any]) -> list[Text]:
    if each["state"] == "sound":
        return [plain(f"{each['id']}: every byte is right", "green")]
    if each["state"] == "in-bucket":
        return [plain(f"{each['id']}: what is here is right, the rest is in the bucket")]
    lines = [plain(f"{each['id']}: damaged; it can still be restored as {each['mode']}", "red")]
    if each["mode"] == "refuse":
        lines = [plain(f"{each['id']}: damaged; nothing of it can be restored", "red")]
    lines += [plain(f"  {name}: {what}, {why}") for name, (what, why) in each["layers"].items() if what != "reuse"]
    return lines + [plain(f"  {note}") for note in each["notes"]]
