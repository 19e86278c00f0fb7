"""pystray's icon on the session bus alone: no GTK, no X. Imported by `backend` once pystray is there.

One loop, in the thread that calls `run`, owns everything that is on the bus; every other thread only says that
something is to be looked at again. What is clicked is called in one thread of its own, so that no click keeps the bus
waiting.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import random
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn

from pystray import _base

from .colour_scheme import ColourScheme
from .item_service import PATH as ITEM_PATH
from .item_service import Face, ItemService, Status
from .menu_lines import Line
from .menu_service import PATH as MENU_PATH
from .menu_service import MenuService
from .notification_client import NotificationClient
from .notifications import Notice
from .pixmaps import pixmaps
from .registration import GRACE_S, Registration
from .session_bus import SessionBus, address, not_waited_for

if TYPE_CHECKING:
    from PIL.Image import Image

_log = logging.getLogger(__name__)
_number = count(1)


class BusIcon(_base.Icon):  # type: ignore[misc]
    """A status icon; see `pystray.Icon`. All of it may be used from every thread."""

    HAS_DEFAULT_ACTION = True
    HAS_MENU = True
    HAS_MENU_RADIO = True
    HAS_NOTIFICATION = True
    HOST_GRACE_S = GRACE_S

    def __init__(
        self, name: str, icon: Image | None = None, title: str | None = None, menu: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(name, icon=icon, title=title, menu=menu, **kwargs)
        self._images: Sequence[Image] = () if icon is None else (icon,)
        self._attention = False
        self._drawn: tuple[Sequence[Image], list[Any]] = ((), [])
        self._lock = threading.RLock()  # a signal handler may come while its own thread holds it
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()
        self._shown = asyncio.Event()
        self._early: list[Callable[[], None]] = []  # what came before the loop
        self._looking = False
        self._stopped = threading.Event()
        self._clicks: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._host: bool | None = None
        self._host_callbacks: list[Callable[[bool], None]] = []
        self._scheme: int = 0
        self._scheme_callbacks: list[Callable[[int], None]] = []
        self._notices = NotificationClient(name.capitalize(), self._clicks.put)
        self._item = ItemService(name, lambda: self._clicks.put(lambda: self()))
        self._menu_service = MenuService(self._clicked, self._look, _base.Menu.SEPARATOR)

    def set_state(self, images: Sequence[Image], title: str, attention: bool) -> None:
        """Show these images, one a size, this title, and whether the user is wanted, as one change."""
        self._images = tuple(images)
        self._icon, self._icon_valid = images[-1], True
        self._title, self._attention = title, attention
        self._changed()

    def on_host(self, callback: Callable[[bool], None]) -> None:
        """Call `callback` when somebody who draws the icon comes, or has been missing for a while; now, if known."""
        with self._lock:
            self._host_callbacks.append(callback)
            known = self._host
        if known is not None:
            self._clicks.put(lambda: callback(known))

    def on_colours(self, callback: Callable[[int], None]) -> None:
        """Call `callback` when the desktop says that it is dark or light, and now (colour_scheme.py)."""
        with self._lock:
            self._scheme_callbacks.append(callback)
        self._clicks.put(lambda: callback(self._scheme))

    def post(self, notice: Notice) -> None:
        """Show a notification."""
        self._soon(lambda: self._notices.post(notice))

    def stop(self) -> None:
        """End `run`, or keep it from starting."""
        self._stopped.set()
        self._soon(lambda: None)
        super().stop()

    def _show(self) -> None:
        self._visible = True  # pystray says so only behind this
        self._changed()

    def _hide(self) -> None:
        self._visible = False
        self._changed()

    def _update_icon(self) -> None:
        self._images, self._icon_valid = (self._icon,), True
        self._changed()

    def _update_title(self) -> None:
        self._changed()

    def _update_menu(self) -> None:
        self._changed()

    def _notify(self, message: str, title: str | None = None) -> None:
        self.post(Notice("notify", title or self.title, message))

    def _remove_notification(self) -> None:
        """Leave it to the user: the server lets a notification go by itself."""

    def _run(self) -> None:
        asyncio.run(self._live())

    def _run_detached(self) -> None:
        threading.Thread(target=self._run, name="tray").start()

    def _stop(self) -> None:
        """Nothing: `stop` has done it."""

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(not_waited_for)
        name = f"org.kde.StatusNotifierItem-{os.getpid()}-{next(_number)}"
        services = {ITEM_PATH: self._item, MENU_PATH: self._menu_service}
        registration = Registration(name, services, self._shown, self._host_is, self.HOST_GRACE_S)
        tenants = (registration, self._notices, ColourScheme(self._scheme_is))
        bus = SessionBus(lambda: address(os.environ), tenants, random.SystemRandom().random)
        clicks = threading.Thread(target=self._call_clicks, name="clicks", daemon=True)
        clicks.start()
        with self._lock:
            self._loop = loop
            early, self._early = self._early, []
        self._look()
        registration.start()
        for work in early:
            work()
        self._mark_ready()
        try:
            if not self._stopped.is_set():
                await _until(self._over, bus.live())
        finally:
            registration.stop()
            with self._lock:
                self._loop = None
            self._clicks.put(None)

    def _changed(self) -> None:
        """Look again soon; any number of changes until then are one."""
        with self._lock:
            if self._looking or self._loop is None:
                return
            self._looking = True
        self._soon(self._look)

    def _look(self) -> None:
        self._looking = False
        if self._visible:
            self._shown.set()
        status: Status = "Passive" if not self._visible else "NeedsAttention" if self._attention else "Active"
        self._item.show(Face(self._pixmaps(), self._title, status))
        try:
            self._menu_service.show(self._menu)
        except Exception:
            _log.exception("The menu cannot be read; the one before it stays")

    def _pixmaps(self) -> list[Any]:
        images = self._images
        if images is not self._drawn[0]:
            self._drawn = (images, pixmaps(images))
        return self._drawn[1]

    def _clicked(self, line: Line) -> None:
        self._clicks.put(lambda: self._click(line))

    def _click(self, line: Line) -> None:
        try:
            assert line.click is not None
            line.click(self)
        finally:
            self.update_menu()

    def _call_clicks(self) -> None:
        while (work := self._clicks.get()) is not None:
            try:
                work()
            except Exception:
                _log.exception("What was clicked failed")

    def _host_is(self, there: bool) -> None:
        with self._lock:
            self._host = there
            callbacks = list(self._host_callbacks)
        for callback in callbacks:
            self._clicks.put(lambda callback=callback: callback(there))  # type: ignore[misc]

    def _scheme_is(self, scheme: int) -> None:
        with self._lock:
            self._scheme, callbacks = scheme, list(self._scheme_callbacks)
        for callback in callbacks:
            self._clicks.put(lambda callback=callback: callback(scheme))  # type: ignore[misc]

    def _soon(self, work: Callable[[], None]) -> None:
        """Have the loop do it, now or when there is one; a loop that has ended does nothing more."""
        with self._lock:
            loop = self._loop
            if loop is None:
                if not self._stopped.is_set():
                    self._early.append(work)
                return
        try:
            loop.call_soon_threadsafe(self._do, work)
        except RuntimeError:
            _log.debug("the icon has stopped")

    def _do(self, work: Callable[[], None]) -> None:
        if self._stopped.is_set():
            self._over.set()
        work()


async def _until(over: asyncio.Event, life: Coroutine[Any, Any, NoReturn]) -> None:
    """Run `life` until `over` is set, wherever it stands then. Raises: whatever ends it before."""
    living, waiting = asyncio.ensure_future(life), asyncio.ensure_future(over.wait())
    await asyncio.wait((living, waiting), return_when=asyncio.FIRST_COMPLETED)
    for task in (living, waiting):
        task.cancel()
    with suppress(asyncio.CancelledError):
        await living
