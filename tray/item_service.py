"""The icon on the bus: org.kde.StatusNotifierItem, which hosts read and draw.

Source: the StatusNotifierItem specification of freedesktop.org, and its XML as KDE and Ayatana keep it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Annotated, Any, Literal

from dbus_fast import PropertyAccess
from dbus_fast.annotations import DBusBool, DBusInt32, DBusObjectPath, DBusSignature, DBusStr, DBusUInt32
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

from .menu_lines import sayable
from .menu_service import PATH as MENU_PATH
from .menu_service import Nothing
from .pixmaps import Pixmap
from .session_bus import say

PATH = "/StatusNotifierItem"
Pixmaps = Annotated[list[Any], DBusSignature("a(iiay)")]
ToolTip = Annotated[list[Any], DBusSignature("(sa(iiay)ss)")]
Status = Literal["Passive", "Active", "NeedsAttention"]
READ = PropertyAccess.READ


@dataclass(frozen=True, slots=True)
class Face:
    """What is to be seen of the icon."""

    pixmaps: Sequence[Pixmap] = ()
    title: str = ""
    status: Status = "Passive"


class ItemService(ServiceInterface):
    """Says what the icon is, and tells of clicks. All in the loop's thread."""

    def __init__(self, name: str, activated: Callable[[], None]) -> None:
        super().__init__("org.kde.StatusNotifierItem")
        self._name, self._activated = name, activated
        self._face = Face()

    def show(self, face: Face) -> None:
        """Show this face from now on. Hosts are told what changed; the item stays the same, and its menu open."""
        old, self._face = self._face, face
        if face.pixmaps != old.pixmaps:
            say(self.new_icon)
            say(self.new_attention_icon)
        if face.title != old.title:
            say(self.new_title)
            say(self.new_tool_tip)
        if face.status != old.status:
            say(self.new_status, face.status)

    @dbus_method(name="Activate")
    def activate(self, x: DBusInt32, y: DBusInt32) -> Nothing:
        """Do what the menu's default line does."""
        self._activated()

    @dbus_method(name="SecondaryActivate")
    def secondary_activate(self, x: DBusInt32, y: DBusInt32) -> Nothing:
        """Do the same on a click with the middle button."""
        self._activated()

    @dbus_method(name="ContextMenu")
    def context_menu(self, x: DBusInt32, y: DBusInt32) -> Nothing:
        """Answer a host that asks us to open the menu: it draws the menu itself."""

    @dbus_method(name="Scroll")
    def scroll(self, delta: DBusInt32, orientation: DBusStr) -> Nothing:
        """Answer; the wheel means nothing here."""

    @dbus_method(name="ProvideXdgActivationToken")
    def provide_xdg_activation_token(self, token: DBusStr) -> Nothing:
        """Answer a host that lends us its right to raise a window: we have none."""

    @dbus_property(access=READ, name="Category")
    def category(self) -> DBusStr:
        """The kind of program."""
        return "ApplicationStatus"

    @dbus_property(access=READ, name="Id")
    def id(self) -> DBusStr:
        """The program's name, the same in every session."""
        return self._name

    @dbus_property(access=READ, name="Title")
    def title(self) -> DBusStr:
        """What screen readers say."""
        return sayable(self._face.title)

    @dbus_property(access=READ, name="Status")
    def status(self) -> DBusStr:
        """Whether it is to be seen, and whether it wants to be."""
        return self._face.status

    @dbus_property(access=READ, name="WindowId")
    def window_id(self) -> DBusUInt32:
        """No window."""
        return 0

    @dbus_property(access=READ, name="IconName")
    def icon_name(self) -> DBusStr:
        """Empty: hosts would take it before the pixmaps."""
        return ""

    @dbus_property(access=READ, name="IconPixmap")
    def icon_pixmap(self) -> Pixmaps:
        """All sizes."""
        return [list(each) for each in self._face.pixmaps]

    @dbus_property(access=READ, name="AttentionIconName")
    def attention_icon_name(self) -> DBusStr:
        """Empty, as IconName."""
        return ""

    @dbus_property(access=READ, name="AttentionIconPixmap")
    def attention_icon_pixmap(self) -> Pixmaps:
        """What is shown while the status is NeedsAttention: the icon itself says what is wrong."""
        return [list(each) for each in self._face.pixmaps]

    @dbus_property(access=READ, name="AttentionMovieName")
    def attention_movie_name(self) -> DBusStr:
        """Nothing moves."""
        return ""

    @dbus_property(access=READ, name="OverlayIconName")
    def overlay_icon_name(self) -> DBusStr:
        """No overlay."""
        return ""

    @dbus_property(access=READ, name="OverlayIconPixmap")
    def overlay_icon_pixmap(self) -> Pixmaps:
        """No overlay."""
        return []

    @dbus_property(access=READ, name="IconThemePath")
    def icon_theme_path(self) -> DBusStr:
        """No theme of our own."""
        return ""

    @dbus_property(access=READ, name="ToolTip")
    def tool_tip(self) -> ToolTip:
        """The title's first line, and the others below it, where markup is read."""
        first, _, rest = sayable(self._face.title).partition("\n")
        return ["", [], first, escape(rest, quote=False)]

    @dbus_property(access=READ, name="ItemIsMenu")
    def item_is_menu(self) -> DBusBool:
        """A left click opens the menu, too."""
        return True

    @dbus_property(access=READ, name="Menu")
    def menu(self) -> DBusObjectPath:
        """Where the menu is."""
        return MENU_PATH

    @dbus_signal(name="NewIcon")
    def new_icon(self) -> None:
        """Say that the pixmaps are others."""

    @dbus_signal(name="NewAttentionIcon")
    def new_attention_icon(self) -> None:
        """Say that the pixmaps are others."""

    @dbus_signal(name="NewTitle")
    def new_title(self) -> None:
        """Say that the title is another."""

    @dbus_signal(name="NewToolTip")
    def new_tool_tip(self) -> None:
        """Say that the tooltip is another."""

    @dbus_signal(name="NewStatus")
    def new_status(self, status: str) -> DBusStr:
        """Say which the status is now."""
        return status
