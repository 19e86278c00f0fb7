"""The chart: how many times better each figure is than what it is compared with, and where its goal lies."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..state.errors import BadInput, MissingExtra
from .figures import Figure, Spread, number

MET, MISSED, PLAIN, INK, DIM, FAINT = "#2f8f6b", "#c8472f", "#8ba3bd", "#22303c", "#5f6f7d", "#d5dce3"
ROW_INCHES, WIDTH_INCHES, ABOVE_INCHES, BELOW_INCHES = 0.25, 11.0, 1.1, 0.95
LEFT, BARS_LEFT, BARS_WIDTH = 0.03, 0.43, 0.5  # shares of the width
LABEL_CHARS, DOTS_PER_INCH = 56, 130
LEAST, MOST = 0.4, 2.5  # the axis reaches so far at least
GAP = 0.45  # of a row, above each figure
TICKS = sorted(each * 10.0**power for power in range(-6, 9) for each in (1, 2, 5))


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the chart at a height of so many rows: a name, what it is compared with, a bar; any may be missing."""

    at: float
    name: str = ""
    against: str = ""
    times: Spread | None = None
    goal: float | None = None
    met: bool | None = None


def rows_of(figures: Sequence[Figure]) -> list[Row]:
    """Return the lines for some figures: what has neither a baseline nor a bound is not drawn."""
    rows: list[Row] = []
    for name, together in groupby(figures, lambda each: each.name):
        bars = [each for each in together if each.times_better() is not None]
        at = rows[-1].at + 1 + GAP if rows else 0.0
        alone = len(bars) == 1 and len(name) + len(_label(bars[0])) < LABEL_CHARS
        if bars and not alone:
            rows.append(Row(at, name))
            at += 1
        rows += [_bar(at + i, name if alone else "", each) for i, each in enumerate(bars)]
    return rows


def _bar(at: float, name: str, figure: Figure) -> Row:
    return Row(at, name, _label(figure), figure.times_better(), figure.wanted_times(), figure.met())


def _label(figure: Figure) -> str:
    if figure.against:
        return figure.against
    return "" if figure.at_most is None else f"the goal, {number(figure.at_most, figure.unit)}"


def draw(figures: Sequence[Figure], about: dict[str, Any], path: Path) -> None:
    """Write the chart as a PNG file. Raises: MissingExtra, BadInput when there is nothing to draw."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed", hint="pip install 'torpor[bench]'") from error
    rows = rows_of(figures)
    if not rows:
        raise BadInput("none of these figures has anything to be compared with", hint="Take others with --only.")
    height = ABOVE_INCHES + BELOW_INCHES + ROW_INCHES * (rows[-1].at + 1)
    canvas = Canvas(figsize=(WIDTH_INCHES, height), dpi=DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(canvas)
    axes = canvas.add_axes((BARS_LEFT, BELOW_INCHES / height, BARS_WIDTH, 1 - (ABOVE_INCHES + BELOW_INCHES) / height))
    _arrange(axes, rows)
    for row in rows:
        _draw_row(axes, row)
    _words(canvas, axes, about, height)
    canvas.savefig(path)


def _arrange(axes: Any, rows: Sequence[Row]) -> None:
    seen = [value for row in rows if row.times for value in (row.times.low, row.times.high, row.goal or 1.0)]
    low, high = min(LEAST, min(seen) / 1.3), max(MOST, max(seen) * 2.0)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(rows[-1].at + 0.6, -0.6)
    axes.set_yticks([])
    few = high / low > 1e3  # then only powers of ten are named, and what is near 1
    named = [each for each in TICKS if low <= each <= high and (not few or f"{each:e}"[0] == "1" or 0.4 < each < 6)]
    axes.set_xticks(named, [f"{each:,.4g}×" for each in named])
    axes.set_xticks([], minor=True)
    axes.tick_params(axis="x", which="both", colors=INK, labelsize=9, length=0)
    axes.grid(axis="x", which="major", color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.axvline(1.0, color=INK, linewidth=1.0)
    for side in axes.spines.values():
        side.set_visible(False)


def _draw_row(axes: Any, row: Row) -> None:
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
    name, against = textwrap.shorten(row.name, LABEL_CHARS + 10), textwrap.shorten(row.against, LABEL_CHARS)
    axes.text((LEFT - BARS_LEFT) / BARS_WIDTH, row.at, name, fontweight="bold", color=INK, **beside)
    axes.text(-0.01, row.at, against, ha="right", color=DIM, **beside)
    if row.times is None:
        return
    colour = {None: PLAIN, True: MET, False: MISSED}[row.met]
    axes.barh(row.at, row.times.median - 1, left=1, height=0.66, color=colour)
    axes.hlines(row.at, row.times.low, row.times.high, color=INK, linewidth=1.1)
    if row.goal is not None:
        axes.vlines(row.goal, row.at - 0.46, row.at + 0.46, color=INK, linewidth=2.4)
    right = max(row.times.high, row.goal or 0.0, 1.0)
    said = {"va": "center", "color": colour, "fontweight": "bold", "fontsize": 9}
    axes.text(right * 1.06, row.at, _times(row.times.median), **said)


def _times(value: float) -> str:
    return f"{value:,.0f}×" if value >= 100 else f"{value:.1f}×" if value >= 10 else f"{value:.2f}×"


def _words(canvas: Any, axes: Any, about: dict[str, Any], height: float) -> None:
    machine, versions = about.get("machine") or {}, about.get("versions") or {}
    canvas.text(LEFT, 1 - 0.36 / height, "Torpor, side by side", fontsize=15, fontweight="bold", color=INK)
    canvas.text(
        LEFT, 1 - 0.66 / height, "How many times better than what it is compared with: longer to the right is better.",
        fontsize=10, color=INK,
    )  # fmt: skip
    x, y = BARS_LEFT, 1 - 0.94 / height
    for colour, words in ((MET, "reaches its goal"), (MISSED, "misses it"), (PLAIN, "no goal"), (INK, "│ the goal")):
        canvas.text(x, y, words if colour == INK else f"■ {words}", fontsize=9, color=colour)
        x += 0.13
    axes.set_xlabel(
        "worse  ←  equal at 1×  →  better      (a thin line is the range of the rounds)", color=INK, fontsize=9
    )
    said = [f"{machine.get('cpu')}, {machine.get('cores')} cores, {machine.get('filesystem')}, {machine.get('kernel')}"]
    said += [", ".join(f"{name} {version}" for name, version in versions.items())]
    canvas.text(LEFT, 0.14 / height, "\n".join(said), fontsize=7.5, color=DIM, linespacing=1.5)
