"""A row of a drawing says by itself what a page draws of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from torpor.state.lanes import LaneRow, in_lanes
from torpor.state.timeline import Node, draw

MARKS = {"here": "*", "elsewhere": "o", "gone": "x"}


@st.composite
def histories(draw_of: st.DrawFn) -> list[Node]:
    count = draw_of(st.integers(1, 25))
    parent = st.none() | st.integers(0, count + 2).map(lambda n: f"b{n}")
    return [Node(f"b{n}", draw_of(parent), float(draw_of(st.integers(0, 9)))) for n in range(count)]


def written(row: LaneRow) -> list[str]:
    """Write a row as `torpor log` does."""
    lines = ["| " * row.lane + MARKS[row.place]]
    return lines + (["| " * (row.lane - 1) + "|/"] if row.joins else [])


@given(nodes=histories(), lanes=st.integers(1, 6))
def test_lanes_are_the_drawing(nodes: list[Node], lanes: int) -> None:
    drawing = draw(nodes, elsewhere={"b26"}, lanes=lanes)
    rows = list(in_lanes(drawing.rows))
    lines = [line or "" for row in drawing.rows for line in (row.graph, row.below)]
    said = [line for line in lines if line.endswith(("*", "o", "x", "/"))]
    assert [line for row in rows for line in written(row)] == said


@given(nodes=histories())
def test_every_line_that_is_begun_is_met_again(nodes: list[Node]) -> None:
    """What leads on from a row enters the next row of that lane: no page draws a line into nothing."""
    open_lanes: set[int] = set()
    for row in in_lanes(draw(nodes).rows):
        assert row.enters == (row.lane in open_lanes)
        assert open_lanes - {row.lane} == set(range(row.lane)), "the lanes at its left pass it by"
        open_lanes = set(range(row.lane)) | ({row.lane} if row.leads and not row.joins else set())
    assert not open_lanes


def test_a_fork_joins_the_lane_it_came_from() -> None:
    nodes = [Node("a", None, 1.0), Node("b", "a", 2.0), Node("c", "a", 3.0)]
    assert list(in_lanes(draw(nodes).rows)) == [
        LaneRow("c", "here", 0, enters=False, leads=True, joins=False, circular=False),
        LaneRow("b", "here", 1, enters=False, leads=True, joins=True, circular=False),
        LaneRow("a", "here", 0, enters=True, leads=False, joins=False, circular=False),
    ]
