"""A pump over a real outbox, with a remote side that does what a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torpor.db.index import Index
from torpor.db.outbox import Entry, OutboxTable
from torpor.db.records import NewBackup, record_of
from torpor.state.errors import TorporError
from torpor.state.outbox import Item, Stage
from torpor.state.sync_state import Troubled
from torpor.sync.ports import Pushed, Turn
from torpor.sync.pump_ports import Clocks, Remote
from torpor.sync.worker import Pump

from support.manifests import manifest

MIB = 1 << 20


def backup_id(number: int) -> str:
    return f"01M81P35719XNDZ4R57NMV{number:04d}"


def add(
    index: Index,
    number: int,
    session: str,
    at: float,
    sizes: dict[str, int],
    *,
    enqueue: bool = True,
    no_sync: bool = False,
    now: float | None = None,
) -> str:
    """Commit a backup with one blob of each layer."""
    made = manifest(id=backup_id(number), session_id=session, created_at=at)
    record = replace(
        record_of(made, manifest_digest=f"{number:064x}", manifest_bytes=9, pinned=False, expires_at=None),
        layers=("text_context", *sizes),
    )
    blobs = {f"{number:032x}{i:032x}": (size, layer) for i, (layer, size) in enumerate(sizes.items())}
    new = NewBackup(record, blobs, no_sync=no_sync)
    index.commit_backups([new], now=at if now is None else now, enqueue=enqueue)
    return record.id


class Times:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.wall, self.steady = 1_000_000.0, 500.0

    def pass_s(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


class Scripted:
    """The remote side: each push calls the next function of the script, and what is not scripted goes well."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, tuple[Stage | None, ...]]] = []
        self.script: list[Callable[[Sequence[Item], Turn], Pushed | None]] = []
        self.left_out: list[Mapping[Stage, str]] = []
        self.fails: TorporError | None = None  # whatever is asked, opening included
        self.asked = self.connected = self.looked = self.broken_off = 0
        self.reachable = True

    def connect(self) -> Scripted:
        self.connected += 1
        if self.fails is not None:
            raise self.fails
        return self

    def ask(self) -> None:
        self.asked += 1
        if self.fails is not None:
            raise self.fails

    def can_connect(self) -> bool:
        self.looked += 1
        return self.reachable

    def break_off(self) -> None:
        self.broken_off += 1

    def push(self, items: Sequence[Item], turn: Turn, left_out: Mapping[Stage, str]) -> Pushed:
        self.left_out.append(left_out)
        if self.script:
            result = self.script.pop(0)(items, turn)
            if result is not None:
                return result
        elif self.fails is not None:
            raise self.fails
        self.pushed.append((items[0].backup_id[-1:], tuple(item.stage for item in items)))
        return Pushed(1, 0, tuple(item.stage for item in items if item.stage is not None))

    def raises(self, *errors: TorporError) -> None:
        def fail(error: TorporError) -> Callable[[Sequence[Item], Turn], Pushed | None]:
            def run(items: Sequence[Item], turn: Turn) -> Pushed | None:
                raise error

            return run

        self.script += [fail(error) for error in errors]


class Told:
    """What the pump told of itself; `keep` are stages that a policy holds."""

    def __init__(self) -> None:
        self.keep: dict[str, str] = {}
        self.lost: list[tuple[int, str]] = []
        self.states: list[str] = []
        self.done: list[int] = []

    def kept_back(self, item: Item) -> str | None:
        return self.keep.get(str(item.stage))

    def pushed(self, items: tuple[Item, ...], result: Pushed, seconds: float) -> None:
        self.done += [item.id for item in items]

    def gave_up(self, item: Item, error: TorporError) -> None:
        self.lost.append((item.id, error.code))

    def troubled(self, trouble: Troubled | None, before: Troubled | None) -> None:
        self.states.append("well" if trouble is None else trouble.name)


class Bench:
    """A pump that a test steps through."""

    def __init__(self, folder: Path) -> None:
        self.index = Index(folder / "index.sqlite")
        self.outbox, self.remote, self.told, self.times = OutboxTable(self.index), Scripted(), Told(), Times()
        self.jitter = 1.0
        self.pump = self.make_pump()

    def make_pump(self, **more: Any) -> Pump:
        clocks = Clocks(lambda: self.times.wall, lambda: self.times.steady, lambda: self.jitter)
        side = Remote(self.remote.connect, self.remote.ask, self.remote.can_connect, self.remote.break_off)
        return Pump(self.outbox, side, self.told, clocks, "boot:1", **more)

    def add(self, number: int, session: str = "s", **sizes: int) -> None:
        add(self.index, number, session, self.times.wall + number, sizes, now=self.times.wall)

    def settle(self, most: int = 60) -> float | None:
        """Step until the pump wants to wait; return how long."""
        for _ in range(most):
            wait = self.pump.step()
            if wait is None or wait > 0:
                return wait
        raise AssertionError("the pump does not rest")

    def rest(self, state: str = "pending") -> Iterable[Entry]:
        return self.outbox.entries(state, 100)
