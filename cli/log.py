"""`torpor log`: a session's history as a tree, newest first, in plain ASCII; every text of others is written out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text

from ..client import connect
from ..client.history import History, Point
from ..state.happenings import shared_bytes
from ..state.ids import short_id
from ..state.timeline import Row
from . import output
from .output import age, size
from .visible import visible

ROWS_SHOWN = 30  # without --limit
FORKS_SHOWN = 5
NAME_CHARS = 32  # of a model
MIN_TEXT = 24  # columns for what happened, before a terminal breaks the line by itself

_PLACES = {"elsewhere": "in session {}", "gone": "not here: removed, or saved on another machine"}


def log(
    session: Annotated[str, typer.Argument(help="A session id, or a backup of the session.")],
    limit: Annotated[int, typer.Option(min=1, help="How many backups, newest first.")] = ROWS_SHOWN,
    everything: Annotated[bool, typer.Option("--all", help="Every backup, however many.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Draw how a session came about: saves, edits, forks, switches of the model, imports, and what each wrote."""
    with connect() as keeper:
        session_id = keeper.api.backup(session).session_id
        history = keeper.history(session_id, limit=None if everything else limit)
        if as_json:
            output.print_json(to_json(history))
            return
        for line in lines(history, time.time(), output.console.width if output.console.is_terminal else None):
            output.console.print(line, no_wrap=True, overflow="ignore", crop=False)


def to_json(history: History) -> dict[str, Any]:
    """Return everything that is known of a history, with the drawing."""
    found = {"session_id": history.session_id, "title": history.title, "total": history.total, "more": history.more}
    return {**found, "rows": [_row_json(point) for point in history], "tail": history.drawing.tail}


def _row_json(point: Point) -> dict[str, Any]:
    backup, parent = point.backup, point.parent
    counted = backup is not None and point.row.place == "here"
    return {
        **asdict(point.row),
        "backup": None if backup is None else asdict(backup),
        "tokens_added": backup.tokens - parent.tokens if backup is not None and parent is not None else None,
        "shared_bytes": shared_bytes(backup) if backup is not None and counted else None,
        "facts": None if point.facts is None else asdict(point.facts),
        "events": [asdict(event) for event in point.events],
        "forks": list(point.forks),
    }


def lines(history: History, now: float, width: int | None) -> Iterator[Text]:
    """Yield the drawing line by line; `width` is that of a terminal, None where lines are never broken."""
    sheet = _Sheet(history, now)
    yield Text(sheet.title())
    yield Text(sheet.head(), style="bold")
    for point in history:
        yield from sheet.row(point, width)
    if history.drawing.tail:
        yield Text(history.drawing.tail)
    if history.more:
        yield Text(f"and {history.more:,} more (--limit N, --all)", style="dim")


class _Sheet:
    """The columns of a drawing; their widths follow from the index, before any manifest is read."""

    def __init__(self, history: History, now: float) -> None:
        self._history, self._now = history, now
        rows = history.drawing.rows
        models = {b.model_name for b in history.backups.values()}
        self._one_model = len(models) == 1
        self._graph = max((len(text) for row in rows for text in (row.graph, row.below or "")), default=1)
        self._widths = [0] * 6
        cells = [["id", "saved", "tokens", "new", "shared", "" if self._one_model else "model"]]
        for found in [*cells, *map(self._cells, rows)]:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, found, strict=True)]
        self._header = cells[0]

    def title(self) -> str:
        """Say whose history it is."""
        history = self._history
        name = f' "{visible(history.title)}"' if history.title else ""
        model = next(iter({b.model_name for b in history.backups.values()}), None) if self._one_model else None
        of = f", {visible(model)}" if model else ""
        return f"{visible(history.session_id)}{name}: {history.total:,} backup{'s' * (history.total != 1)}{of}"

    def head(self) -> str:
        """Name the columns."""
        return f"{' ' * self._graph}  {self._joined(self._header)}what happened"

    def row(self, point: Point, width: int | None) -> Iterator[Text]:
        """Lay out one row; in a terminal, what does not fit goes on below, beside the lanes."""
        graph = point.row.graph.ljust(self._graph)
        cells = self._joined(self._cells(point.row))
        start = len(graph) + 2 + len(cells)
        text = _what(point)
        pieces = [text]
        if width is not None and start + len(text) > width:
            pieces = [str(part) for part in Text(text).wrap(output.console, max(width - start, MIN_TEXT))]
        yield Text.assemble(f"{graph}  ", (cells, "yellow"), pieces[0].rstrip())
        lanes = point.row.graph[:-1] + ("|" if point.row.leads else "")
        for piece in pieces[1:]:
            yield Text(f"{lanes:<{start}}{piece.rstrip()}")
        if point.row.below is not None:
            yield Text(point.row.below)

    def _joined(self, cells: list[str]) -> str:
        name, *numbers, model = cells
        right = "".join(f"  {cell:>{width}}" for cell, width in zip(numbers, self._widths[1:-1], strict=True))
        return f"{name:<{self._widths[0]}}{right}  " + (f"{model:<{self._widths[-1]}}  " if self._widths[-1] else "")

    def _cells(self, row: Row) -> list[str]:
        backup, parent = self._history.backup(row), self._history.parent(row)
        if backup is None:
            return [short_id(row.id), "", "", "", "", ""]
        model = "" if self._one_model else visible(backup.model_name or "?")
        model = model if len(model) <= NAME_CHARS else model[: NAME_CHARS - 2] + ".."
        added = 0 if parent is None else backup.tokens - parent.tokens
        tokens = f"{backup.tokens:,}" + (f" ({added:+,})" if added else "")
        saved = age(backup.created_at, self._now)
        if row.place != "here":
            return [short_id(row.id), saved, tokens, "", "", model]
        shared = shared_bytes(backup)
        percent = f"{100 * shared // backup.bytes_total}%" if backup.bytes_total else ""
        return [short_id(row.id), saved, tokens, size(backup.bytes_written), percent, model]


def _what(point: Point) -> str:
    """Say what happened, without what has a column of its own."""
    row, backup = point.row, point.backup
    if row.place != "here" or backup is None:
        return visible(_PLACES[row.place].format(backup.session_id if backup is not None else ""))
    parts = [f"{event.kind} {event.text}" for event in point.events if event.kind != "reuse"]
    if row.circular:
        parts.append("its parent comes from itself")
    elif backup.parent_id is not None and not row.leads:
        parts.append(f"parent {short_id(backup.parent_id)}")
    if point.forks:
        more = len(point.forks) - FORKS_SHOWN
        parts.append(f"forked as {', '.join(point.forks[:FORKS_SHOWN])}" + (f" and {more} more" if more > 0 else ""))
    parts += ["pinned"] if backup.pinned else []
    parts += [f"group {backup.group_name}"] if backup.group_name else []
    return visible("; ".join(parts))
