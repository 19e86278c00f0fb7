"""A menu as lines with stable numbers, and what changes from one menu to the next. Pure: no bus, no threads.

A number belongs to one line for the life of the process: a click that was meant for a line that has gone, or that came
to stand where it stood, never reaches another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

ROOT = 0
Value = str | bool | int


class Item(Protocol):
    """What is read of a `pystray.MenuItem`."""

    text: str
    checked: bool | None
    radio: bool
    enabled: bool

    @property
    def submenu(self) -> Iterable[Item] | None:
        """The menu behind it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what it says (properties of com.canonical.dbusmenu without those that have their default)."""

    number: int
    parent: int
    properties: Mapping[str, Value]
    children: tuple[int, ...]
    click: Callable[[Any], object] | None  # takes the icon; None: there is nothing to click


Lines = Mapping[int, Line]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a host has to be told."""

    updated: tuple[tuple[int, Mapping[str, Value]], ...] = ()
    removed: tuple[tuple[int, tuple[str, ...]], ...] = ()  # properties that are at their default again
    below: int | None = None  # the line whose children are others now


@dataclass(slots=True)
class Book:
    """Knows which line has which number.

    A line is known by the `key` of its action or submenu, or else by its text: one with a key may say something else
    and stay itself.
    """

    _numbers: dict[tuple[str, ...], int] = field(default_factory=dict)
    _next: Iterator[int] = field(default_factory=lambda: count(1))

    def read(self, menu: Iterable[Item] | None, separator: object) -> dict[int, Line]:
        """Give numbers to a menu's lines: new ones to what the last menu did not have."""
        lines: dict[int, Line] = {}
        used: dict[tuple[str, ...], int] = {}
        top = self._children(menu or (), separator, ROOT, (), lines, used)
        lines[ROOT] = Line(ROOT, ROOT, {"children-display": "submenu"}, top, None)
        self._numbers = used
        return lines

    def _children(
        self,
        menu: Iterable[Item],
        separator: object,
        parent: int,
        path: tuple[str, ...],
        lines: dict[int, Line],
        used: dict[tuple[str, ...], int],
    ) -> tuple[int, ...]:
        numbers = []
        for item in menu:
            place = _unused((*path, "-" if item is separator else _key(item)), used)
            number = used[place] = self._numbers.get(place) or next(self._next)
            numbers.append(number)
            if item is separator:
                lines[number] = Line(number, parent, {"type": "separator"}, (), None)
                continue
            below = () if item.submenu is None else self._children(item.submenu, separator, number, place, lines, used)
            clickable = item.enabled and item.submenu is None
            lines[number] = Line(number, parent, _properties(item), below, _click(item) if clickable else None)
        return tuple(numbers)


def _unused(place: tuple[str, ...], used: Mapping[tuple[str, ...], int]) -> tuple[str, ...]:
    """Tell lines apart that are known by the same words."""
    for copy in count(2):
        if place not in used:
            break
        place = (*place[:-1], f"{place[-1].split(chr(0))[0]}\0{copy}")
    return place


def _key(item: Item) -> str:
    action = item.submenu if item.submenu is not None else getattr(item, "_action", None)
    key = getattr(action, "key", None)
    return f"text:{item.text}" if key is None else f"key:{key}"


def _click(item: Item) -> Callable[[Any], object] | None:
    return item if callable(item) else None


def _properties(item: Item) -> dict[str, Value]:
    found: dict[str, Value] = {"label": label(item.text)}
    if not item.enabled:
        found["enabled"] = False
    if item.submenu is not None:
        found["children-display"] = "submenu"
    elif item.checked is not None:
        found["toggle-type"] = "radio" if item.radio else "checkmark"
        found["toggle-state"] = int(item.checked)
    return found


def label(text: str) -> str:
    """Return a text as a label has it: an underscore would mark the letter behind it as a shortcut."""
    return sayable(text).replace("_", "__")


def sayable(text: str) -> str:
    """Return a text without what a D-Bus string cannot hold: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def compare(old: Lines, new: Lines) -> Changes:
    """Say what a host that shows `old` has to be told to show `new`."""
    updated, removed, moved = [], [], []
    for number in old.keys() & new.keys():
        before, after = old[number], new[number]
        changed = {name: value for name, value in after.properties.items() if before.properties.get(name) != value}
        gone = tuple(name for name in before.properties if name not in after.properties)
        if changed:
            updated.append((number, changed))
        if gone:
            removed.append((number, gone))
        if before.children != after.children:
            moved.append(number)
    below = None if not moved else moved[0] if len(moved) == 1 else ROOT
    return Changes(tuple(sorted(updated, key=_first)), tuple(sorted(removed, key=_first)), below)


def _first(pair: tuple[int, object]) -> int:
    return pair[0]
