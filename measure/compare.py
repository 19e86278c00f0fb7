"""Two runs, figure by figure. What has a baseline is compared by its ratio, so that another machine's speed cancels.

A figure is told to be better or worse only where each median lies outside of the range of the other run; a single
number (a percentile, say) has no range, and is given `LONE` of play.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from .figures import Figure, Spread
from .results import Run

LONE = 0.10
_TIMES = ("s", "ms", "MB/s", "tokens/s")

Verdict = Literal["within the spread", "faster", "slower", "better", "worse", "only before", "new"]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both runs. The values are ratios to the baseline where `is_ratio`, else in the figure's unit."""

    group: str
    name: str
    against: str
    unit: str
    is_ratio: bool
    old: Spread | None
    new: Spread | None
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Return the change as JSON."""
        return asdict(self)


def compare(old: Run, new: Run) -> list[Change]:
    """Return every figure of either run, in the order of the new one."""
    before, after = _by_key(old), _by_key(new)
    return [_change(before.get(key), after.get(key)) for key in (*after, *(key for key in before if key not in after))]


def differences(old: Run, new: Run) -> list[str]:
    """Name what differs between the two machines; their load is no difference."""
    return [
        f"{name}: {then!s} → {now!s}"
        for part in ("machine", "versions")
        for name, then, now in _differing(old.about.get(part) or {}, new.about.get(part) or {})
        if name != "load"
    ]


def table(changes: list[Change]) -> Table:
    """Lay out changes for a person."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("figure", "before", "after", "change", ""):
        made.add_column(name, justify="left" if name in ("figure", "") else "right", overflow="fold")
    group = ""
    for each in changes:
        if each.group != group:
            made.add_row(f"[bold]{escape(each.group)}[/]")
            group = each.group
        name = escape(each.name + (f" / {each.against}" if each.against else ""))
        made.add_row(f"  {name}", _cell(each, each.old), _cell(each, each.new), _moved(each), _coloured(each.verdict))
    return made


def _by_key(run: Run) -> dict[tuple[str, str, str], Figure]:
    return {(each.group, each.name, each.against): each for each in run.figures}


def _change(old: Figure | None, new: Figure | None) -> Change:
    shown = new or old
    assert shown is not None
    then, now = _spread(old), _spread(new)
    is_ratio = bool(shown.baseline)
    return Change(
        shown.group, shown.name, shown.against, shown.unit, is_ratio, then, now, _verdict(shown, then, now)
    )  # fmt: skip


def _spread(figure: Figure | None) -> Spread | None:
    if figure is None or not figure.ours:
        return None
    return figure.ratio() or Spread.of(figure.ours)


def _verdict(figure: Figure, old: Spread | None, new: Spread | None) -> Verdict:
    if old is None or new is None:
        return "only before" if new is None else "new"
    if _is_within(new.median, old) or _is_within(old.median, new):
        return "within the spread"
    gained = (new.median > old.median) == figure.more_is_better
    if figure.unit in _TIMES:
        return "faster" if gained else "slower"
    return "better" if gained else "worse"


def _is_within(value: float, spread: Spread) -> bool:
    low, high = spread.low, spread.high
    if low == high:
        low, high = low - LONE * abs(low), high + LONE * abs(high)
    return low <= value <= high


def _differing(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            yield name, old.get(name, "none"), new.get(name, "none")


def _cell(change: Change, spread: Spread | None) -> str:
    if spread is None:
        return "–"
    unit = " ×" if change.is_ratio else f" {escape(change.unit)}"
    text = f"{spread.median:.4g}{unit}"
    return text if spread.low == spread.high else f"{text} [dim]({spread.low:.3g}–{spread.high:.3g})[/]"


def _moved(change: Change) -> str:
    if change.old is None or change.new is None or not change.old.median:
        return ""
    return f"{(change.new.median / change.old.median - 1) * 100:+.0f} %"


def _coloured(verdict: Verdict) -> str:
    colour = {"faster": "green", "better": "green", "slower": "bold red", "worse": "bold red"}.get(verdict, "dim")
    return f"[{colour}]{verdict}[/]"
