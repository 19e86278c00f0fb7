"""Work on a shared pool, a few pieces ahead, so that neither memory nor a failure runs away."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, wait
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
AHEAD = 8


def in_parallel(
    pool: Executor, work: Callable[[_Item], _Result], items: Iterable[_Item], ahead: int = AHEAD
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
