"""The menu on the bus: com.canonical.dbusmenu, which hosts read, draw, and click.

Source: com.canonical.dbusmenu.xml of libdbusmenu.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

from dbus_fast import DBusError, ErrorType, PropertyAccess, Variant
from dbus_fast.annotations import DBusBool, DBusInt32, DBusSignature, DBusStr, DBusUInt32, DBusVariant
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

from .menu_lines import ROOT, Book, Item, Line, Lines, Value, compare
from .session_bus import say

PATH = "/MenuBar"
_SIGNATURES = {bool: "b", int: "i", str: "s"}
Nothing = Annotated[None, DBusSignature("")]
Numbers = Annotated[list[int], DBusSignature("ai")]
Names = Annotated[list[str], DBusSignature("as")]
Layout = Annotated[list[Any], DBusSignature("u(ia{sv}av)")]
Group = Annotated[list[Any], DBusSignature("a(ia{sv})")]
Events = Annotated[list[Any], DBusSignature("a(isvu)")]
TwoLists = Annotated[list[Any], DBusSignature("aiai")]
Updates = Annotated[list[Any], DBusSignature("a(ia{sv})a(ias)")]
Layouted = Annotated[list[Any], DBusSignature("ui")]


class MenuService(ServiceInterface):
    """Says what the menu is, and tells of clicks. All in the loop's thread."""

    def __init__(self, clicked: Callable[[Line], None], opening: Callable[[], None], separator: object) -> None:
        super().__init__("com.canonical.dbusmenu")
        self._clicked, self._opening, self._separator = clicked, opening, separator
        self._book = Book()
        self._lines: Lines = self._book.read(None, separator)
        self._revision = 1

    def show(self, menu: Iterable[Item] | None) -> bool:
        """Show this menu from now on; return whether it is another one. Hosts are told only what changed."""
        new = self._book.read(menu, self._separator)
        changes = compare(self._lines, new)
        self._lines = new
        if changes.updated or changes.removed:
            updated = [[number, _variants(found)] for number, found in changes.updated]
            removed = [[number, list(names)] for number, names in changes.removed]
            say(self.items_properties_updated, [updated, removed])
        if changes.below is not None:
            self._revision += 1
            say(self.layout_updated, [self._revision, changes.below])
        return bool(changes.updated or changes.removed) or changes.below is not None

    def _line(self, number: int) -> Line:
        if (line := self._lines.get(number)) is None:
            raise DBusError(ErrorType.INVALID_ARGS, f"There is no menu item {number}")
        return line

    def _told(self, line: Line, depth: int, names: list[str]) -> list[Any]:
        below = [] if depth == 0 else [self._told(self._lines[each], depth - 1, names) for each in line.children]
        return [line.number, _variants(line.properties, names), [Variant("(ia{sv}av)", each) for each in below]]

    def _event(self, number: int, kind: str) -> bool:
        if (line := self._lines.get(number)) is None:
            return False
        if kind == "clicked" and line.click is not None:
            self._clicked(line)
        return True

    def _about_to_show(self, number: int) -> bool:
        before = self._revision
        if number == ROOT:
            self._opening()
        return self._revision != before

    @dbus_method(name="GetLayout")
    def get_layout(self, parent: DBusInt32, depth: DBusInt32, names: Names) -> Layout:
        """Return a part of the menu, so many levels deep (-1: all)."""
        return [self._revision, self._told(self._line(parent), depth, names)]

    @dbus_method(name="GetGroupProperties")
    def get_group_properties(self, numbers: Numbers, names: Names) -> Group:
        """Return what lines say; of all where none is named."""
        wanted = numbers or list(self._lines)
        return [
            [number, _variants(self._lines[number].properties, names)] for number in wanted if number in self._lines
        ]

    @dbus_method(name="GetProperty")
    def get_property(self, number: DBusInt32, name: DBusStr) -> DBusVariant:
        """Return one property of a line."""
        found = self._line(number).properties
        if name not in found:
            raise DBusError(ErrorType.INVALID_ARGS, f"The menu item {number} has no property {name}")
        return _variants(found)[name]

    @dbus_method(name="Event")
    def event(self, number: DBusInt32, kind: DBusStr, data: DBusVariant, timestamp: DBusUInt32) -> Nothing:
        """Take a click (opened, closed and hovered mean nothing here)."""
        if not self._event(number, kind):
            raise DBusError(ErrorType.INVALID_ARGS, f"There is no menu item {number}")

    @dbus_method(name="EventGroup")
    def event_group(self, events: Events) -> Numbers:
        """Take several; return the lines that are not there."""
        return [number for number, kind, _, _ in events if not self._event(number, kind)]

    @dbus_method(name="AboutToShow")
    def about_to_show(self, number: DBusInt32) -> DBusBool:
        """Say whether the layout has to be read again before it is shown."""
        self._line(number)
        return self._about_to_show(number)

    @dbus_method(name="AboutToShowGroup")
    def about_to_show_group(self, numbers: Numbers) -> TwoLists:
        """Say which of several have to be read again, and which are not there."""
        known = [number for number in numbers if number in self._lines]
        changed = [number for number in known if self._about_to_show(number)]
        return [changed, [number for number in numbers if number not in known]]

    @dbus_property(access=PropertyAccess.READ, name="Version")
    def version(self) -> DBusUInt32:
        """The version of the protocol."""
        return 3

    @dbus_property(access=PropertyAccess.READ, name="TextDirection")
    def text_direction(self) -> DBusStr:
        """Left to right."""
        return "ltr"

    @dbus_property(access=PropertyAccess.READ, name="Status")
    def status(self) -> DBusStr:
        """Nothing that a host has to open by itself."""
        return "normal"

    @dbus_property(access=PropertyAccess.READ, name="IconThemePath")
    def icon_theme_path(self) -> Names:
        """No icons of our own in menus."""
        return []

    @dbus_signal(name="ItemsPropertiesUpdated")
    def items_properties_updated(self, changes: list[Any]) -> Updates:
        """Say that lines say something else."""
        return changes

    @dbus_signal(name="LayoutUpdated")
    def layout_updated(self, revision_and_parent: list[int]) -> Layouted:
        """Say that there are other lines."""
        return revision_and_parent

    @dbus_signal(name="ItemActivationRequested")
    def item_activation_requested(self, number_and_time: list[int]) -> Annotated[list[Any], DBusSignature("iu")]:
        """Ask a host to open the menu at a line; part of the interface, never asked."""
        return number_and_time


def _variants(properties: Mapping[str, Value], names: list[str] | None = None) -> dict[str, Variant]:
    return {
        name: Variant(_SIGNATURES[type(value)], value)
        for name, value in properties.items()
        if not names or name in names
    }
