"""Menus as numbered lines: a host that is told only what changed shows what one that reads it all anew shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from torpor.tray.menu_lines import ROOT, Book, Changes, Line, compare, label, sayable


@dataclass(eq=False)
class Item:
    text: str
    checked: bool | None = None
    radio: bool = False
    enabled: bool = True
    submenu: Any = None
    key: str | None = None

    @property
    def _action(self) -> Any:
        return self

    def __call__(self, icon: Any) -> str:
        return self.text


class Menu(tuple[Any, ...]):
    key: str | None = None


SEPARATOR = Item("-")
texts = st.sampled_from(["hike", "cats", "a_b", "Quit"])
items = st.builds(
    Item,
    text=texts,
    checked=st.sampled_from([None, True, False]),
    radio=st.booleans(),
    enabled=st.booleans(),
    key=st.sampled_from([None, "one", "two"]),
)
menus = st.recursive(
    st.lists(items | st.just(SEPARATOR), max_size=5).map(Menu),
    lambda inner: st.lists(
        items | st.just(SEPARATOR) | st.builds(Item, text=texts, submenu=inner, key=st.just(None)), max_size=5
    ).map(Menu),
    max_leaves=12,
)
Shown = dict[int, tuple[dict[str, Any], tuple[int, ...]]]


def shown(lines: Mapping[int, Line], number: int = ROOT) -> Shown:
    """What a host has read: what every line says, and what is below it."""
    line = lines[number]
    found = {number: (dict(line.properties), line.children)}
    for child in line.children:
        found |= shown(lines, child)
    return found


def told(host: Shown, changes: Changes, lines: Mapping[int, Line]) -> Shown:
    """What it shows once it has been told: other properties at once, other lines by reading below one of them."""
    host = {number: (dict(found), below) for number, (found, below) in host.items()}
    for number, changed in changes.updated:
        host[number][0].update(changed)
    for number, names in changes.removed:
        for name in names:
            del host[number][0][name]
    if changes.below is not None:
        host |= shown(lines, changes.below)
    return {number: host[number] for number in reachable(host)}


def reachable(host: Shown, number: int = ROOT) -> list[int]:
    return [number, *(each for child in host[number][1] for each in reachable(host, child))]


@given(st.lists(menus, min_size=2, max_size=5))
def test_a_host_that_is_told_the_changes_shows_the_menu(life: list[Any]) -> None:
    book = Book()
    lines = book.read(life[0], SEPARATOR)
    host = shown(lines)
    owners: dict[int, str] = {}
    for menu in life[1:]:
        after = book.read(menu, SEPARATOR)
        host = told(host, compare(lines, after), after)
        assert host == shown(after)
        assert compare(after, after) == Changes()
        for number, line in after.items():  # a number never comes to mean something else
            if callable(line.click):
                assert isinstance(line.click, Item)
                known = line.click.key or line.click.text
                assert owners.setdefault(number, known) == known
        lines = after


def test_what_goes_and_comes_back_is_another_line() -> None:
    book = Book()
    first = book.read([Item("cats"), Item("dogs")], SEPARATOR)
    second = book.read([Item("dogs")], SEPARATOR)
    third = book.read([Item("cats"), Item("dogs")], SEPARATOR)
    assert second[ROOT].children == first[ROOT].children[1:]
    assert third[ROOT].children[0] not in first


def test_two_lines_that_say_the_same_are_two() -> None:
    lines = Book().read([Item("hike"), Item("hike"), Item("hike")], SEPARATOR)
    assert len(set(lines[ROOT].children)) == 3


def test_what_cannot_be_clicked() -> None:
    menu = [SEPARATOR, Item("status", enabled=False), Item("more", submenu=Menu([Item("one")]))]
    lines = Book().read(menu, SEPARATOR)
    assert [lines[number].click is None for number in lines[ROOT].children] == [True, True, True]
    below = lines[lines[ROOT].children[2]].children
    found = lines[below[0]].click
    assert found is not None
    assert found(None) == "one"


def test_a_line_with_a_key_stays_itself() -> None:
    book, item = Book(), Item("2 min ago", key="status")
    first = book.read([item], SEPARATOR)
    second = book.read([replace(item, text="3 min ago")], SEPARATOR)
    number = first[ROOT].children[0]
    assert compare(first, second) == Changes(updated=((number, {"label": "3 min ago"}),))


def test_what_a_string_of_the_bus_can_hold() -> None:
    assert label("a_b") == "a__b"
    assert sayable("a\0b\ud800") == "ab?"
