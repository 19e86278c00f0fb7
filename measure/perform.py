"""A whole run: groups one behind the other, tables as they come, a file of results, and a chart if one is wanted."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ..state.errors import BadInput, MissingExtra
from . import machine, results, suite, telling
from .place import Need, check
from .rounds import console as notes
from .settings import Settings


@dataclass(frozen=True, slots=True)
class Performed:
    """What became of every group, and the files that were written."""

    outcomes: list[suite.Outcome]
    about: dict[str, Any]
    results: Path
    chart: Path | None

    @property
    def crashed(self) -> bool:
        """Tell whether a group failed; a goal that was missed is no failure."""
        return any(outcome.state == "failed" for outcome in self.outcomes)


def perform(
    groups: Sequence[suite.Group], settings: Settings, write_to: Path, *, chart: Path | None = None, console: Console
) -> Performed:
    """Take the figures of some groups, in a process that `suite.prepare` has set up.

    Raises: StoreFull, OutOfMemory, BadInput before anything is measured.
    """
    need = Need.of(groups, settings)
    check(need, settings.folder.parent)
    for each in (write_to, chart):
        _check_folder(each)
    about = machine.describe(settings.folder)
    telling.tell_start(console, about, need, settings.folder.parent, sum(each.lasts_s(settings) for each in groups))
    started, outcomes = time.monotonic(), list[suite.Outcome]()
    for outcome in suite.run(groups, settings):
        outcomes.append(outcome)
        telling.tell(console, outcome)
        taken = {**about, "cores_given": outcome.cores_given, "quick": settings.quick, "sizes": settings.sizes}
        results.append(write_to, outcome.figures, taken)
    drawn = None if chart is None else _drawn(outcomes, about, chart)
    telling.tell_end(
        console, outcomes, time.monotonic() - started, [each for each in (write_to, drawn) if each and each.exists()]
    )
    return Performed(outcomes, about, write_to, drawn)


def _check_folder(path: Path | None) -> None:
    """Make sure that a file can be written at the end of minutes. Raises: BadInput."""
    if path is None:
        return
    if not path.parent.is_dir() or path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise BadInput(f"no file can be written at {path}", hint="Name a file in a folder that is there.")


def _drawn(outcomes: Sequence[suite.Outcome], about: dict[str, Any], path: Path) -> Path | None:
    """Draw the chart; without matplotlib say how to get it, and where nothing can be drawn, why."""
    figures = [figure for outcome in outcomes for figure in outcome.figures]
    try:
        from .chart import draw

        draw(figures, about, path)
    except (BadInput, MissingExtra) as error:
        notes.print(f"[yellow]no chart:[/] {error.detail}. {error.hint}", highlight=False)
        return None
    return path
