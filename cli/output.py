"""How results and failures reach a person or a program: tables, or one JSON object on stdout."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from ..state.backup import Backup
from ..state.errors import TorporError
from ..state.problems import to_problem
from ..store.files import store_error
from .visible import plain, visible

_DEFECT_HINT = "This is a defect; TORPOR_DEBUG=1 shows where. Please report it."
console = Console()
errors = Console(stderr=True)


def survive_encodings() -> None:
    """Write out what the encoding of the terminal or the pipe lacks, instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(value: Any) -> None:
    r"""Print one JSON object. A file name that is not UTF-8 is shown with escapes, as in `a\udcff`."""
    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str)
    except TypeError:
        text = orjson.dumps(_sound(value), option=orjson.OPT_INDENT_2)
    written = text.decode()
    try:
        written.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # JSON has escapes of its own for what a terminal lacks
        written = json.dumps(orjson.loads(text), indent=2)
    sys.stdout.write(written + "\n")


def _sound(value: Any) -> Any:
    if isinstance(value, dict):
        return {_sound(key): _sound(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sound(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value).encode(errors="backslashreplace").decode()


@contextmanager
def reporting(as_json: bool) -> Iterator[None]:
    """Turn any failure into a message (or, with `--json`, its problem) and the exit status of its class."""
    try:
        with _typed():
            yield
    except TorporError as error:
        if as_json:
            print_json(to_problem(error))
        else:
            errors.print(f"[bold red]error[/] [dim]({error.code})[/] ", end="")
            errors.print(visible(error.detail), markup=False, highlight=False)
            errors.print(f"  {visible(error.hint)}", style="dim", markup=False, highlight=False)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        raise SystemExit(0) from None


@contextmanager
def _typed() -> Iterator[None]:
    """Turn what is no error of ours into one."""
    try:
        yield
    except (TorporError, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except OSError as error:
        raise store_error(error, "use", error.filename or "a file") from error
    except Exception as error:  # a defect of ours: said in one line, the rest is for TORPOR_DEBUG
        if os.environ.get("TORPOR_DEBUG"):
            raise
        raise TorporError(f"{type(error).__name__}: {error}", hint=_DEFECT_HINT) from error


def show(value: Any, as_json: bool, render: Callable[[], Any]) -> None:
    """Print a value as JSON, or what `render` makes of it."""
    if as_json:
        print_json(value)
    else:
        console.print(render(), crop=False)


def size(count: float) -> str:
    """Write a number of bytes for a person."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def when(at: float | None) -> str:
    """Write a time for a person, in local time."""
    return "–" if at is None else datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(at: float, now: float) -> str:
    """Write how long ago something was."""
    seconds = max(now - at, 0.0)
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name} ago"
    return f"{seconds / 86_400:.0f} days ago"


def duration(seconds: float) -> str:
    """Write how long something takes."""
    if seconds < 1:
        return f"{max(seconds * 1000, 1):.0f} ms"
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / 3600:.1f} h"


class SafeTable(Table):
    """A table whose cells are shown as they are: no markup is read in them, and no control character gets through."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of texts."""
        super().add_row(*(plain(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def table(*columns: str, title: str | None = None) -> SafeTable:
    """Return an empty table; columns that start with `>` are aligned to the right, those with `!` never wrap."""
    made = SafeTable(
        show_header=any(name.lstrip(">!") for name in columns),
        title=None if title is None else plain(title),
        box=None,
        header_style="bold",
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    for name in columns:
        right = name.startswith(">")
        made.add_column(
            name.lstrip(">!"), justify="right" if right else "left", no_wrap=name[:1] in (">", "!"), overflow="fold"
        )
    return made


def backups_table(rows: list[dict[str, Any]], now: float) -> Table:
    """Lay out backups as the API lists them, one a line; with S3 on also where each is."""
    remote = any(row.get("remote") is not None for row in rows)
    made = table("!id", "session", ">saved", ">tokens", ">total", ">written", *(["in S3"] if remote else []), "")
    for row in rows:
        b = Backup.from_dict(row)
        last = ", ".join(
            ["pinned"] * b.pinned
            + ([f'"{b.title}"'] if b.title else [])
            + [f"group {b.group_name}"] * (b.group_name is not None)
            + ["KV let go"] * (b.dropped_at is not None)
            + ["damaged"] * (b.damaged_bytes > 0)
            + ["not all here"] * (b.absent_bytes > b.damaged_bytes and b.dropped_at is None)
        )
        total, written = size(b.bytes_total), size(b.bytes_written)
        there = [in_bucket(row["remote"])] if remote else []
        made.add_row(b.id, b.session_id, age(b.created_at, now), str(b.tokens), total, written, *there, last)
    return made


def in_bucket(place: dict[str, Any] | None) -> str:
    """Say which stages of a backup the bucket has, and what becomes of the others."""
    if place is None:
        return "–"
    parts = [", ".join(place["stages"]) + ("" if place["checked"] or not place["stages"] else " (not checked)")]
    for words, stages in (("waits", place["waiting"]), ("given up", place["given_up"])):
        if stages:
            parts.append(f"{', '.join(stages)} {words}")
    if place["held"]:
        parts.append("kv kept here")
    return "; ".join(part for part in parts if part) or "no"


def groups_table(groups: list[dict[str, Any]], now: float) -> Table:
    """Lay out groups, one a line."""
    made = table("!id", "name", ">saved", ">sessions", ">total")
    for g in groups:
        whole = g["size"] in (None, g["present"])
        count = str(g["present"]) if whole else f"{g['present']} of {g['size']}"
        made.add_row(g["id"], g["name"], age(g["created_at"], now), count, size(g["bytes_total"]))
    return made
