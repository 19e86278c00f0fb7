"""What is done before the machine sleeps or ends, and after it woke: attached sessions are saved, the bucket asked.

The machine waits only for a few seconds (logind's `InhibitDelayMaxSec`, 5 by default). So a small save comes first,
which has all but new KV; a whole one takes what is left. One that is not done by then goes on after the sleep, and is
nothing after a shutdown: a save is there whole or not at all.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ..db.index import Index
from ..state.errors import NoProcess, TorporError, Unavailable
from .attached import Attachments
from .logind import Logind, News, connected

log = logging.getLogger("torpor.sleep")
MARGIN_S = 0.5  # of the delay, for what comes behind the saves
FIRST_AGAIN_S, LAST_AGAIN_S = 60.0, 3600.0  # between two tries to come back to a bus that has gone


async def save_attached(attached: Attachments, within_s: float, steady: Callable[[], float] = time.monotonic) -> str:
    """Save all sessions of attached processes as far as the time allows; say what came of it, "" where there are none.

    A process that holds them in vain costs no other anything.
    """
    until = steady() + within_s
    try:
        small = await attached.ask("save", small=True, timeout_s=within_s)
        left_s = until - steady()
        whole = await attached.ask("save", timeout_s=left_s) if left_s > 0 else {"backups": [], "failed": []}
    except NoProcess:
        return ""
    except Unavailable as error:  # the daemon ends as well
        return error.detail
    return _in_words(small, whole)


def _in_words(small: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    complete = {backup["session_id"] for backup in whole["backups"]}
    texts = {backup["session_id"] for backup in small["backups"]} - complete
    parts = [f"{len(complete)} saved whole"] * bool(complete) + [f"{len(texts)} without new KV"] * bool(texts)
    failed = (
        {problem["problem"]["detail"] for problem in (*small["failed"], *whole["failed"])} if not complete else set()
    )
    return ", ".join(parts + sorted(failed)[:1]) or "no session to save"


@contextmanager
def _despite_defects(lacking: str) -> Iterator[None]:
    """Log whatever fails, also what a process answers that nobody expects: the next time is another one."""
    try:
        yield
    except Exception:
        log.exception("%s", lacking)


class BeforeSleep:
    """Holds logind's lock for the daemon. Without logind it says so once, and does nothing."""

    def __init__(
        self,
        attached: Attachments,
        index: Index,
        woken: Callable[[], None],
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`woken` is called after a sleep, in a thread."""
        self._attached, self._index, self._woken = attached, index, woken
        self._environ, self._clock = environ, clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Let go of the lock. A second time changes nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        """Hold the lock; where a bus that was there has gone, come back to it, ever more seldom."""
        again_s, was_there = FIRST_AGAIN_S, False
        while True:
            try:
                async with connected(self._environ) as logind:
                    again_s, was_there = FIRST_AGAIN_S, True
                    log.info("the machine waits for saves before it sleeps or ends")
                    while True:
                        await self._on_news(logind, await logind.next())
            except Unavailable as error:
                if not was_there:
                    log.info("nothing is saved before the machine sleeps or ends: %s", error.detail)
                    return
                if again_s == FIRST_AGAIN_S:  # once for each time that it went
                    log.info("until logind is back, nothing is saved before the machine sleeps: %s", error.detail)
            except Exception:  # a defect of ours, or of what answers there: the daemon goes on, and ends well
                log.exception("nothing is saved before the machine sleeps or ends")
                if not was_there:
                    return
            await asyncio.sleep(again_s)
            again_s = min(again_s * 2, LAST_AGAIN_S)

    async def _on_news(self, logind: Logind, news: News) -> None:
        if news == "on":
            await logind.take()
            with _despite_defects("the bucket is not looked at"):
                await asyncio.to_thread(self._woken)
            return
        try:
            within_s = max(await logind.delay_s() - MARGIN_S, MARGIN_S)
            with _despite_defects(f"nothing was saved before the {news}"):
                if said := await save_attached(self._attached, within_s):
                    await asyncio.to_thread(self._note, f"before the {news}: {said}")
        finally:
            logind.let_go()

    def _note(self, detail: str) -> None:
        log.info("%s", detail)
        with suppress(TorporError):  # a full disk keeps no machine from sleeping
            self._index.add_event(at=self._clock(), level="info", kind="saved-before-sleep", detail=detail)
