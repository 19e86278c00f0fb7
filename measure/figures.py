"""Figures: samples, what they are compared with, what is required of them, and how people and programs read them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

Unit = Literal["s", "ms", "B", "MiB", "MB/s", "%", "1/min", "tokens", "tokens/s", "x"]
LARGEST = 1e18  # of anything that is measured: ratios of such stay numbers
_MORE_IS_BETTER = ("MB/s", "tokens/s", "x")


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and extremes of some samples."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Return the spread of at least one sample."""
        return cls(statistics.median(samples), min(samples), max(samples))


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: ours against a baseline of the same round, or ours alone.

    A ratio is ours / baseline. `at_most_ratio` and `at_least_ratio` bound the median of the ratios of the rounds,
    `faster_at_least` that of the inverse ones (how many times less), `at_most` the median of ours, in `unit`. At most
    one of them is given. `slack` is subtracted from ours before the ratio is taken.
    """

    group: str
    name: str
    unit: Unit
    ours: list[float]
    against: str = ""
    baseline: list[float] = field(default_factory=list)
    at_most_ratio: float | None = None
    at_most: float | None = None
    slack: float = 0.0
    at_least_ratio: float | None = None
    faster_at_least: float | None = None

    def ratio(self) -> Spread | None:
        """Return the ratio of ours to the baseline, round by round."""
        if not self.baseline:
            return None
        pairs = zip(self.ours, self.baseline, strict=True)
        return Spread.of([(ours - self.slack) / other for ours, other in pairs])

    @property
    def more_is_better(self) -> bool:
        """Tell whether a larger value is the better one."""
        return self.at_least_ratio is not None or (self.at_most_ratio is None and self.unit in _MORE_IS_BETTER)

    def times_better(self) -> Spread | None:
        """Return how many times better ours is than the baseline, or than the bound where it stands alone."""
        ratio = self.ratio() or (None if self.at_most is None else _against(self.ours, self.at_most))
        if ratio is None or self.more_is_better:
            return ratio
        return Spread(*(1 / max(each, 1e-9) for each in (ratio.median, ratio.high, ratio.low)))

    def wanted_times(self) -> float | None:
        """Return how many times better is required; None where nothing is."""
        if self.at_most_ratio is not None:
            return 1 / self.at_most_ratio
        return self.at_least_ratio or self.faster_at_least or (None if self.at_most is None else 1.0)

    def met(self) -> bool | None:
        """Tell whether the requirement is met; None where there is none."""
        ratio = self.ratio()
        if self.at_most_ratio is not None and ratio is not None:
            return ratio.median <= self.at_most_ratio
        if self.at_least_ratio is not None and ratio is not None:
            return ratio.median >= self.at_least_ratio
        if self.faster_at_least is not None and ratio is not None:
            return ratio.median * self.faster_at_least <= 1.0
        return None if self.at_most is None else statistics.median(self.ours) <= self.at_most

    def to_dict(self) -> dict[str, Any]:
        """Return the figure as JSON."""
        return {
            "group": self.group,
            "figure": self.name,
            "unit": self.unit,
            "ours": _to_dict(self.ours),
            "against": self.against or None,
            "baseline": _to_dict(self.baseline),
            "ratio": _spread_dict(self.ratio()),
            "required": {
                "ratio": self.at_most_ratio,
                "ratio_at_least": self.at_least_ratio,
                "faster_at_least": self.faster_at_least,
                "value": self.at_most,
                "slack": self.slack,
            },
            "met": self.met(),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Figure:
        """Return what `to_dict` wrote. Raises: KeyError, TypeError, ValueError for what it did not write."""
        wanted, ours, baseline = found["required"], _samples(found["ours"]), _samples(found["baseline"])
        if baseline and (len(baseline) != len(ours) or 0.0 in baseline):
            raise ValueError("a round lacks its baseline")
        unit: Any = text_of(found["unit"])
        return cls(
            text_of(found["group"]),
            text_of(found["figure"]),
            unit,
            ours,
            text_of(found["against"] or ""),
            baseline,
            at_most_ratio=_number_or_none(wanted["ratio"]),
            at_most=_number_or_none(wanted["value"]),
            slack=_finite(wanted["slack"]),
            at_least_ratio=_number_or_none(wanted.get("ratio_at_least")),
            faster_at_least=_number_or_none(wanted.get("faster_at_least")),
        )


def _against(samples: list[float], bound: float) -> Spread:
    return Spread.of([each / bound for each in samples])


def _samples(found: Mapping[str, Any] | None) -> list[float]:
    return [] if found is None else [_finite(each) for each in found["samples"]]


def _finite(value: Any) -> float:
    number = float(value)
    if not -LARGEST < number < LARGEST:  # nor is NaN
        raise ValueError("no time and no size is so large")
    return number


def _number_or_none(value: Any) -> float | None:
    return None if value is None else _finite(value)


def text_of(value: Any) -> str:
    """Return a text that a terminal can be given. Raises: ValueError for anything else."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError("this is no text")
    return value


