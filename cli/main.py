"""Commands. Each takes `--json` and ends with the exit status of its error's class."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from ..client import Keeper, TargetState, connect
from ..codec.compare import compare
from ..state.backup import Backup
from ..state.errors import BadInput, DaemonNotRunning, InvalidManifest, ManifestDamaged, MissingExtra
from ..state.plan import check_mode
from ..state.power import in_words
from . import (
    attached,
    bench,
    desktop_files,
    doctor,
    events,
    init,
    key,
    open_file,
    output,
    pair,
    remote,
    retention,
    service,
    serving,
    sessions,
    storage,
    sync,
    transfer,
    uninstall,
    verify,
    watch,
)
from . import diff as diff_page
from . import home as home_folder
from . import log as history
from . import plan as plan_page
from . import show as show_page
from .fingerprint import fingerprint, target_of_file, target_of_folder
from .output import reporting, show, survive_encodings, table, when
from .search import search
from .tray import tray

app = typer.Typer(
    name="torpor",
    help="Puts a running multimodal model session to sleep on disk and wakes it again, bit for bit.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.command("init")(init.init)  # what a new user looks for comes first
app.add_typer(watch.app, name="watch")
app.add_typer(remote.app, name="index")
app.add_typer(home_folder.app, name="home")
app.add_typer(desktop_files.app, name="desktop")
app.add_typer(key.app, name="key")
app.add_typer(sync.app, name="sync")
app.add_typer(pair.app, name="pair")
app.add_typer(service.app, name="service")
app.add_typer(pair.tokens, name="token")

# typer brings its own copy of click from 0.24 on, and uses the installed one before.
_UsageError: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Ref = Annotated[str, typer.Argument(help="A backup id or the end of one, or a session id for its newest backup.")]


def run() -> None:
    """Run the command line; usage errors end with status 2, and no traceback is shown."""
    as_json = "--json" in sys.argv
    survive_encodings()
    with reporting(as_json):
        try:
            status = app(standalone_mode=False)
            if isinstance(status, int):  # an exit that typer has caught: Ctrl-C among others
                raise SystemExit(status)
        except _UsageError as error:
            if not as_json:
                error.show()
                raise SystemExit(2) from None
            raise BadInput(error.format_message(), hint="`torpor --help` lists the commands.") from None
        except typer.Abort:
            raise SystemExit(130) from None


@contextmanager
def _keeper() -> Iterator[Keeper]:
    with connect() as keeper:
        yield keeper


@app.command()
def serve(
    port: Annotated[int | None, typer.Option(help="TCP port on 127.0.0.1; another is taken when it is busy.")] = None,
    as_json: Json = False,
) -> None:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C."""
    serving.serve(port, as_json=as_json)


@app.command()
def status(
    wait: Annotated[float, typer.Option(help="Seconds to wait for a daemon that is just starting.")] = 0.0,
    as_json: Json = False,
) -> None:
    """Say whether the daemon runs and what it holds."""
    deadline = time.monotonic() + wait
    while True:
        try:
            with _keeper() as keeper:
                found = keeper.api.status()
            break
        except DaemonNotRunning:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)

    def render() -> Any:
        rows = table("!", "")
        rows.add_row("state", found["summary"]["sentence"])
        rows.add_row("daemon", f"{found['version']}, pid {found['pid']}, {found['url']}")
        rows.add_row("home", found["home"])
        rows.add_row("log", found["log"])
        rows.add_row("backups", f"{found['backups']} of {found['sessions']} sessions")
        rows.add_row("last backup", when(found["last_backup_at"]))
        storage.add_status_rows(rows, found)
        sync.add_status_rows(rows, found["remote"])
        watch.add_status_rows(rows, found["watches"])
        if found["power"]["on_battery"]:
            rows.add_row("power", in_words(True, found["power"]["waiting"]))
        return rows

    show(found, as_json, render)


