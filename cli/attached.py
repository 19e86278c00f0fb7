"""`torpor save`, `restore` and `attached`: what inference processes do when they are asked over the daemon."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from ..client import connect
from ..state.errors import BadInput, NoProcess, RestoreRefused, TorporError
from .output import age, console, duration, show, size, table
from .visible import plain

PATIENCE_S = 310.0  # the daemon gives a process five minutes

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Ref = Annotated[str, typer.Argument(help="A backup id or the end of one, or a session id for its newest backup.")]


def save(
    session: Annotated[str | None, typer.Argument(help="A session of an attached process.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All sessions of all attached processes.")] = False,
    small: Annotated[bool, typer.Option("--small", help="All but new KV: text, tokens, pictures, settings.")] = False,
    as_json: Json = False,
) -> None:
    """Back up what runs now, in the inference processes that are attached."""
    if (session is None) != everything:
        raise BadInput("which session?", hint="Name one, or add --all. `torpor attached` lists what runs.")
    with connect() as keeper:
        body = {"session_id": session, "small": small}
        found = keeper.api.json("POST", "/api/backup/create", json=body, timeout=PATIENCE_S)
    made = found["backups"] if everything else [found]
    failed = found.get("failed", ()) if everything else ()
    show(found, as_json, lambda: _saved(made, failed))
    if not found["success"]:
        raise SystemExit(TorporError.exit_code)


def _saved(made: list[dict[str, Any]], failed: Any) -> Any:
    rows = table("!", "")
    for each in made:
        rows.add_row(each["session_id"], f"{each['backup_id']}, {each['tokens']} tokens, {size(each['bytes_written'])}")
    for each in failed:
        rows.add_row(each["session_id"] or "a process", f"failed: {each['problem']['detail']}")
    return rows if made or failed else "No session is awake."


def restore(ref: Ref, as_json: Json = False) -> None:
    """Wake a backup in the inference process that is attached; what it had of the session before is replaced."""
    with connect() as keeper:
        backup = keeper.api.backup(ref)
        try:
            found = keeper.api.json("POST", f"/api/backup/restore/{backup.id}", json={}, timeout=PATIENCE_S)
        except NoProcess as error:
            raise RestoreRefused(
                "no inference process is attached that could wake it; nothing was restored",
                hint=f'There, call connect().restore("{backup.id}", target), or keeper.attach(provider) once; '
                f"`torpor plan {backup.id}` says what comes back.",
            ) from error
    show(found, as_json, lambda: plain(_woken(found)))


def _woken(found: dict[str, Any]) -> str:
    plan, said = found["plan"], len(found["conversation"])
    took = "" if plan["seconds"] is None else f", about {duration(plan['seconds'])}"
    cost = f"{plan['tokens_reused']} tokens reused, {plan['tokens_prefill']} to prefill{took}"
    return f"{found['session_id']} is awake again ({found['mode']}): {said} messages; {cost}"


def attached(as_json: Json = False) -> None:
    """List the inference processes that are attached, and the sessions that are awake in them."""
    with connect() as keeper:
        found = keeper.api.json("GET", "/v1/attached")
    if not as_json and not found["processes"]:
        console.print("No inference process is attached.")
        return
    show(found, as_json, lambda: _processes(found["processes"]))


def _processes(found: list[dict[str, Any]]) -> Any:
    rows, now = table("process", ">pid", "model", "sessions", ""), time.time()
    for each in found:
        state = "at work" if each["working"] else f"since {age(each['attached_at'], now)}"
        rows.add_row(each["name"], str(each["pid"]), each["model"] or "–", ", ".join(each["sessions"]) or "–", state)
    return rows
