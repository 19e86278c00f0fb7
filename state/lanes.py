"""A drawing of a session's history (state/timeline.py) as a page draws it: where a row stands, and what leads where.

The open lanes of a row are those left of it: they pass it by. So a row is drawn from these few numbers alone, whatever
stands above and below, and a page draws only the rows that are seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .timeline import Place, Row


@dataclass(frozen=True, slots=True)
class LaneRow:
    """One row. `lane` counts from the left, and as many lanes pass by.

    `enters`: a line comes into it from above, `leads`: one goes on from it to its parent below; with `joins` it goes
    over into the lane at its left.
    """

    id: str
    place: Place
    lane: int
    enters: bool
    leads: bool
    joins: bool
    circular: bool


def in_lanes(rows: Iterable[Row]) -> Iterator[LaneRow]:
    """Yield the rows of a drawing, top to bottom."""
    open_lanes = 0
    for row in rows:
        lane = len(row.graph) // 2
        joins = row.leads and row.below is not None and row.below.endswith("/")
        yield LaneRow(row.id, row.place, lane, open_lanes > lane, row.leads, joins, row.circular)
        open_lanes = lane + (row.leads and not joins)