def _to_dict(samples: list[float]) -> dict[str, Any] | None:
    return {**(_spread_dict(Spread.of(samples)) or {}), "samples": samples} if samples else None


def _spread_dict(spread: Spread | None) -> dict[str, float] | None:
    return None if spread is None else {"median": spread.median, "min": spread.low, "max": spread.high}


def table(title: str, figures: Sequence[Figure]) -> Table:
    """Lay out the figures of a group, those of one name together. A cell is `median (min–max)` of the rounds."""
    made = Table(title=title, box=None, header_style="bold", pad_edge=False, title_justify="left", title_style="bold")
    for name in ("figure", "ours", "baseline", "ratio", "required", "met"):
        made.add_column(name, justify="left" if name in ("figure", "met") else "right", overflow="fold")
    for i, figure in enumerate(figures):
        if i == 0 or figure.name != figures[i - 1].name or not figure.against:
            alone = ("", "") if figure.against else _verdict(figure)
            made.add_row(escape(figure.name), _cell(figure.ours, figure.unit), "", "", *alone)
        if figure.against:
            made.add_row(
                f"  / {escape(figure.against)}", "", _cell(figure.baseline, figure.unit), *_judged_ratio(figure)
            )
    return made


def _judged_ratio(figure: Figure) -> tuple[str, str, str]:
    ratio = figure.ratio()
    text = "" if ratio is None else f"{_short(ratio.median)} [dim]({_short(ratio.low)}–{_short(ratio.high)})[/]"
    return (text, *_verdict(figure))


def _verdict(figure: Figure) -> tuple[str, str]:
    return required(figure), {None: "", True: "[green]yes[/]", False: "[bold red]NO[/]"}[figure.met()]


def required(figure: Figure) -> str:
    """Write a requirement for a person."""
    slack = f" + {number(figure.slack, figure.unit)}" if figure.slack else ""
    if figure.at_most_ratio is not None:
        return f"≤ {figure.at_most_ratio:.3g} ×{slack}"
    if figure.at_least_ratio is not None:
        return f"≥ {figure.at_least_ratio:.3g} ×"
    if figure.faster_at_least is not None:
        return f"{figure.faster_at_least:g} × faster"
    return "" if figure.at_most is None else f"≤ {number(figure.at_most, figure.unit)}"


def _cell(samples: list[float], unit: Unit) -> str:
    if not samples:
        return ""
    spread = Spread.of(samples)
    factor, name = _scale(spread.median, unit)
    median, low, high = (_digits(each * factor) for each in (spread.median, spread.low, spread.high))
    return f"{median} {name}" + (f" [dim]({low}–{high})[/]" if len(samples) > 1 else "")


def _short(ratio: float) -> str:
    return f"{ratio:,.{1 if ratio >= 10 else 2 if ratio >= 0.2 else 3 if ratio >= 0.02 else 5}f}"


def number(value: float, unit: Unit) -> str:
    """Write a value: short times as ms, bytes as KiB, MiB or GiB."""
    factor, name = _scale(value, unit)
    return f"{_digits(value * factor)} {name}"


def _scale(value: float, unit: Unit) -> tuple[float, str]:
    """Return what a value is multiplied with to be written, and the unit that it has then."""
    if unit == "s":
        return (1.0, "s") if value >= 10 else (1e3, "ms")
    if unit == "B":
        power = 3 if value >= 2**30 else 2 if value >= 2**20 else 1
        return 2.0 ** (-10 * power), ("KiB", "MiB", "GiB")[power - 1]
    return 1.0, unit


def _digits(value: float) -> str:
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"
