"""`torpor ls --remote`, `torpor index rebuild` and `torpor fetch`: what the bucket holds, and how it comes here."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import typer
from rich.text import Text

from ..client import Keeper, connect
from ..state.backup import Backup
from ..state.errors import BadInput, Conflict, Damaged, NotFound, TorporError, Unavailable
from ..state.outbox import stage_of
from ..state.problems import from_problem, to_problem
from . import output
from .index import rebuild_from_files
from .output import age, show, size, table
from .progress import bar
from .visible import plain

POLL_S = 0.2
MACHINE_CHARS = 6  # of its 16
ADOPTIONS = 4  # at once
LOOK_S = 120.0  # of one request that looks at the bucket; it answers earlier, and may ask to be asked again

app = typer.Typer(help="The index of this machine.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Ref = Annotated[str, typer.Argument(help="A backup id or the end of one, or a session id for its newest backup.")]


def look(keeper: Keeper, session: str | None = None) -> dict[str, Any]:
    """Return what the bucket holds. When it cannot be reached, what was known before, with the trouble.

    Raises: SyncOff, and the trouble itself where nothing is known.
    """
    query: dict[str, Any] = {"refresh": True} | ({} if session is None else {"session_id": session})
    while True:
        found = keeper.api.json("GET", "/v1/remote/backups", params=query, timeout=LOOK_S)
        if not found["reading"]:
            break
        time.sleep(POLL_S)
    if found["trouble"] is not None and not found["backups"]:
        raise from_problem(found["trouble"])
    return found


def list_remote(session: str | None, limit: int, as_json: bool) -> None:
    """List what the bucket holds, of all machines; nothing is adopted by that."""
    with connect() as keeper:
        found = look(keeper, session)
    rows = found["backups"][:limit]
    if not as_json:
        _say_troubles(found)
        if not rows:
            output.console.print("The bucket holds no backups yet.")
            return
    shown = {"backups": rows, "unreadable": found["unreadable"], "trouble": found["trouble"]}
    show(shown, as_json, lambda: _table(rows, time.time()))


def _say_troubles(found: dict[str, Any]) -> None:
    """Say on stderr what the listing is not: fresh, or whole."""
    if found["trouble"] is not None:
        output.errors.print(plain(f"this is what was known before: {found['trouble']['detail']}", "yellow"))
    for each in found["unreadable"]:
        output.errors.print(plain(f"left out {each['record']}: {each['problem']['detail']}", "yellow"))


def _table(rows: list[dict[str, Any]], now: float) -> Any:
    """Lay out backups of the bucket, one a line. Machines are told apart only where there are several."""
    several = len({machine for row in rows for machine in row["machines"]}) > 1
    made = table("!id", "session", ">saved", ">total", "!in S3", "!here", *(["!machine"] if several else []))
    for row in rows:
        b = Backup.from_dict(row)
        cells = [b.id, b.session_id, age(b.created_at, now), size(b.bytes_total), _there(b, row["stages"])]
        machines = [" ".join(machine[:MACHINE_CHARS] for machine in row["machines"])] if several else []
        made.add_row(*cells, "yes" if row["here"] else "–", *machines)
    return made


def _there(backup: Backup, stages: list[str]) -> str:
    """Say what of a backup the bucket has: all, or which stages."""
    return "all" if {stage_of(layer) for layer in backup.layers} <= set(stages) else " ".join(stages)


@app.command("rebuild")
def rebuild(
    source: Annotated[str, typer.Option("--from", help="Where from: files, or s3.")] = "files",
    as_json: Json = False,
) -> None:
    """Make the index again from the files of this home, while no daemon runs; the old one is moved aside.

    With `--from s3`, and a daemon that runs: enter every backup of the bucket. Bytes follow when they are needed, or by
    `fetch`. It can be interrupted and run again; records that cannot be read are named and left out.
    """
    if source == "files":
        rebuild_from_files(as_json)
    elif source == "s3":
        rebuild_from_bucket(as_json)
    else:
        raise BadInput(f"--from {source[:40]} is not known", hint="Use --from files or --from s3.")


def rebuild_from_bucket(as_json: bool) -> None:
    """Adopt what the bucket has and this machine does not."""
    with connect() as keeper:
        found = look(keeper)
        if found["trouble"] is not None:
            raise from_problem(found["trouble"])
        wanted = [row["id"] for row in found["backups"] if not row["here"]]
        with bar("reading the bucket's backups", as_json) as told:
            adopted, failed = _adopt(keeper, wanted, lambda done: told(done, len(wanted)))
    problems = [{"record": each["record"], "problem": each["problem"]} for each in found["unreadable"]]
    problems += [{"backup_id": backup_id, "problem": to_problem(error)} for backup_id, error in failed.items()]
    value = {"adopted": adopted, "here_before": len(found["backups"]) - len(wanted), "skipped": problems}
    show(value, as_json, lambda: _rebuilt(value))
    if failed and not adopted:
        raise SystemExit(next(iter(failed.values())).exit_code)


def _adopt(
    keeper: Keeper, wanted: list[str], told: Callable[[int], object]
) -> tuple[list[str], dict[str, TorporError]]:
    """Adopt backups; one that cannot be read does not stop the others, a bucket that is away does."""
    adopted: list[str] = []
    failed: dict[str, TorporError] = {}

    def one(backup_id: str) -> None:
        try:
            keeper.api.json("POST", f"/v1/remote/backups/{backup_id}/adopt", timeout=LOOK_S)
            adopted.append(backup_id)
        except (BadInput, Damaged, NotFound, Conflict) as error:
            failed[backup_id] = error
        told(len(adopted) + len(failed))

    threads = ThreadPoolExecutor(ADOPTIONS)
    try:
        for future in [threads.submit(one, backup_id) for backup_id in wanted]:
            future.result()
    finally:
        threads.shutdown(cancel_futures=True)
    return sorted(adopted), failed


def _rebuilt(value: dict[str, Any]) -> Any:
    lines = [f"{len(value['adopted'])} backups entered the index, {value['here_before']} were there before"]
    for each in value["skipped"]:
        name = each.get("record") or each["backup_id"]
        lines.append(f"left out {name}: {each['problem']['detail']}")
    return Text("\n").join(map(plain, lines))


def fetch(ref: Ref, as_json: Json = False) -> None:
    """Bring everything of a backup here, so that it can be woken without a network. What has arrived stays."""
    with connect() as keeper:
        backup = keeper.api.backup(ref)
        keeper.api.note_used([backup.id])  # what arrives is to stay
        at = keeper.api.json("POST", f"/v1/backups/{backup.id}/fetch", json={})
        try:
            with bar(f"fetching {backup.id}", as_json) as told:
                while at["state"] == "running":
                    told(at["bytes_done"], at["bytes"])
                    time.sleep(POLL_S)
                    at = keeper.api.json("GET", f"/v1/fetches/{at['id']}")
        except KeyboardInterrupt:
            keeper.api.json("DELETE", f"/v1/fetches/{at['id']}")
            raise
    if at["errors"]:
        first = from_problem(at["errors"][0]["problem"])
        left = f"{at['blobs_failed']} of {at['blobs']} blobs could not be fetched: {first.detail}"
        raise type(first)(left, hint=first.hint)
    if at["state"] != "done":
        raise Unavailable("the fetch was ended", hint="Run it again; what has arrived is kept.")
    value = {"id": backup.id, "session_id": backup.session_id, **at}
    show(value, as_json, lambda: plain(_fetched(value)))


def _fetched(value: dict[str, Any]) -> str:
    if not value["blobs"]:
        return f"{value['id']}: everything was here already"
    rate = f"{size(value['bytes_per_s'])}/s"
    return f"{value['id']}: {size(value['bytes'])} in {value['blobs']} blobs are here now ({rate})"
