"""`torpor open` and `torpor inspect`: the dashboard, and files: what they are, and then whether to import them.

In a terminal the question is asked there. Started by a desktop, there is none: then the dashboard asks it.
"""

from __future__ import annotations

import os
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..client import Keeper, connect
from ..client.handing_over import hand_over
from ..client.places import login_link, route
from ..client.preview import Preview, Previewer
from ..desktop.notice import has_display, tell
from ..state.errors import DaemonNotRunning, TorporError, Unavailable
from ..state.problems import to_problem
from ..store.home import Home
from . import output, running
from .output import size, table, when
from .progress import bar
from .questions import agree, can_ask
from .visible import plain, visible

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Files = Annotated[list[Path], typer.Argument(help="Files (v1, bundle, .safetensors, .pt).")]
Session = Annotated[str | None, typer.Option("--session", help="The session to put them in.")]

_FORMATS = {"v1": "qwen-state/v1", "bundle": "bundle", "safetensors": "safetensors", "pt": "PyTorch file"}
PAGE = "open"  # of the dashboard, where files wait for a word


def inspect(files: Files, session: Session = None, as_json: Json = False) -> None:
    """Say what files hold, and whether they are sound; nothing is imported. Works without the daemon, too."""
    keeper = _keeper_if_running()
    try:
        _each(files, as_json, lambda path: _told(_looked_at(keeper, path, session, as_json)))
    finally:
        if keeper is not None:
            keeper.close()


def open_(
    files: Annotated[list[Path] | None, typer.Argument(help="Files to look at, and to import on a word.")] = None,
    print_only: Annotated[bool, typer.Option("--print", help="Print the link instead of opening a browser.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Import the files without asking.")] = False,
    in_browser: Annotated[bool, typer.Option("--dashboard", help="Ask in the dashboard, also in a terminal.")] = False,
    session: Session = None,
    as_json: Json = False,
) -> None:
    """Open the dashboard; or say what files hold, and import them on a word.

    The link to the dashboard opens once, within a minute; whoever has it may do what you may.
    """
    asks_here = can_ask()
    from_desktop = not asks_here and has_display(os.environ) and not (as_json or yes or print_only)
    if files and not (in_browser or from_desktop or print_only):
        with connect() as keeper:
            _each(files, as_json, lambda path: _asked(keeper, path, session, as_json, yes, asks_here))
        return
    try:
        _in_dashboard(files or [], session, print_only, as_json, start=from_desktop)
    except TorporError as error:
        if from_desktop:  # nobody sees what is printed
            tell("Torpor", f"{visible(error.detail)}\n{visible(error.hint)}", os.environ)
        raise


def _keeper_if_running() -> Keeper | None:
    try:
        return connect()
    except DaemonNotRunning:
        return None


def _each(files: list[Path], as_json: bool, act: Any) -> None:
    """Do something with each file; one that cannot be read does not stop the others, and is the exit status."""
    done: list[dict[str, Any]] = []
    failed: list[TorporError] = []
    for path in files:
        try:
            done.append({"path": str(path)} | act(path))
        except DaemonNotRunning:
            raise
        except TorporError as error:
            failed.append(error)
            done.append({"path": str(path), "problem": to_problem(error)})
            if not as_json:
                output.console.print(plain(str(path), "bold"))
                output.console.print(plain(f"  not a file to import: {error.detail} ({error.code})", "red"))
                output.console.print(plain(f"  {error.hint}", "dim"))
    if as_json:
        output.print_json({"files": done})
    if failed:
        raise SystemExit(failed[0].exit_code)


def _looked_at(keeper: Keeper | None, path: Path, session: str | None, as_json: bool) -> Preview:
    """Look at a file and show what it holds."""
    look = Previewer().look if keeper is None else keeper.preview_file
    with bar(f"reading {visible(path.name)}", as_json) as told:
        found = look(path, session, told)
    if not as_json:
        output.console.print(plain(str(path), "bold"))
        output.console.print(rendered(found), crop=False)
    return found


def _told(found: Preview) -> dict[str, Any]:
    return {"preview": asdict(found)}


