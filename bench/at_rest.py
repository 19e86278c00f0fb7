"""What processes use while nothing happens: looked at from outside, so that looking wakes none of them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOOK_S = 2.0  # between two looks: a thread that ends between them is missed in the switches, not in the CPU time


@dataclass(frozen=True, slots=True)
class Rest:
    """A process over a time: memory at its end in MiB, per cent of a core, and how often a thread woke up a minute.

    `own_mib` is memory that nobody shares: what the machine gets back when the process ends.
    """

    rss_mib: float
    own_mib: float
    cpu_percent: float
    wakeups: float


@dataclass(slots=True)
class _Watched:
    """A process. A thread's voluntary switches are its sleeps, and so its wake-ups."""

    pid: int
    cpu_before_s: float = 0.0
    first: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    def begin(self) -> None:
        self.cpu_before_s = cpu_s(self.pid)
        self.look()
        self.first = dict(self.last)

    def look(self) -> None:
        for task in os.listdir(f"/proc/{self.pid}/task"):
            try:
                status = Path(f"/proc/{self.pid}/task/{task}/status").read_text()
            except OSError:  # it has just ended
                continue
            self.last[task] = _number(status, "voluntary_ctxt_switches")

    def end(self, took_s: float) -> Rest:
        self.look()
        woken = sum(count - self.first.get(task, 0) for task, count in self.last.items())
        percent = (cpu_s(self.pid) - self.cpu_before_s) / took_s * 100
        return Rest(*memory_mib(self.pid), percent, woken / took_s * 60)


def watch(pids: Mapping[str, int], seconds: float) -> dict[str, Rest]:
    """Watch processes for so long, all of them at once. Raises: OSError when one ends."""
    watched = {name: _Watched(pid) for name, pid in pids.items()}
    for each in watched.values():
        each.begin()
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        time.sleep(min(LOOK_S, left))
        for each in watched.values():
            each.look()
    took_s = time.monotonic() - began
    return {name: each.end(took_s) for name, each in watched.items()}


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process in seconds, threads that have ended among it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    live_ns = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            live_ns += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
        except OSError:
            continue
    # The whole in ticks of 10 ms; the live threads to the nanosecond.
    return max((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), live_ns / 1e9)


def memory_mib(pid: int) -> tuple[float, float]:
    """Return what a process has in memory, and what of it is its own alone."""
    found = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return _number(found, "Rss") / 1024, (_number(found, "Private_Clean") + _number(found, "Private_Dirty")) / 1024


def _number(text: str, name: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:"))
