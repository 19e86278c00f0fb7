"""The drawing of a history: golden pictures, and that any drawing can be read back as the links it was made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.state.timeline import MAX_LANES, Drawing, Node, draw


def nodes(text: str) -> list[Node]:
    """`c<b b<a a`: each backup with its parent, newest first."""
    words = [word.partition("<") for word in text.split()]
    return [Node(name, parent or None, float(len(words) - i)) for i, (name, _, parent) in enumerate(words)]


def picture(drawing: Drawing) -> str:
    lines = []
    for row in drawing.rows:
        lines.append(f"{row.graph} {row.id}")
        if row.below is not None:
            lines.append(row.below)
    return "\n".join([*lines, *([drawing.tail] if drawing.tail else [])])


LINE = """\
* c
* b
* a"""
FORK = """\
* e
* d
| * c
|/
* b
* a"""
THREE = """\
* d
| * c
|/
| * b
|/
* a"""
NESTED = """\
* g
* f
| * e
| | * d
| |/
| * c
|/
* b
* a"""
ROOTS = """\
* d
* b

* c
* a"""
GONE = """\
* c
| * b
|/
x a"""
ELSEWHERE = """\
* c
* b
o a"""
OLDER = """\
* d
* c
| * b
| o z
|"""
OLDER_TWICE = """\
* d
| * c
|/
| * b
| * a
| |"""
CLOCK = """\
* b
* a"""
SELF = """\
* b

* a"""
CIRCLE = """\
* d
* c
* b
* a"""
GONE_ROOTS = """\
* b
x p

* a
x q"""


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("", ""), ("a", "* a"), ("c<b b<a a", LINE), ("e<d d<b c<b b<a a", FORK), ("d<a c<a b<a a", THREE),
        ("g<f f<b e<c d<c c<b b<a a", NESTED), ("d<b c<a b a", ROOTS), ("c<a b<a", GONE), ("b<p a<q", GONE_ROOTS),
        ("a b<a", CLOCK), ("b a<a", SELF), ("d<c c<b b<a a<c", CIRCLE),
    ],
    ids=["nothing", "one", "line", "fork", "three children", "nested", "two roots", "removed parent", "two removed",
         "clock that went back", "own parent", "circle"],
)  # fmt: skip
def test_pictures(text: str, drawn: str) -> None:
    assert picture(draw(nodes(text))) == drawn


def test_parents_that_lie_elsewhere_or_further_down() -> None:
    assert picture(draw(nodes("c<b b<a"), elsewhere={"a"})) == ELSEWHERE
    assert picture(draw(nodes("d<c c<y b<z"), older={"y"}, elsewhere={"z"})) == OLDER
    assert picture(draw(nodes("d<y c<y b<a a<z"), older={"y", "z"})) == OLDER_TWICE


def test_the_oldest_link_of_a_circle_is_cut() -> None:
    rows = {row.id: row for row in draw(nodes("d<c c<b b<a a<c")).rows}
    assert [name for name, row in rows.items() if row.circular] == ["a"]
    assert not rows["a"].leads
    assert rows["b"].leads


def test_many_branches_stay_narrow() -> None:
    """Each branch newer than the next piece of the trunk: without a bound the drawing would be as wide as long."""
    trunk = [Node(f"t{i}", f"t{i - 1}" if i else None, float(i)) for i in range(60)]
    leaves = [Node(f"l{i}", f"t{i}", 1000.0 - i) for i in range(60)]
    drawing = draw([*trunk, *leaves])
    assert len(drawing.rows) == 120
    assert max(len(row.graph) for row in drawing.rows) == 2 * MAX_LANES + 1
    assert [row.id for row in drawing.rows if not row.leads and row.id != "t0"]
    assert read_back(drawing) == {r.id: links([*trunk, *leaves])[r.id] for r in drawing.rows if r.leads}


def test_a_fan_and_a_chain_of_thousands() -> None:
    chain = [Node(str(i), str(i - 1) if i else None, float(i)) for i in range(20_000)]
    fan = [Node(f"f{i}", "7", float(i)) for i in range(20_000)]
    drawing = draw([*chain, *fan])
    assert len(drawing.rows) == 40_000
    assert max(len(row.graph) for row in drawing.rows) == 3
    assert sum(len(row.graph) + len(row.below or "") for row in drawing.rows) < 5 * 40_000


def links(made: list[Node]) -> dict[str, str | None]:
    return {node.id: node.parent_id for node in made}


def read_back(drawing: Drawing) -> dict[str, str]:
    """Follow the lanes with the eye: child -> parent. Lanes that go on below the last row are left out."""
    found: dict[str, str] = {}
    lanes: list[list[str]] = []  # the children at the upper end of each open lane
    for i, row in enumerate(drawing.rows):
        column = len(row.graph) // 2
        assert row.graph == "| " * column + row.graph[-1]
        if len(lanes) == column + 1:
            found |= dict.fromkeys(lanes.pop(), row.id)
        assert len(lanes) == column
        if row.below is not None and row.below.endswith("/"):
            assert row.below == "| " * (column - 1) + "|/"
            lanes[-1].append(row.id)
        elif row.below is None and (i + 1 < len(drawing.rows) or len(drawing.tail) > 2 * column):
            lanes.append([row.id])
        elif row.below is not None:
            assert row.below == ("| " * column).rstrip()
    assert ("| " * len(lanes)).rstrip() == drawing.tail
    return found


names = st.integers(0, 14).map(str)
forests = st.dictionaries(names, st.tuples(st.none() | st.integers(0, 19).map(str), st.integers(0, 5)), max_size=15)


@given(forests, st.integers(1, 4), st.sets(st.integers(15, 19).map(str)), st.sets(st.integers(15, 19).map(str)))
def test_any_forest_is_drawn_once_and_reads_back(
    forest: dict[str, tuple[str | None, int]], lanes: int, elsewhere: set[str], older: set[str]
) -> None:
    made = [Node(name, parent, float(at)) for name, (parent, at) in forest.items()]
    elsewhere -= older
    drawing = draw(made, elsewhere=elsewhere, older=older, lanes=lanes)
    rows = {row.id: row for row in drawing.rows}
    here = [row.id for row in drawing.rows if row.place == "here"]
    assert sorted(here) == sorted(forest)
    ends = {parent for parent, _ in forest.values() if parent is not None} - forest.keys() - older
    assert {row.id: row.place for row in drawing.rows if row.place != "here"} == {
        end: "elsewhere" if end in elsewhere else "gone" for end in ends
    }
    assert len(rows) == len(drawing.rows)
    assert all(len(row.graph) <= 2 * lanes + 1 for row in drawing.rows)
    parents = links(made)
    assert read_back(drawing) == {n: parents[n] for n in here if rows[n].leads and parents[n] not in older}
    for name in here:
        parent = parents[name]
        if parent in rows and not rows[name].circular:
            assert list(rows).index(name) < list(rows).index(parent)
        if parent is None or rows[name].circular:
            assert not rows[name].leads
    if here:  # the newest backup, or what comes from it under a clock that went back
        newest, at = max(made, key=lambda node: (node.created_at, node.id)).id, here[0]
        while at != newest:
            assert not rows[at].circular
            at = parents[at] or ""


@given(forests)
def test_the_order_of_the_input_does_not_matter(forest: dict[str, tuple[str | None, int]]) -> None:
    made = [Node(name, parent, float(at)) for name, (parent, at) in forest.items()]
    assert draw(made) == draw(reversed(made))
