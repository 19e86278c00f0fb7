"""What is on the screen: the icon and its menu, changed only where something is other than it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .drawing import SIZES, Panel, icons
from .notices import Notice
from .view import Deed, Entry, View

LONGEST_TITLE = 120  # characters: Windows takes no more
ONE_SIZE = SIZES.index(32)  # for backends that take one image


class Posts(Protocol):
    """What is needed of tray/notifications.py."""

    def post(
        self,
        key: str,
        title: str,
        body: str = ...,
        urgency: Any = ...,
        actions: Any = ...,
        on_action: Callable[[str], None] | None = ...,
    ) -> None:
        """Show a notification in place of the older one of its key."""


class Screen:
    """Draws views on an icon of pystray. `click` is told what was clicked, and returns at once.

    `on_main` runs what touches the icon: macOS wants that in its main thread. Not safe for several threads.
    """

    def __init__(
        self,
        icon: Any,
        posts: Posts,
        click: Callable[[Deed], None],
        on_main: Callable[[Callable[[], None]], None] = lambda work: work(),
    ) -> None:
        self._icon, self._posts, self._click, self._on_main = icon, posts, click, on_main
        self._shown: View | None = None
        self._panel: Panel | None = None

    def show(self, view: View, panel: Panel) -> None:
        """Show a view, as far as it is another than the one that is shown."""
        before, self._shown = self._shown, view
        other_panel, self._panel = panel != self._panel, panel
        if before is None or other_panel or _face(before) != _face(view):
            self._on_main(lambda: self._draw(view, panel))
        if before is None or before.menu != view.menu:
            self._on_main(lambda: self._put_menu(view))

    def post(self, notice: Notice) -> None:
        """Show a notification; its buttons are clicks."""
        deeds = {" ".join(deed): (text, deed) for text, deed in notice.actions}
        actions = {key: text for key, (text, _) in deeds.items()}
        clicked = (lambda key: self._click(deeds[key][1])) if deeds else None
        self._on_main(lambda: self._posts.post(notice.key, notice.title, notice.body, notice.urgency, actions, clicked))

    def stop(self) -> None:
        """Take the icon away, and let `run` of it end."""
        self._on_main(self._icon.stop)

    def _draw(self, view: View, panel: Panel) -> None:
        images = icons(view.state, panel)
        title = view.title if len(view.title) <= LONGEST_TITLE else view.title[: LONGEST_TITLE - 1] + "…"
        set_state = getattr(self._icon, "set_state", None)
        if set_state is not None:
            set_state(images, title, view.attention)
            return
        self._icon.icon = images[ONE_SIZE]
        self._icon.title = title

    def _put_menu(self, view: View) -> None:
        self._icon.menu = menu_of(view.menu, self._click)


def _face(view: View) -> tuple[object, ...]:
    return view.state, view.title, view.attention


def menu_of(entries: tuple[Entry, ...], click: Callable[[Deed], None]) -> Any:
    """Return entries as a menu of pystray, which the backend has imported by now (backend.py)."""
    import pystray

    return pystray.Menu(*(_item(pystray, entry, click) for entry in entries))


def _item(pystray: Any, entry: Entry, click: Callable[[Deed], None]) -> Any:
    if not entry.text:
        return pystray.Menu.SEPARATOR
    action = menu_of(entry.entries, click) if entry.entries else _action(entry.deed, click)
    if key := entry.name or " ".join(entry.deed or ()):
        action.key = key  # by which our backend knows it again when its text is another
    checked: Any = None if entry.checked is None else (lambda _: entry.checked)
    return pystray.MenuItem(entry.text, action, checked=checked, default=entry.default, enabled=entry.enabled)


def _action(deed: Deed | None, click: Callable[[Deed], None]) -> Any:
    def clicked() -> None:
        if deed is not None:
            click(deed)

    return clicked
