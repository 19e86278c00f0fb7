"""What saves and restores take of memory above the tensors themselves, in the inference process and in the daemon.

Each is done by a process of its own, so that its peak is clean. It is watched from outside: the kernel's own peak
(VmHWM, set back before the work begins) and, where that cannot be set back, samples of VmRSS. Both count the pages of
the process, not the page cache. What the tensors take is subtracted: before a save they are there already; a restore
makes them.

A save beside which the session goes on is compared with a session that goes on alone, for `torch.cat` has the old and
the new tensor of a layer at once.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..adapters.transformers import TransformersSession
from ..client import Keeper, connect
from .figures import Figure
from .rig import daemon, scratch
from .rounds import console
from .settings import Settings
from .workload import TOKEN_BYTES, fresh_session, go_on, load, target_of

AT_MOST_MIB = 128.0
SAMPLE_S = 0.005
MORE_TOKENS = 64
GROWN = 3  # times that a session goes on alone
SESSION = "measured"
MIB = 1 << 20

Work = Callable[[], object]


def prepare_save(keeper: Keeper, tokens: int) -> Work:
    """Save a session that rests."""
    session = fresh_session(load(), tokens)
    return lambda: keeper.save(SESSION, session).wait()


def prepare_save_growing(keeper: Keeper, tokens: int) -> Work:
    """Save a session that goes on meanwhile."""
    session = fresh_session(load(), tokens)
    return lambda: _grow_beside(keeper, session)


def prepare_growth(keeper: Keeper, tokens: int) -> Work:
    """Go on without any save."""
    session = fresh_session(load(), tokens)

    def grow() -> None:
        for _ in range(GROWN):
            go_on(session, MORE_TOKENS)

    return grow


def prepare_later(keeper: Keeper, tokens: int) -> Work:
    """Save a session that was saved before, and has grown."""
    session = fresh_session(load(), tokens)
    keeper.save(SESSION, session).wait()
    go_on(session, MORE_TOKENS)
    return lambda: keeper.save(SESSION, session).wait()


def prepare_restore(keeper: Keeper, tokens: int) -> Work:
    """Restore a session that another process saved."""
    target = target_of(load())
    return lambda: keeper.restore(SESSION, target, require="full")


def _grow_beside(keeper: Keeper, session: TransformersSession) -> None:
    handle = keeper.save(SESSION, session)
    while not handle.done():
        go_on(session, MORE_TOKENS)
    handle.wait()


@dataclass(frozen=True, slots=True)
class Peaks:
    """By how much processes grew at most while something was done, in MiB."""

    inference: float
    daemon: float


@dataclass(slots=True)
class Watched:
    """A process whose resident memory is watched from outside."""

    pid: int
    before: int = 0
    highest: int = 0
    _can_reset: bool = True
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def begin(self) -> None:
        """Note what the process has, and watch it from now on."""
        try:
            Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # the peak begins anew
        except OSError:
            self._can_reset = False
        self.before = self.highest = self._field("VmRSS")
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def end(self) -> float:
        """Return by how many MiB the process grew at most."""
        self._ended.set()
        assert self._thread is not None
        self._thread.join()
        peak = self._field("VmHWM") if self._can_reset else self.highest
        return (max(peak, self.highest) - self.before) / MIB

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.highest = max(self.highest, self._field("VmRSS"))

    def _field(self, name: str) -> int:
        with suppress(OSError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith(f"{name}:"):
                    return int(line.split()[1]) << 10
        return 0


def measure(settings: Settings) -> list[Figure]:
    """Save and restore a session of the largest size, each in a process of its own."""
    tokens = max(settings.sizes)
    tensors = tokens * TOKEN_BYTES / MIB
    with scratch(settings.folder) as folder:
        rested = peaks(folder / "home", prepare_save, tokens)
        restored = peaks(folder / "home", prepare_restore, tokens)
    alone, going_on, later = (
        _in_its_own_home(settings.folder, prepare, tokens)
        for prepare in (prepare_growth, prepare_save_growing, prepare_later)
    )
    group, at = "memory", f"{tokens:,} tokens ({tensors:,.0f} MiB)"
    above = {
        "a first save": (rested.inference, rested.daemon),
        "a first save, the session going on": (going_on.inference - alone.inference, going_on.daemon),
        f"a later save, +{MORE_TOKENS} tokens": (later.inference, later.daemon),
        "a restore": (restored.inference - tensors, restored.daemon),
    }
    figures: list[Figure] = []
    for what, (inference, in_daemon) in above.items():
        figures.append(Figure(group, f"{what}, {at}: above the tensors", "MiB", [inference], at_most=AT_MOST_MIB))
        figures.append(Figure(group, f"{what}, {at}: the daemon grew by", "MiB", [in_daemon], at_most=AT_MOST_MIB))
    return figures


def _in_its_own_home(parent: Path, prepare: Callable[[Keeper, int], Work], tokens: int) -> Peaks:
    with scratch(parent) as folder:
        return peaks(folder / "home", prepare, tokens)


def peaks(home: Path, prepare: Callable[[Keeper, int], Work], tokens: int) -> Peaks:
    """Prepare something in a new process with a new daemon of a home, do it, and return how much they grew by."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    with (
        console.status(f"memory: {prepare.__name__.removeprefix('prepare_').replace('_', ' ')}"),
        daemon(home) as running,
    ):
        process = multiprocessing.get_context("spawn").Process(target=_work, args=(theirs, home, prepare, tokens))
        process.start()
        theirs.close()
        try:
            _expect(ours, "ready")
            watched = [Watched(pid) for pid in (process.pid or 0, running.pid)]
            for each in watched:
                each.begin()
            ours.send("go")
            try:
                _expect(ours, "done")
            finally:
                grown = [each.end() for each in watched]
            ours.send("end")
        finally:
            ours.close()
            process.join()
    return Peaks(*grown)


def _expect(connection: Connection, word: str) -> None:
    try:
        said = connection.recv()
    except EOFError as error:
        raise RuntimeError("the measured process ended before its work was done") from error
    if said != word:
        raise RuntimeError(f"the measured process said: {said}")


def _work(connection: Connection, home: Path, prepare: Callable[[Keeper, int], Work], tokens: int) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    kept: list[Any] = []  # what the work returns stays until its peak was read
    with connect(home=home) as keeper:
        work = prepare(keeper, tokens)
        gc.collect()
        connection.send("ready")
        with suppress(EOFError):
            connection.recv()
            kept.append(work())
            connection.send("done")
            connection.recv()
