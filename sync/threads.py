"""Threads that talk to the bucket, and never hold up the end of the process: a socket may be stuck for a minute."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

_Result = TypeVar("_Result")
IDLE_S = 30.0  # then a thread ends: an idle daemon holds none


class DaemonPool:
    """Up to so many daemon threads, started when there is work; unlike an executor's, no exit waits for them."""

    def __init__(self, threads: int, name: str, idle_s: float = IDLE_S) -> None:
        self._most, self._name, self._idle_s = threads, name, idle_s
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = queue.SimpleQueue()
        self._lock, self._alive, self._busy, self._queued, self._closed = threading.Lock(), 0, 0, 0, False

    def submit(self, work: Callable[..., _Result], *arguments: Any) -> Future[_Result]:
        """Have something done; after `close` it is cancelled at once."""
        future: Future[_Result] = Future()
        with self._lock:
            if self._closed:
                future.cancel()
                future.set_running_or_notify_cancel()
                return future
            self._queued += 1
            self._work.put((future, work, arguments))
            if self._alive - self._busy < self._queued and self._alive < self._most:
                self._alive += 1
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """Cancel what was not begun. What runs is not waited for."""
        with self._lock:
            self._closed = True
        while True:
            try:
                future = self._work.get_nowait()[0]
            except queue.Empty:
                return
            future.cancel()
            future.set_running_or_notify_cancel()

    def _run(self) -> None:
        while True:
            try:
                future, work, arguments = self._work.get(timeout=self._idle_s)
            except queue.Empty:
                with self._lock:
                    if self._queued == 0:
                        self._alive -= 1
                        return
                continue
            with self._lock:
                self._queued -= 1
                self._busy += 1
            _do(future, work, arguments)
            del future, work, arguments  # an idle thread keeps nothing alive
            with self._lock:
                self._busy -= 1


def _do(future: Future[Any], work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work(*arguments)
    except BaseException as error:  # whatever it is belongs to the one who asked
        future.set_exception(error)
    else:
        future.set_result(result)
