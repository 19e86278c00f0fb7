"""`torpor fork`, `rename` and `undo`: what can be done with a session from outside of its process."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ..client import connect
from ..state.backup import Backup
from ..state.ids import parse_backup_id
from .output import show, size
from .visible import plain

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Ref = Annotated[str, typer.Argument(help="A backup id or the end of one, or a session id for its newest backup.")]


def fork(
    ref: Ref,
    session: Annotated[str | None, typer.Option("--session", help="Its id; else NAME-fork, NAME-fork-2, ...")] = None,
    as_json: Json = False,
) -> None:
    """Begin a new session at any backup. Nothing is copied: both share every blob."""
    with connect() as keeper:
        made = keeper.fork(ref, session)
    show(asdict(made), as_json, lambda: f"{made.session_id} begins at {made.parent_id}: {made.id}")


def rename(
    session: Annotated[str, typer.Argument(help="A session id.")],
    title: Annotated[str, typer.Argument(help='What `ls` and `log` call it beside its id; "" for nothing.')],
    as_json: Json = False,
) -> None:
    """Give a session a title."""
    with connect() as keeper:
        found = keeper.api.rename(session, title)
    value = {"session_id": found.session_id, "title": found.title}
    words = f'{found.session_id} is called "{found.title}"' if found.title else f"{session} has no title"
    show(value, as_json, lambda: plain(words))


def undo(
    ids: Annotated[list[str], typer.Argument(help="Whole ids of removed backups, as `torpor rm --json` prints them.")],
    as_json: Json = False,
) -> None:
    """Bring back backups that were removed in the last quarter of an hour, with their pins, TTLs and title."""
    with connect() as keeper:
        found = [keeper.api.undo_removal(parse_backup_id(each)) for each in ids]
    body = {"brought_back": [asdict(backup) for backup in found]}
    show(body, as_json, lambda: plain("\n".join(map(_brought_back, found))))


def _brought_back(backup: Backup) -> str:
    absent = f", but {size(backup.absent_bytes)} of it are not on this machine" if backup.absent_bytes else ""
    return f"{backup.id} of session {backup.session_id} is back{absent}"
