"""`torpor export` and `torpor import`: backups as files, and files as backups."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..client import Keeper, connect
from ..client.importing import Imported
from ..client.transfer import SUFFIXES, ExportFormat, check_format
from ..state.errors import DaemonNotRunning, NotFound, StoreFull, Timeout, TorporError
from ..state.problems import to_problem
from . import output
from .output import show, size
from .progress import bar
from .visible import plain, visible

_ENDINGS: dict[ExportFormat, str] = {"bundle": ".bundle.qwnbak", "v1": ".qwnbak", "safetensors": ".safetensors"}

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Ref = Annotated[str, typer.Argument(help="A backup id or the end of one, or a session id for its newest backup.")]


def export(
    ref: Ref,
    kind: Annotated[
        str, typer.Option("--format", help="bundle (everything), v1 (portable) or safetensors.")
    ] = "bundle",
    out: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write; else one named after the backup, here.")
    ] = None,
    v1_strict: Annotated[
        bool, typer.Option("--v1-strict", help="Write only what the first reader of v1 knew: float16, no extensions.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write a backup to one file and read it back. An interrupted export goes on where it was."""
    wanted = check_format(kind)
    with connect() as keeper:
        backup = keeper.api.backup(ref)
        target = out or Path(f"{backup.id}{_ENDINGS[wanted]}")
        with bar("exporting", as_json) as told:
            done = keeper.export(backup.id, target, wanted, told, strict=v1_strict, force=force)
    value = {"id": backup.id, "session_id": backup.session_id, **asdict(done), "path": str(done.path)}

    def render() -> Any:
        rows = output.table("!", "")
        resumed = f", {size(done.resumed_bytes)} of it from an export before" if done.resumed_bytes else ""
        rows.add_row("wrote", f"{done.path} ({size(done.size_bytes)}{resumed}), read back and verified")
        for name, why in done.losses.left_out.items():
            rows.add_row("not carried", f"{name}: {why}")
        for path, what in done.losses.changed.items():
            rows.add_row("changed", visible(f"{path}: {what}"))
        return rows

    show(value, as_json, render)


def import_files(
    paths: Annotated[list[Path], typer.Argument(help="Files (v1, bundle, .safetensors, .pt), or folders of them.")],
    session: Annotated[str | None, typer.Option("--session", help="The session to put them in.")] = None,
    as_json: Json = False,
) -> None:
    """Make backups of state files. What was imported before is left alone."""
    files = [file for path in paths for file in _files_of(path)]
    with connect() as keeper:
        if len(files) == 1 and not paths[0].is_dir():
            value = _one(keeper, files[0], session, as_json)
            show(value, as_json, lambda: _line(value))
        else:
            _many(keeper, files, session, as_json)


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise NotFound(f"there is no {path}", hint="Name a file, or a folder of files.")
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file() and not p.name.startswith("."))
    if not found:
        raise NotFound(f"{path} holds no state files", hint=f"Files end with {', '.join(SUFFIXES)}.")
    return found


def _one(keeper: Keeper, path: Path, session: str | None, as_json: bool) -> dict[str, Any]:
    with bar(f"importing {visible(path.name)}", as_json) as told:
        done: Imported = keeper.import_file(path, session, told)
    return {**asdict(done.backup), "known": done.known, "format": done.format, "path": str(path)}


def _line(value: dict[str, Any]) -> Any:
    how = "was imported before as" if value["known"] else f"({value['format']}) is now"
    return plain(f"{value['path']} {how} {value['id']} of session {value['session_id']}")


def _many(keeper: Keeper, files: list[Path], session: str | None, as_json: bool) -> None:
    """Import several files; one that cannot be read does not stop the others, one reason that stops all does."""
    done: list[dict[str, Any]] = []
    failed: list[tuple[Path, TorporError]] = []
    for path in files:
        try:
            value = _one(keeper, path, session, as_json)
        except (DaemonNotRunning, StoreFull, Timeout):
            raise
        except TorporError as error:
            failed.append((path, error))
            if not as_json:
                output.console.print(plain(f"{path}: {error.detail} ({error.code})"))
            continue
        done.append(value)
        if not as_json:
            output.console.print(_line(value))
    problems = [{"path": str(path), "problem": to_problem(error)} for path, error in failed]
    new = sum(not value["known"] for value in done)
    summary = f"{new} imported, {len(done) - new} there before, {len(failed)} failed"
    show({"imported": done, "failed": problems}, as_json, lambda: summary)
    if failed:
        raise SystemExit(failed[0][1].exit_code)
