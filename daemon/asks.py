"""Calls that wait for the bucket, without a thread of the server: however slow it is, the rest is served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from ..state.errors import Timeout, Unavailable

_T = TypeVar("_T")
AT_ONCE = 4
WAIT_S = 50.0  # of one request: below a client's patience


class Submits(Protocol):
    """Threads of one's own."""

    def submit(self, work: Callable[[], None], /) -> Any:
        """Run a call in a thread, in the order in which calls came."""
        ...


class Asks:
    """Runs what may take as long as the bucket takes, a few at once; the others wait without a thread."""

    def __init__(self, threads: Submits, wait_s: float = WAIT_S) -> None:
        self._threads, self._wait_s = threads, wait_s
        self._lock, self._open, self._closed = threading.Lock(), set[Future[Any]](), False

    async def run(self, work: Callable[[], _T]) -> _T:
        """Return what `work` returns. Raises: what it raises, Timeout, Unavailable when the daemon stops."""
        answer = Future[_T]()
        with self._lock:
            if self._closed:
                answer.cancel()
            self._open.add(answer)
        try:
            self._threads.submit(lambda: _do(answer, work))
            if not await settled(answer, self._wait_s):
                answer.cancel()
                raise Timeout("the bucket has not answered yet", hint="Try again in a minute.")
        finally:
            with self._lock:
                self._open.discard(answer)
        if answer.cancelled():
            raise Unavailable("the daemon is being stopped", hint="Try again when it runs.")
        return answer.result()

    def close(self) -> None:
        """Let everybody go who waits."""
        with self._lock:
            self._closed, answers = True, list(self._open)
        for answer in answers:
            answer.cancel()


def _do(answer: Future[_T], work: Callable[[], _T]) -> None:
    """Answer, unless nobody waits any more."""
    if answer.cancelled():
        return
    try:
        found = work()
    except BaseException as error:
        with suppress(InvalidStateError):
            answer.set_exception(error)
    else:
        with suppress(InvalidStateError):
            answer.set_result(found)


async def settled(future: Future[Any], wait_s: float) -> bool:
    """Wait until a future is done without holding a thread; several hundred may wait at once."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: object) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(done.set)

    future.add_done_callback(tell)
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), wait_s)
    return future.done()
