"""The tray itself: what the daemon says becomes what is shown, what is clicked is done.

One thread knows and shows; it sleeps until it is told something, or until what it says is no longer true. The link
listens in another, and each deed has one of its own while it lasts: a backup of hours of context keeps nobody waiting.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..client.api import Api
from ..state.errors import DaemonNotRunning, TorporError
from .deeds import Scene, World, do
from .drawing import Panel, chosen
from .link import Away, Happened, Link, There, Word
from .look import look
from .model import Model
from .notices import Notice, Notices
from .screen import Screen
from .view import MINUTE_S, Deed, stays_true_s, view

LOOK_EVERY_S = 1.0  # at most, however much changes; behind a deed at once
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clicked:
    """An entry or a button was clicked."""

    deed: Deed


@dataclass(frozen=True, slots=True)
class Done:
    """A deed has ended."""

    deed: Deed
    notice: Notice | None


@dataclass(frozen=True, slots=True)
class Told:
    """Something is to be told that comes from here."""

    notice: Notice


@dataclass(frozen=True, slots=True)
class Panelled:
    """The panel is dark, or light, or nobody knows."""

    panel: Panel


@dataclass(frozen=True, slots=True)
class Stop:
    """The tray ends."""


Message = Word | Clicked | Done | Told | Panelled | Stop


class Tray:
    """Knows, shows and does. Safe to use from several threads; `screen` is set before `start`."""

    def __init__(
        self,
        connect: Callable[[], Api],
        world: World,
        *,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._steady, self._world = clock, steady, world
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._link = Link(connect, self._inbox.put)
        self._api: Api | None = None
        self._there = threading.Event()
        self._notices = Notices(steady)
        self._model = Model(at_login=world.at_login())
        self._panel: Panel = "any"
        self._looked_at, self._look_at = float("-inf"), float("inf")
        self._thread = threading.Thread(target=self._live, name="tray", daemon=True)
        self.screen: Screen | None = None

    def start(self) -> None:
        """Begin to show."""
        self._thread.start()
        self._link.start()

    def click(self, deed: Deed) -> None:
        """Have a deed done; one that is being done is not done twice."""
        self._inbox.put(Clicked(deed))

    def tell(self, notice: Notice) -> None:
        """Show a notification."""
        self._inbox.put(Told(notice))

    def lies_on(self, panel: Panel) -> None:
        """Learn what the desktop says of its panel; the settings go before it."""
        self._inbox.put(Panelled(panel))

    def quit(self) -> None:
        """End: from a signal handler, too."""
        self._inbox.put(Stop())

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    def _live(self) -> None:
        try:
            while True:
                self._show()
                message = self._next()
                if isinstance(message, Stop):
                    return
                try:
                    self._take(message)
                except Exception:  # a defect of ours: the icon stays, and says what it knew
                    _log.exception("the tray could not take %s", type(message).__name__)
        finally:
            self._link.stop()
            if self.screen is not None:
                self.screen.stop()

    def _next(self) -> Message | None:
        """Sleep until there is a message; None when it is time for a look, at the daemon or at the clock."""
        true_s = stays_true_s(self._model, self._clock())
        look_s = self._look_at - self._steady()
        wait_s = min(look_s, float("inf") if true_s is None else true_s)
        try:
            return self._inbox.get(timeout=None if wait_s == float("inf") else max(wait_s, 0.0))
        except queue.Empty:
            if self._model.asking:
                self._look_soon()
            return None

    def _take(self, message: Message | None) -> None:
        match message:
            case There(api):
                self._api = api
                self._look_soon()
            case Happened(event):
                self._look_soon()
                self._post(self._notices.heard(event, self._model))
            case Away(error):
                self._go_away(error)
            case Clicked(deed):
                self._begin(deed)
            case Done(deed, notice):
                self._end(deed, notice)
            case Told(notice):
                self._post(notice)
            case Panelled(panel):
                self._panel = panel
        if self._steady() >= self._look_at:
            self._look()

    def _look_soon(self) -> None:
        self._look_at = min(self._look_at, max(self._steady(), self._looked_at + LOOK_EVERY_S))

    def _look(self) -> None:
        self._look_at, self._looked_at = float("inf"), self._steady()
        if self._api is None:
            return
        try:
            self._model = look(self._api, self._model)
        except DaemonNotRunning:
            return  # the link says so, too
        except TorporError as error:
            self._model = replace(self._model, link="away", trouble=error.title)
            self._look_at = self._steady() + MINUTE_S
            return
        self._there.set()
        for notice in self._notices.of(self._model, self._clock()):
            self._post(notice)

    def _go_away(self, error: TorporError) -> None:
        self._api, self._look_at = None, float("inf")
        self._there.clear()
        trouble = None if isinstance(error, DaemonNotRunning) else error.title
        self._model = replace(self._model, link="away", trouble=trouble, summary=None, asking=(), version=None)

    def _begin(self, deed: Deed) -> None:
        name = deed[0]
        if name == "quit":
            self.quit()
        elif name not in self._model.doing:
            self._model = replace(self._model, doing=self._model.doing | {name})
            if name == "restore":
                self._notices.own_restore(float("inf"))
            scene = Scene(self._world, self._model, self._api, self._arrives)
            threading.Thread(target=self._do, args=(deed, scene), name=name, daemon=True).start()

    def _do(self, deed: Deed, scene: Scene) -> None:
        """Do a deed, in a thread of its own."""
        notice = None
        try:
            notice = do(deed, scene)
        except Exception:
            _log.exception("%s could not be done", deed[0])
            notice = Notice(deed[0], "That did not work", "This is a defect of Torpor's tray; its log has more.")
        finally:
            self._inbox.put(Done(deed, notice))

    def _arrives(self, wait_s: float) -> bool:
        """Wait for a daemon that is being started."""
        self._link.retry()
        return self._there.wait(wait_s)

    def _end(self, deed: Deed, notice: Notice | None) -> None:
        self._model = replace(
            self._model,
            doing=self._model.doing - {deed[0]},
            at_login=self._world.at_login(),
        )
        if deed[0] == "restore":
            self._notices.own_restore()
        self._post(notice)
        self._look_at = self._steady()

    def _post(self, notice: Notice | None) -> None:
        if notice is not None and self.screen is not None:
            self.screen.post(notice)

    def _show(self) -> None:
        if self.screen is not None:
            panel = chosen(self._model.panel, self._panel)
            self.screen.show(view(self._model, self._clock()), panel)