def _asked(
    keeper: Keeper, path: Path, session: str | None, as_json: bool, yes: bool, asks_here: bool
) -> dict[str, Any]:
    """Show what a file holds, and import just that if it is what is wanted."""
    found = _looked_at(keeper, path, session, as_json)
    here = found.shelf is not None and found.shelf.standing == "known"
    wanted = yes or (not here and not as_json and asks_here and agree("Import it?", proposed=False))
    if not wanted:
        if not as_json:
            note = "It is here already." if here else "Not imported. `torpor open --yes FILE` imports without asking."
            output.console.print(plain(f"  {note}", "dim"))
        return _told(found) | {"imported": None}
    with bar(f"importing {visible(path.name)}", as_json) as told:
        done = keeper.import_file(path, session, told, expected=found.seen, digest=found.digest)
    if not as_json:
        words = "was there before" if done.known else "is imported"
        output.console.print(plain(f"  {done.backup.id} of session {found.session_id} {words}"))
    return _told(found) | {"imported": asdict(done.backup) | {"known": done.known}}


def rendered(found: Preview) -> Any:
    """Lay out a preview for a person."""
    rows = table("!", "")
    what = "a backup, as it was saved" if found.saved else "a state; importing makes a backup of it"
    rows.add_row("  what", f"{_FORMATS[found.format]}, {size(found.size_bytes)}: {what}")
    rows.add_row("  session", found.session_id)
    rows.add_row("  model", found.model_name or "–")
    rows.add_row("  made", when(found.created_at))
    counts = [(found.messages, "message"), (found.images, "image"), (found.videos, "video"), (found.tensors, "tensor")]
    held = [f"{number:,} {word}{'s' * (number != 1)}" for number, word in counts if number]
    held += [f"{found.tokens:,} tokens"] * bool(found.tokens)
    held += [f"{size(found.state_bytes)} unpacked"] * bool(found.state_bytes)
    rows.add_row("  holds", ", ".join(held) or "settings alone")
    rows.add_row("  layers", ", ".join(found.layers))
    for number, line in enumerate(found.lines):
        rows.add_row("" if number else "  newest", f"{line.role}: {line.text}")
    rows.add_row("  checked", "every byte is sound")
    rows.add_row("  here", _standing(found))
    return rows


def _standing(found: Preview) -> str:
    shelf = found.shelf
    if shelf is None:
        return "unknown: the daemon does not run"
    if shelf.standing == "known":
        return f"yes: it is {found.backup_id}"
    if shelf.standing == "incomplete":
        return f"yes, but {size(shelf.new_bytes)} of it are missing, and would come back"
    more = [f"the session has {shelf.backups} other backup{'s' * (shelf.backups != 1)}"] * bool(shelf.backups)
    more += [f"{size(shelf.new_bytes)} would be written"] * bool(shelf.new_bytes)
    return ", ".join(["no", *more])


def _in_dashboard(files: list[Path], session: str | None, print_only: bool, as_json: bool, *, start: bool) -> None:
    """Open the dashboard, with files that wait there for a word."""
    failed: list[tuple[Path, TorporError]] = []
    with _running(start) as keeper:
        waiting = []
        for path in files:
            try:
                waiting.append(hand_over(keeper.api, path, session))
            except TorporError as error:
                failed.append((path, error))
        if failed and not waiting:
            raise failed[0][1]
        link = login_link(keeper.api, route(PAGE, *(each["id"] for each in waiting)) if waiting else "")
    opened = not (print_only or as_json) and webbrowser.open(link["url"])
    if start and not opened:
        raise Unavailable("no browser could be opened", hint="`torpor open --print` prints the link.")
    if as_json:
        problems = [{"path": str(path), "problem": to_problem(error)} for path, error in failed]
        output.print_json(link | {"opened": opened} | ({"imports": waiting, "failed": problems} if files else {}))
        if failed:  # it was told in that object
            raise SystemExit(failed[0][1].exit_code)
        return
    print("The dashboard opens in your browser." if opened else link["url"])  # never wrapped
    if failed:
        raise failed[0][1]


def _running(start: bool) -> Keeper:
    """Return a keeper of the daemon, which is started where nobody else could do it."""
    try:
        return connect()
    except DaemonNotRunning:
        if not start or os.environ.get("TORPOR_URL"):
            raise
    running.start(Home.from_environment(os.environ), os.environ)
    return connect()
