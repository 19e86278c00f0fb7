"""A daemon under a service manager: it says when it is ready and how it is, and shows again and again that it works.

The sign of life is no mere timer: it leaves the event loop, asks the index, to read and to write, and comes back. A
hang anywhere on that way lets the manager's watchdog end the daemon and start it again; so does an index that is found
to be damaged, since a start makes it again. Other troubles (a full disk, a lock of another process) are no reason to:
a start would not heal them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..state.errors import IndexDamaged, TorporError
from ..sync.threads import DaemonPool
from .notify import Notifier

log = logging.getLogger("torpor.service")
SIGNS = 3  # in each period, so that one that comes late is no harm


class Supervision:
    """What a service manager hears. `prove` asks the index and says in a sentence how everything is."""

    def __init__(self, notifier: Notifier, prove: Callable[[], str]) -> None:
        self._notifier, self._prove = notifier, prove
        self._pool = DaemonPool(1, "watchdog", idle_s=0.0)  # of its own: others may be full of work
        self._task: asyncio.Task[None] | None = None
        self._said = ""

    def ready(self) -> None:
        """Say that requests are served, and begin to show it. Called in the event loop."""
        self._notifier.tell(READY="1", STATUS="Ready")
        if self._notifier.address is not None:
            self._task = asyncio.get_running_loop().create_task(self._watch())

    def stopping(self) -> None:
        """Say that the daemon ends, and show nothing any more."""
        if self._task is not None:
            self._task.cancel()
        self._notifier.tell(STOPPING="1", STATUS="Stopping")

    async def _watch(self) -> None:
        """Show that all works; without a watchdog once, to say how everything is."""
        while True:
            self._tell(await asyncio.wrap_future(self._pool.submit(self._proved)))
            if self._notifier.watchdog_s is None:
                return
            await asyncio.sleep(self._notifier.watchdog_s / SIGNS)

    def _proved(self) -> dict[str, str]:
        """Return what is to be told of a proof, however it went."""
        try:
            return {"WATCHDOG": "1", "STATUS": self._prove()}
        except IndexDamaged as error:
            log.error("%s; the service manager is asked to start the daemon again", error.detail)
            return {"WATCHDOG": "trigger", "STATUS": error.detail}
        except TorporError as error:
            return {"WATCHDOG": "1", "STATUS": error.detail}
        except Exception as error:  # a defect of the sentence ends no daemon that works
            log.exception("the status cannot be told")
            return {"WATCHDOG": "1", "STATUS": f"{type(error).__name__} in its status"}

    def _tell(self, values: dict[str, str]) -> None:
        if self._notifier.watchdog_s is None:
            del values["WATCHDOG"]
        if values["STATUS"] == self._said:
            del values["STATUS"]
        self._said = values.get("STATUS", self._said)
        if values:
            self._notifier.tell(**values)
