"""Power loss at any moment of mixed work: every acknowledged backup is there and whole, and nothing else is broken.

The work is recorded once (tests/support/recorded_work.py); the disk is then made as it may be at a moment, with nothing,
all, or any part of what was not synced by then (tests/support/power_loss.py), and a daemon starts on it.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.faulty_fs import FaultyDisk
from support.faulty_world import World
from support.power_loss import LUCKS, Disk, Entry, Kind, read_record
from torpor.state.errors import TorporError

SOAK = bool(os.environ.get("TORPOR_SOAK"))
STEPS = 16 if SOAK else 4
SYNCS = (Kind.SYNC, Kind.SYNC_FOLDER)


@dataclass(frozen=True, slots=True)
class Moment:
    """Power goes behind this many entries, with so much luck."""

    entries: int
    luck: str
    seed: int


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a state is looked at once, and a real disk would sync it many times."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="torpor-power-", dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    """What was done with a home from its making on."""
    place = tmp_path_factory.mktemp("recorded")
    disk = FaultyDisk(place / "disk", place / "control", place / "record")
    disk.root.mkdir()
    command = [sys.executable, "-m", "support.recorded_work", str(disk.root / "home"), "1", str(STEPS)]
    tests = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=tests, env=os.environ | disk.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return read_record(disk.record)


def states(record: list[Entry], moments: list[Moment], disk: Disk, place: Path) -> Iterator[tuple[Moment, World]]:
    """Yield the world as each moment leaves it; the ledger says what was acknowledged by then."""
    ledger, played = World(place).ledger, 0
    for moment in sorted(moments, key=lambda m: m.entries):
        for entry in record[played : moment.entries]:
            if entry.kind == Kind.NOTE:
                ledger.learn(entry.path)
            else:
                disk.play(entry)
        played = moment.entries
        left = place / "left"
        shutil.rmtree(left, ignore_errors=True)
        disk.leave(left, LUCKS[moment.luck], random.Random(moment.seed))
        world = World(left / "home", seed=90)
        world.ledger = ledger.copy()
        yield moment, world


def wrong(world: World) -> str | None:
    """Start a daemon on what is left, and say what is not as it must be."""
    try:
        with world.opened():
            world.verify()
            world.save()
            world.verify()
    except (AssertionError, TorporError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def all_moments(record: list[Entry], count: int, seed: int) -> list[Moment]:
    """Choose moments: at syncs and anywhere, with luck of every kind."""
    rng = random.Random(seed)
    syncs = [turn for turn, entry in enumerate(record) if entry.kind in SYNCS or entry.kind == Kind.NOTE]
    chosen = [rng.choice(syncs) + rng.randrange(2) for _ in range(count)]
    chosen += [rng.randrange(len(record) + 1) for _ in range(count // 2)]
    lucks = list(LUCKS)
    return [Moment(at, lucks[turn % len(lucks)], turn) for turn, at in enumerate(chosen)]


def within_a_group(record: list[Entry], count: int) -> list[Moment]:
    """Moments at which all members of a group have their names, and none of these is synced."""
    begun = next(at for at, e in enumerate(record) if e.kind == Kind.NOTE and e.path.startswith("group "))
    named = (
        at for at in range(begun, len(record)) if record[at].kind == Kind.RENAME and b"/manifests/" in record[at].data
    )
    next(named)
    last = next(named)
    return [Moment(last + 1, "half", seed) for seed in range(count)]


def while_the_index_is_made(record: list[Entry]) -> list[Moment]:
    """Moments at which a new index has a rollback journal: it is turned to its log of writes behind that."""
    begun = next(at for at, entry in enumerate(record) if entry.path.endswith("/index.sqlite-journal"))
    return [Moment(begun + turn, luck, turn) for turn in range(1, 12, 2) for luck in ("all", "half")]


def test_nothing_is_lost_when_the_power_goes(record: list[Entry], place: Path) -> None:
    if SOAK:
        moments = [Moment(at, luck, at) for at in range(len(record) + 1) for luck in LUCKS]
    else:
        moments = [
            *all_moments(record, 40, 3),
            *within_a_group(record, 8),
            *while_the_index_is_made(record),
            Moment(len(record), "nothing", 0),
        ]
    found = [(moment, said) for moment, world in states(record, moments, Disk(), place) if (said := wrong(world))]
    print(f"\npower loss: {len(moments)} moments of {len(record)} entries, {len(found)} with a loss")
    assert not found, found[:5]


FORGOTTEN = {
    "bytes of blobs and manifests": lambda e: e.kind == Kind.SYNC and "/staging/" in e.path,
    "names of blobs": lambda e: e.kind == Kind.SYNC_FOLDER and "/blobs/" in e.path,
    "names of manifests": lambda e: e.kind == Kind.SYNC_FOLDER and e.path.endswith("/manifests"),
    "bytes of sidecars": lambda e: e.kind == Kind.SYNC and "/sessions/" in e.path,
    "names of sidecars": lambda e: e.kind == Kind.SYNC_FOLDER and e.path.endswith("/sessions"),
    "names of marks of groups": lambda e: e.kind == Kind.SYNC_FOLDER and e.path.endswith("/groups"),
    "the folders of the home": lambda e: e.kind == Kind.SYNC_FOLDER and e.path.endswith(("/home", "/store", "/blobs")),
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_forgotten_sync_is_noticed(record: list[Entry], place: Path, what: str) -> None:
    """Proof that the replay would find it: with one kind of sync left out, something acknowledged is lost."""
    moments = [Moment(at, "nothing", 0) for at in range(len(record), 0, -len(record) // 6)]
    moments += [Moment(len(record), "names without bytes", 0)]
    if "group" in what:
        moments = within_a_group(record, 30)
    found = (said for _, world in states(record, moments, Disk(FORGOTTEN[what]), place) if (said := wrong(world)))
    assert next(found, None) is not None
