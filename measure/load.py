"""Many clients at once. Saves come at their own pace, whether those before them are done or not (open loop).

Each client is an SDK of its own with a session of its own. What is timed is the way from the moment at which a save was
due until it is committed and durable; so a daemon that falls behind pays for those that wait, too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from ..adapters.plain import PlainSession
from ..client import Keeper, connect
from ..client.save_job import SaveHandle
from .figures import Figure
from .rig import daemon, scratch
from .rounds import console
from .settings import Settings

CLIENTS, SAVES_A_SECOND, P99_AT_MOST_S = 64, 50.0, 0.1
LASTS_S, LASTS_BRIEFLY_S = 40, 10
TEXT = "A turn of a conversation, as long as people write them. " * 20


@dataclass(slots=True)
class _Client:
    """An SDK with a session that grows by a turn before each save."""

    keeper: Keeper
    name: str
    turns: list[str] = field(default_factory=list)

    def save(self) -> SaveHandle:
        self.turns.append(f"{len(self.turns)}: {TEXT}")
        state = {"metadata": {"client": self.name}, "text_context": {"conversation": list(self.turns)}}
        return self.keeper.save(self.name, PlainSession(state))


def measure(settings: Settings) -> list[Figure]:
    """Save from many clients for a while against one daemon."""
    seconds = float(settings.rounds(LASTS_S, LASTS_BRIEFLY_S))
    with scratch(settings.folder) as folder, daemon(folder / "home") as running, ExitStack() as stack:
        clients = [
            _Client(stack.enter_context(connect(home=folder / "home")), f"client-{number}") for number in range(CLIENTS)
        ]
        for client in clients:
            client.save().wait()  # connected, and its thread runs
        before = _cpu_s(running.pid)
        with console.status(f"load: {CLIENTS} clients, {SAVES_A_SECOND:.0f} saves/s for {seconds:.0f} s"):
            took_s = _open_loop(clients, seconds)
        cpu_ms = (_cpu_s(running.pid) - before) / len(took_s) * 1e3
    took_s.sort()
    named = f"{CLIENTS} clients, {SAVES_A_SECOND:.0f} saves/s"
    return [
        Figure("load", f"{named}: median", "s", [percentile(took_s, 0.5)]),
        Figure("load", f"{named}: p99", "s", [percentile(took_s, 0.99)], at_most=P99_AT_MOST_S),
        Figure("load", f"{named}: slowest", "s", [took_s[-1]]),
        Figure("load", f"{named}: daemon's CPU a save", "ms", [cpu_ms]),
    ]


def _open_loop(clients: list[_Client], seconds: float) -> list[float]:
    """Begin each save when it is due; return how long after that each was durable."""
    took_s: list[float] = []
    lock = threading.Lock()

    def finish(handle: SaveHandle, due: float) -> None:
        handle.wait()
        done = time.perf_counter() - due
        with lock:
            took_s.append(done)

    start, count = time.perf_counter() + 0.2, int(seconds * SAVES_A_SECOND)
    with ThreadPoolExecutor(4 * CLIENTS) as waiting:
        ended = []
        for number in range(count):
            due = start + number / SAVES_A_SECOND
            time.sleep(max(due - time.perf_counter(), 0.0))
            ended.append(waiting.submit(finish, clients[number % len(clients)].save(), due))
        for each in ended:
            each.result()
    return took_s


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest sample that a share of them does not exceed (nearest rank); the samples are in order."""
    return ordered[max(ceil(share * len(ordered)) - 1, 0)]


def _cpu_s(pid: int) -> float:
    return sum(
        int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()
    ) / 1e9  # fmt: skip
