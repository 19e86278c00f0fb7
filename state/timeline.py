"""A session's history as a drawing, as `git log --graph` makes one: which backup comes from which, newest first.

Every tree of backups is drawn in one piece, children above their parents, the branch with the newest backup first. So
the open lanes are a stack: a row stands in the last lane or opens the next one, and a lane only ever joins the one to
its left. Anything may stand in a parent's id: a backup that is gone, one of another session, the backup itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

MAX_LANES = 12  # beyond it a row names its parent instead of leading to it

Place = Literal["here", "elsewhere", "gone"]
_MARKS: dict[Place, str] = {"here": "*", "elsewhere": "o", "gone": "x"}
_Key = tuple[float, str]


class Node(NamedTuple):
    """A backup as far as the drawing knows it. `created_at` in seconds since the epoch."""

    id: str
    parent_id: str | None
    created_at: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the drawing. `graph` ends with its mark; `below` is the line under it, None where there is none.

    `place` tells whether the backup is one of this session, of another one (`elsewhere`), or not there (`gone`): the
    last two are drawn as the ends that the session's backups come from. `leads` tells whether the drawing leads to the
    parent that the backup names; `circular` whether that parent is one of its own descendants.
    """

    id: str
    place: Place
    graph: str
    below: str | None
    leads: bool = False
    circular: bool = False


@dataclass(frozen=True, slots=True)
class Drawing:
    """All rows, top to bottom, and the lanes that go on to older backups below them."""

    rows: tuple[Row, ...]
    tail: str


def draw(
    nodes: Iterable[Node],
    *,
    elsewhere: Collection[str] = (),
    older: Collection[str] = (),
    lanes: int = MAX_LANES,
) -> Drawing:
    """Draw the backups of a session; the time grows with their number (times its logarithm, for sorting).

    `elsewhere` are parents in other sessions, `older` parents in this one that are not among the nodes.
    """
    known = {node.id: node for node in nodes}
    parents, circular = _parents(known)
    children: dict[str, list[str]] = {}
    for child, parent in parents.items():
        if parent is not None:
            children.setdefault(parent, []).append(child)
    newest = _newest(known, parents, children)
    for siblings in children.values():
        siblings.sort(key=newest.__getitem__, reverse=True)
    roots = [name for name, parent in parents.items() if parent is None] + [p for p in children if p not in known]
    roots.sort(key=newest.__getitem__, reverse=True)
    pen = _Pen(lanes)
    for name in _children_first(roots, children):
        if name in known:
            pen.row(name, "here", parents[name], circular=name in circular)
        elif name not in older:  # else its lane goes on to the end of the drawing
            pen.row(name, "elsewhere" if name in elsewhere else "gone", None)
    return pen.drawing()


def _parents(known: dict[str, Node]) -> tuple[dict[str, str | None], set[str]]:
    """Return each node's parent without circles, and the nodes whose link was cut for it: the oldest of each circle."""
    parents = {name: node.parent_id for name, node in known.items()}
    circular: set[str] = set()
    walk_of: dict[str, str] = {}  # node -> the walk that came by first
    for start in known:
        at: str | None = start
        while at is not None and at in known and at not in walk_of:
            walk_of[at] = start
            at = parents[at]
        if at is not None and walk_of.get(at) == start:
            oldest = min(_circle(at, parents), key=lambda name: _key(known[name]))
            parents[oldest] = None
            circular.add(oldest)
    return parents, circular


def _circle(start: str, parents: dict[str, str | None]) -> list[str]:
    found, at = [start], parents[start]
    while at is not None and at != start:
        found.append(at)
        at = parents[at]
    return found


def _key(node: Node) -> _Key:
    return node.created_at, node.id


def _newest(known: dict[str, Node], parents: dict[str, str | None], children: dict[str, list[str]]) -> dict[str, _Key]:
    """Return the key of the newest backup in the tree under each node."""
    newest = {name: _key(node) for name, node in known.items()}
    waiting = {name: len(found) for name, found in children.items()}
    ready = [name for name in known if name not in waiting]
    while ready:
        name = ready.pop()
        parent = parents.get(name)
        if parent is None:
            continue
        newest[parent] = max(newest.get(parent, newest[name]), newest[name])
        waiting[parent] -= 1
        if not waiting[parent]:
            ready.append(parent)
    return newest


def _children_first(roots: list[str], children: dict[str, list[str]]) -> Iterator[str]:
    todo = [(root, False) for root in reversed(roots)]
    while todo:
        name, entered = todo.pop()
        if entered or name not in children:
            yield name
        else:
            todo.append((name, True))
            todo.extend((child, False) for child in reversed(children[name]))


class _Pen:
    """Draws row after row. `_lanes` are the parents that the open lanes lead to, left to right."""

    def __init__(self, most: int) -> None:
        self._most, self._lanes, self._rows = most, list[str](), list[Row]()

    def row(self, name: str, place: Place, parent: str | None, *, circular: bool = False) -> None:
        if self._lanes and self._lanes[-1] == name:
            self._lanes.pop()
        column, below, leads = len(self._lanes), None, parent is not None
        if parent is None or (column >= self._most and self._lanes[-1] != parent):
            leads, below = False, ("| " * column).rstrip()  # or the next row would look like its parent
        elif self._lanes and self._lanes[-1] == parent:
            below = "| " * (column - 1) + "|/"
        else:
            self._lanes.append(parent)
        self._rows.append(Row(name, place, "| " * column + _MARKS[place], below, leads, circular))

    def drawing(self) -> Drawing:
        tail = ("| " * len(self._lanes)).rstrip()
        if self._rows and not self._rows[-1].leads:
            last = self._rows[-1]
            self._rows[-1] = Row(last.id, last.place, last.graph, None, last.leads, last.circular)
        return Drawing(tuple(self._rows), tail)
