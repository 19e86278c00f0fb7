"""Work on a shared pool, a few pieces ahead, so that neither memory nor a failure runs away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from typing import Protocol, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
AHEAD = 8


class Pool(Protocol):
    """Threads that are shared by everything that talks to the bucket. Work on it never waits for work on it."""

    def submit(self, work: Callable[[_Item], _Result], item: _Item, /) -> Future[_Result]:
        """Have `work(item)` done."""
        ...


def in_parallel(
    pool: Pool, work: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int = AHEAD
) -> Iterator[_Result]:
    """Yield the results of `work` in the order of the items. What it raises comes out here.

    Left early or with an error, what was not begun is cancelled, and what runs is waited for.
    """
    running: deque[Future[_Result]] = deque()
    try:
        for item in items:
            running.append(pool.submit(work, item))
            if len(running) >= ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        for future in running:
            future.cancel()
        wait(running)
