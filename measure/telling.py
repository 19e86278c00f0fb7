"""What a run says: a table a group as soon as it is done, what was missed at the end, and where all of it lies."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from . import compare, results
from .figures import Figure, number, required, table
from .place import Need
from .suite import Outcome

WIDTH = 120  # where nobody sees it grow: a file, a pipe


def wide(console: Console) -> Console:
    """Return a console on the same stream that has room for the tables."""
    return console if console.is_terminal else Console(file=console.file, width=WIDTH)


def tell_start(console: Console, about: dict[str, Any], need: Need, folder: Path, lasts_s: float) -> None:
    """Say what is measured on, and what that takes."""
    for part in ("machine", "versions"):
        said = ", ".join(f"{name} {value}" for name, value in about[part].items())
        console.print(f"[dim]{escape(said)}[/]", highlight=False)
    takes = f"{_gib(need.disk_bytes)} on the disk of {escape(str(folder))} and {_gib(need.memory_bytes)} of memory"
    minutes = "a minute" if lasts_s <= 60 else f"{ceil(lasts_s / 60)} minutes"
    console.print(
        f"It takes about {minutes} on two free cores, and at most {takes}; all of it is removed again.\n",
        highlight=False,
        soft_wrap=True,
    )


def tell(console: Console, outcome: Outcome) -> None:
    """Print what a group gave."""
    if outcome.state == "done":
        console.print(table(outcome.group.title, outcome.figures))
        console.print(_cores_line(outcome.cores_given) + "\n", highlight=False)
        return
    colour, word = ("yellow", "left out") if outcome.state == "left out" else ("bold red", "failed")
    console.print(f"[bold]{outcome.group.title}[/]\n[{colour}]{word}:[/] {escape(outcome.reason)}\n", highlight=False)


def tell_end(console: Console, outcomes: Sequence[Outcome], took_s: float, files: Sequence[Path]) -> None:
    """Print what was missed, what is not there, and where the figures are."""
    judged = [figure for outcome in outcomes for figure in outcome.figures if figure.met() is not None]
    missed = [figure for figure in judged if not figure.met()]
    for figure in missed:
        console.print(f"[bold red]missed:[/] {escape(sentence(figure))}", highlight=False)
    for outcome in outcomes:
        if outcome.state != "done":
            console.print(f"[yellow]{outcome.state}:[/] {outcome.group.name}", highlight=False)
    written = ", ".join(escape(str(path)) for path in files)
    console.print(
        f"{len(judged) - len(missed)} of {len(judged)} goals reached, in {took_s:.0f} s. {written}",
        highlight=False,
        soft_wrap=True,
    )


def sentence(figure: Figure) -> str:
    """Name a figure with what is required of it, and what it is."""
    ratio = figure.ratio()
    found = number(statistics.median(figure.ours), figure.unit) if ratio is None else f"{ratio.median:.3g} ×"
    against = f" / {figure.against}" if figure.against else ""
    return f"{figure.name}{against}: {found}, required {required(figure)}"


def tell_comparison(console: Console, old: results.Run, new: results.Run) -> None:
    """Print two runs side by side, and what differs between their machines."""
    for name, each in (("before", old), ("after", new)):
        taken = escape(f"{each.about['at'] or 'at no known time'}  commit {each.about['commit'] or 'unknown'}")
        console.print(f"[bold]{name}[/]  {escape(str(each.path))}  {taken}", highlight=False, soft_wrap=True)
    if found := compare.differences(old, new):
        console.print("[yellow]not the same machine, or not the same versions:[/] " + escape("; ".join(found)))
    console.print(compare.table(compare.compare(old, new)))
    console.print(f"[dim]{MEANING}[/]", highlight=False)


MEANING = (
    "× is ours / baseline, so that the speed of the machine cancels. Within the spread: either median lies within the "
    f"other run's range (of a single number: within {compare.LONE:.0%})."
)


def _cores_line(given: float) -> str:
    """Tell when a virtual machine's host, or other work on this one, let fewer cores run than there are."""
    cores = os.cpu_count() or 1
    colour = "dim" if given > 0.9 * cores else "yellow"
    return f"[{colour}]{cores} threads ran on {given:.1f} cores[/]"


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