@app.command("ls")
def list_backups(
    session: Annotated[str | None, typer.Argument(help="Only this session.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 50,
    in_bucket: Annotated[bool, typer.Option("--remote", help="What the bucket holds, of all machines.")] = False,
    as_json: Json = False,
) -> None:
    """List backups, newest first."""
    if in_bucket:
        remote.list_remote(session, limit, as_json)
        return
    query = {"limit": limit} if session is None else {"limit": limit, "session_id": session}
    with _keeper() as keeper:
        found = keeper.api.json("GET", "/v1/backups", params=query)["backups"]
    if not found and not as_json:
        output.console.print("No backups yet.")
        return
    show({"backups": found}, as_json, lambda: output.backups_table(found, time.time()))


@app.command("groups")
def list_groups(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List groups: sessions that were saved as one, newest first."""
    with _keeper() as keeper:
        found = keeper.api.groups(limit)
    if not found and not as_json:
        output.console.print("No groups yet.")
        return
    show({"groups": found}, as_json, lambda: output.groups_table(found, time.time()))


@app.command("show")
def show_backup(
    ref: Ref,
    everything: Annotated[bool, typer.Option("--all", help="Every tensor, message and blob.")] = False,
    blobs: Annotated[bool, typer.Option("--blobs", help="Every blob with its path.")] = False,
    as_json: Json = False,
) -> None:
    """Describe one backup: layers, tensors, messages, what it shares with others, where its blobs lie."""
    with _keeper() as keeper:
        seen = show_page.view(keeper, ref)
    show(show_page.as_json(seen), as_json, lambda: show_page.render(seen, everything=everything, all_blobs=blobs))


@app.command()
def diff(
    a: Ref,
    b: Ref,
    everything: Annotated[bool, typer.Option("--all", help="Every change, however many.")] = False,
    as_json: Json = False,
) -> None:
    """Say what changed from backup A to backup B."""
    with _keeper() as keeper:
        (first, before), (second, after) = keeper.manifest(a), keeper.manifest(b)
    found = compare(before, after)
    show(diff_page.as_json(found), as_json, lambda: diff_page.render(found, first, second, everything=everything))


@app.command()
def plan(
    ref: Ref,
    target: Annotated[
        str | None,
        typer.Option(help="What to restore into: a model folder, a backup or session id, or a fingerprint as JSON."),
    ] = None,
    require: Annotated[str | None, typer.Option(help="Fail unless at least this mode is possible.")] = None,
    at_most: Annotated[str, typer.Option(help="Use no better mode than this.")] = "full",
    as_json: Json = False,
) -> None:
    """Say what a restore would bring back, and why; nothing is changed. Without --target: into the same model."""
    wish = None if require is None else check_mode(require)
    with _keeper() as keeper:
        into = _target(keeper, ref, target, as_json)
        found = keeper.plan(ref, into, require=wish, at_most=check_mode(at_most))
    show(asdict(found), as_json, lambda: plan_page.render(found))


def _target(keeper: Keeper, ref: str, target: str | None, as_json: bool) -> TargetState:
    if target is None:
        try:
            manifest = keeper.manifest(ref)[1]
        except (ManifestDamaged, InvalidManifest):  # the plan says so
            return TargetState()
        return TargetState(manifest.fingerprint, as_stored=manifest.adapter == "plain")
    if os.path.isdir(target):
        return target_of_folder(Path(target), None, keeper.memory, as_json)
    if os.path.isfile(target):
        return target_of_file(Path(target))
    return TargetState(keeper.manifest(target)[1].fingerprint)


@app.command()
def pin(
    ref: Ref,
    off: Annotated[bool, typer.Option("--off", help="Unpin instead.")] = False,
    as_json: Json = False,
) -> None:
    """Keep a backup for ever, whatever its TTL."""
    with _keeper() as keeper:
        backup = keeper.api.backup(ref)
        changed = keeper.api.json("PATCH", f"/v1/backups/{backup.id}", json={"pinned": not off})
    show(changed, as_json, lambda: f"{backup.id} is {'no longer pinned' if off else 'pinned'}")


@app.command()
def rm(
    ref: Annotated[str, typer.Argument(help="A backup id, or with --session a session id.")],
    session: Annotated[bool, typer.Option("--session", help="Remove every backup of the session.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Pinned backups too.")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="So that nothing stays, nor in the bucket.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a backup. What others share stays; the rest is freed after a grace time. In the bucket it stays.

    With --purge its blobs go at once, as far as no other backup needs them, with the events that name it; and it is
    taken out of the bucket for all machines.
    """
    with _keeper() as keeper:
        found = keeper.api.backups(session_id=ref, limit=10_000) if session else [_exact(keeper, ref)]
        if not found:
            keeper.api.backup(ref)  # says why
        pinned = [b.id for b in found if b.pinned]
        if pinned and not force:
            raise BadInput(f"{pinned[0]} is pinned", hint="Unpin it (`torpor pin --off ID`) or add --force.")
        purged = [keeper.api.purge(backup.id) for backup in found if purge]
        for backup in found if not purge else []:
            keeper.api.remove(backup.id)
    body = {"removed": [b.id for b in found]} | ({"purged": purged} if purge else {})
    show(body, as_json, lambda: storage.purged_line(purged) if purge else _removed(found))


def _removed(found: list[Backup]) -> str:
    if len(found) != 1:
        return f"removed {len(found)} backups; `torpor undo` with their ids brings them back for a quarter of an hour"
    return f"removed {found[0].id}; `torpor undo {found[0].id}` brings it back for a quarter of an hour"


def _exact(keeper: Keeper, ref: str) -> Any:
    backup = keeper.api.backup(ref)
    if backup.id != ref and (backup.session_id == ref or not backup.id.endswith(ref)):
        raise BadInput(f"{ref} is a session", hint=f"Add --session to remove all of it, or name {backup.id}.")
    return backup


@app.command()
def demo(
    model: Annotated[
        str | None, typer.Option(help="A folder of real weights (or a .gguf file); else a small Qwen3-VL is built.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=8, max=4096, help="Tokens to generate before and after each save.")] = 48,
    as_json: Json = False,
) -> None:
    """Kill a session and its daemon in mid-conversation, wake both, and compare with an uninterrupted run."""
    try:
        from .demo import run_demo
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed: pip install 'torpor[all]'") from error
    raise SystemExit(run_demo(model, tokens, as_json))


app.command("uninstall")(uninstall.uninstall)
app.command()(fingerprint)
app.command("events")(events.events)
app.command("export")(transfer.export)
app.command("import")(transfer.import_files)
app.command("log")(history.log)
app.command("fork")(sessions.fork)
app.command("rename")(sessions.rename)
app.command("undo")(sessions.undo)
app.command("search")(search)
app.command("save")(attached.save)
app.command("restore")(attached.restore)
app.command("attached")(attached.attached)
app.command("fetch")(remote.fetch)
app.command("no-sync")(sync.no_sync)
app.command("gc")(retention.gc)
app.command("keep")(retention.keep)
app.command("verify")(verify.verify)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.command("tray")(tray)


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if show_version:
        print(version("torpor"))
        raise typer.Exit


app.command("open")(open_file.open_)
app.command("inspect")(open_file.inspect)
