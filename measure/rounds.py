"""Rounds: on a noisy machine only figures taken next to each other can be compared."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from .free_pages import have_at_hand

Action = Callable[[], Any]
Contender = Callable[[], Action]  # prepares what must be fresh each time and returns what is timed

REPEAT_WITHIN_S = 0.5

# Progress and what was left out; tables and JSON go to stdout.
console = Console(stderr=True, width=None if Console(stderr=True).is_terminal else 120)


def seconds(action: Action) -> float:
    """Time one action; what it returns is let go after the clock has stopped."""
    started = time.perf_counter()
    result = action()
    took_s = time.perf_counter() - started
    del result
    return took_s


def interleave(
    what: str,
    rounds: int,
    contenders: Mapping[str, Contender],
    *,
    best_of: int = 1,
    warm_up: bool = True,
    takes_bytes: int = 0,
) -> dict[str, list[float]]:
    """Run every contender once a round, each round starting with another one; a first round is not counted.

    Without `warm_up` there is no such round: for actions of many seconds, in which a first call is lost.

    With `best_of`, a sample is the best of some runs one behind the other (slow contenders get fewer). That is for
    actions of less than 100 ms on several threads: after a pause, the scheduler of a small virtual machine may leave
    two threads on one core for tens of milliseconds, and that would decide the figure instead of the code.

    `takes_bytes` is how much memory each of them takes, in the page cache or outside: it is at hand before each run.
    """
    names = list(contenders)
    samples: dict[str, list[float]] = {name: [] for name in names}
    with console.status("") as status:
        for number in range(-1 if warm_up else 0, rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                status.update(f"{what}: round {max(number, 0) + 1} of {rounds}, {name}")
                took_s = _sample(contenders[name], best_of, takes_bytes)
                if number >= 0:
                    samples[name].append(took_s)
    return samples


def _sample(contender: Contender, best_of: int, takes_bytes: int) -> float:
    gc.collect()  # nobody pays for another's garbage
    runs_s: list[float] = []
    while not runs_s or (len(runs_s) < best_of and sum(runs_s) < REPEAT_WITHIN_S):
        action = contender()
        have_at_hand(takes_bytes)
        runs_s.append(seconds(action))
    return min(runs_s)
