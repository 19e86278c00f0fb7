"""Figure 6: what the daemon costs: time to ready, memory, CPU and wake-ups while nothing happens."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from torpor.adapters.demo_model import Loaded
from torpor.client import connect
from torpor.measure.figures import Figure
from torpor.measure.rig import daemon, scratch
from torpor.measure.rounds import console
from torpor.measure.settings import Settings
from torpor.measure.workload import fresh_session, load

SAVES, TOKENS = 3, 1_000
SETTLE_S = 3.0  # after the last request, before idleness is measured
READY_AT_MOST_S, RSS_AT_MOST_MIB, CPU_AT_MOST_PERCENT, WAKEUPS_AT_MOST = 1.5, 110.0, 0.2, 60.0


@dataclass(frozen=True, slots=True)
class _Usage:
    """What all threads of a process have used so far: nanoseconds on a CPU, and context switches."""

    cpu_ns: int
    switches: int


def measure(settings: Settings) -> list[Figure]:
    """Start daemons in new homes, then one of them again with backups in it, and watch that one idle."""
    loaded, starts, idle_s = load(), settings.rounds(5, 2), 10.0 if settings.quick else 30.0
    with scratch(settings.folder) as folder, console.status("daemon: starts"):
        ready_s, rss_mib = [], []
        for number in range(starts + 1):  # the first fills the page cache and is not counted
            home = folder / f"home-{number}"
            with daemon(home) as running:
                if number:
                    ready_s.append(running.ready_s)
                    rss_mib.append(_rss_mib(running.pid))
        again_s = []
        for _ in range(starts - 1):
            with daemon(home) as running:
                again_s.append(running.ready_s)
        with daemon(home) as running:
            again_s.append(running.ready_s)
            _save_some(loaded, home)
            with console.status(f"daemon: idle for {idle_s:.0f} s"):
                saved_mib, cpu_percent, wakeups = _idle(running.pid, idle_s)
    return [
        Figure("daemon", "exec to ready, new home", "s", ready_s, at_most=READY_AT_MOST_S),
        Figure("daemon", "exec to ready, home in use", "s", again_s, at_most=READY_AT_MOST_S),
        Figure("daemon", "RSS after start", "MiB", rss_mib, at_most=RSS_AT_MOST_MIB),
        Figure("daemon", f"RSS after {SAVES} saves", "MiB", [saved_mib], at_most=RSS_AT_MOST_MIB),
        Figure("daemon", f"idle CPU over {idle_s:.0f} s", "%", [cpu_percent], at_most=CPU_AT_MOST_PERCENT),
        Figure("daemon", f"idle wake-ups over {idle_s:.0f} s", "1/min", [wakeups], at_most=WAKEUPS_AT_MOST),
    ]


def _save_some(loaded: Loaded, home: Path) -> None:
    with connect(home=home) as keeper:
        for number in range(SAVES):
            keeper.save(f"daemon-{number}", fresh_session(loaded, TOKENS)).wait()


def _idle(pid: int, idle_s: float) -> tuple[float, float, float]:
    """Return MiB of RSS, per cent of a core, and wake-ups a minute."""
    time.sleep(SETTLE_S)
    before, started = _usage(pid), time.monotonic()
    time.sleep(idle_s)
    after, took_s = _usage(pid), time.monotonic() - started
    cpu_percent = (after.cpu_ns - before.cpu_ns) / 1e9 / took_s * 100
    return _rss_mib(pid), cpu_percent, (after.switches - before.switches) / took_s * 60


def _usage(pid: int) -> _Usage:
    cpu_ns = switches = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        folder = Path(f"/proc/{pid}/task/{thread}")
        cpu_ns += int((folder / "schedstat").read_text().split()[0])
        status = (folder / "status").read_text()
        switches += sum(int(line.split()[1]) for line in status.splitlines() if "ctxt_switches" in line)
    return _Usage(cpu_ns, switches)


def _rss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} has no VmRSS")
