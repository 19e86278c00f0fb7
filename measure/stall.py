"""How long saves hold a generating thread: in the call of `save` itself, and in its own steps while a save goes on.

The call is timed at the largest size, after 64 more tokens each time. The steps beside a save are what a model's are to
Python: many small operations, each of which gives the interpreter's lock away and takes it again. They run in one
thread and without memory to speak of, so that what lengthens them is the lock, or a busy core.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..adapters.transformers import TransformersSession
from ..client import Keeper, SaveHandle, connect
from .figures import Figure
from .load import percentile
from .rig import keeper_in, scratch
from .rounds import console
from .settings import Settings
from .workload import fresh_session, go_on, load

MORE_TOKENS = 64
LATER_SAVES, FEW_LATER_SAVES = 100, 20
LARGE_TOKENS, LARGE_LATER_SAVES = 32_768, 20  # there a model's own `torch.cat` takes seconds; p99 is the longest then
FIRST_SAVES, FEW_FIRST_SAVES = 5, 3
P99_AT_MOST_S = 0.005
OPERATIONS, WIDTH = 100, 96  # of a step: products of small matrices, about 50 µs each
STEPS_ALONE = 400
STEPS_BESIDE = 12  # at least, after the call of each later save, which is over by then


@dataclass(slots=True)
class _Samples:
    first_s: list[float] = field(default_factory=list)
    later_s: list[float] = field(default_factory=list)
    alone_s: list[float] = field(default_factory=list)
    beside_first_s: list[float] = field(default_factory=list)
    beside_later_s: list[float] = field(default_factory=list)


def measure(settings: Settings) -> list[Figure]:
    """Save one growing session of the largest size again and again."""
    tokens, samples, threads = max(settings.sizes), _Samples(), torch.get_num_threads()
    with scratch(settings.folder) as folder, keeper_in(folder) as keeper, console.status("") as status:
        status.update(f"stall: a session of {tokens:,} tokens")
        session = fresh_session(load(), tokens)
        step = _step()
        torch.set_num_threads(1)
        try:
            samples.alone_s = [step() for _ in range(STEPS_ALONE)]
            samples.first_s.append(_save(keeper, session, step, samples.beside_first_s, least=1))
        finally:
            torch.set_num_threads(threads)
        for _ in range(settings.rounds(FIRST_SAVES, FEW_FIRST_SAVES) - 1):
            samples.first_s.append(_first_again(folder / "home", session))
        for number in range(_later_saves(settings, tokens)):
            status.update(f"stall: later save {number + 1} at {tokens:,} tokens")
            go_on(session, MORE_TOKENS)
            torch.set_num_threads(1)
            try:
                samples.later_s.append(_save(keeper, session, step, samples.beside_later_s, least=STEPS_BESIDE))
            finally:
                torch.set_num_threads(threads)
    return _figures(tokens, samples)


def _later_saves(settings: Settings, tokens: int) -> int:
    return settings.rounds(LARGE_LATER_SAVES if tokens >= LARGE_TOKENS else LATER_SAVES, FEW_LATER_SAVES)


def _save(
    keeper: Keeper, session: TransformersSession, step: Callable[[], float], beside_s: list[float], *, least: int
) -> float:
    """Save, and do steps until it is done; return how long the call held this thread."""
    started = time.perf_counter()
    handle = keeper.save("stalled", session)
    held_s = time.perf_counter() - started
    _steps(handle, step, beside_s, least)
    handle.wait()
    return held_s


def _steps(handle: SaveHandle, step: Callable[[], float], beside_s: list[float], least: int) -> None:
    done = 0
    while done < least or not handle.done():
        beside_s.append(step())
        done += 1


def _first_again(home: Path, session: TransformersSession) -> float:
    """Save as if nobody had saved this cache before: through another SDK, which finds the blocks in the store."""
    with connect(home=home) as another:
        started = time.perf_counter()
        handle = another.save("stalled-first", session)
        held_s = time.perf_counter() - started
        handle.wait()
    return held_s


def _step() -> Callable[[], float]:
    """Return a step of a model that is small: what it does takes a few milliseconds, in many operations."""
    state, weight = torch.randn(WIDTH, WIDTH), torch.randn(WIDTH, WIDTH) / WIDTH**0.5

    def step() -> float:
        started, value = time.perf_counter(), state
        for _ in range(OPERATIONS):
            value = value @ weight
        return time.perf_counter() - started

    return step


def _figures(tokens: int, samples: _Samples) -> list[Figure]:
    group, at, later_s = "stall", f"caller held, {tokens:,} tokens", sorted(samples.later_s)
    figures = [
        Figure(group, f"{at}, first save", "s", samples.first_s),
        Figure(group, f"{at}, later saves", "s", later_s),
        Figure(group, f"{at}, later saves: p99", "s", [percentile(later_s, 0.99)], at_most=P99_AT_MOST_S),
    ]
    alone_s = sorted(samples.alone_s)
    for what, taken_s in (("the first save", samples.beside_first_s), ("later saves", samples.beside_later_s)):
        for named, share in (("median", 0.5), ("p99", 0.99), ("longest", 1.0)):
            beside, alone = percentile(sorted(taken_s), share), percentile(alone_s, share)
            figures.append(Figure(group, f"a step beside {what}: {named}", "s", [beside], "alone", [alone]))
    return figures
