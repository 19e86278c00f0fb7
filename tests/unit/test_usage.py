"""The figure of what a home takes is that of `du`, whatever lies in it, and follows what happens."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torpor.daemon.usage import AT_MOST, Usage
from torpor.store.disk_usage import CLASSES, DiskUsage
from torpor.store.home import Home


def du(home: Home) -> int:
    command = ["du", "-s", "--block-size=1", str(home.root)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    return home


def name(number: int) -> str:
    return f"{number % 256:02x}{number:062x}"


def blob(home: Home, number: int, size: int = 100) -> Path:
    path = home.store / "blobs" / name(number)[:2] / name(number)
    path.write_bytes(os.urandom(size))
    return path


def settle(home: Home, at: float) -> None:
    """Let all folders have changed long ago, so that a walk believes what it saw."""
    for folder, _, _ in os.walk(home.root):
        os.utime(folder, (at, at))


def test_it_is_what_du_says(home: Home) -> None:
    usage = DiskUsage(home)
    assert sum(usage.measure().values()) == du(home)
    for number in range(600):
        blob(home, number, 1 + number * 37)
    large = home.store / "manifests" / "large.qwnbak"
    with large.open("wb") as file:
        file.write(b"x" * 100_000)
        file.truncate(1 << 30)  # sparse: takes what it takes
    os.link(large, home.store / "trash" / "again")  # counts once
    os.link(large, home.store / "manifests" / "twice.qwnbak")
    (home.store / "trash" / "ab").mkdir()
    (home.store / "trash" / "ab" / "thrown").write_bytes(os.urandom(50_000))
    (home.store / "quarantine").mkdir(exist_ok=True)
    (home.store / "quarantine" / "bad").write_bytes(os.urandom(9_000))
    (home.store / "staging" / "w1").mkdir()
    (home.store / "staging" / "w1" / "1.tmp").write_bytes(os.urandom(70_000))
    (home.store / "outgoing").mkdir()
    (home.store / "outgoing" / "o").write_bytes(os.urandom(5))
    (home.root / "index.sqlite").write_bytes(os.urandom(40_000))
    (home.root / "index.sqlite-wal").write_bytes(os.urandom(20_000))
    (home.root / "unknown").mkdir()
    (home.root / "unknown" / "file").write_bytes(os.urandom(11_000))
    (home.root / "link").symlink_to("/usr")
    (home.logs / "daemon.log").write_text("a line\n")
    for again in (False, True):
        found = usage.measure(anew=again)
        assert sum(found.values()) == du(home)
    assert set(found) == set(CLASSES)
    assert found["database"] == 40960 + 20480
    assert min(found[kind] for kind in ("quarantine", "staging", "outgoing", "logs", "other")) > 0
    assert 100_000 < found["manifests"] + found["trash"] < 1 << 20


def test_folders_that_did_not_change_are_not_looked_into_again(home: Home) -> None:
    for number in range(300):
        blob(home, number)
    settle(home, time.time() - 60)
    usage, looked = DiskUsage(home), list[None]()
    usage.measure(pause=lambda: looked.append(None))
    assert len(looked) > 256
    looked.clear()
    assert sum(usage.measure(pause=lambda: looked.append(None)).values()) == du(home)
    assert len(looked) < 10  # those whose files may change under their names
    blob(home, 1003, 60_000)
    blob(home, 1000, 10_000)
    looked.clear()
    assert sum(usage.measure(pause=lambda: looked.append(None)).values()) == du(home)
    assert len(looked) < 12
    blob(home, 1001, 10_000)  # in the same instant perhaps: a folder that changed just now is not believed
    assert sum(usage.measure().values()) == du(home)
    (home.store / "blobs" / name(1003)[:2] / name(1003)).unlink()
    assert sum(usage.measure().values()) == du(home)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """A walk that takes long, for a clock that stands still otherwise."""

    def __init__(self, clock: Clock, took_s: float) -> None:
        self.clock, self.took_s, self.walks, self.found = clock, took_s, 0, 1000
        self.walked = threading.Event()

    def measure(self, **options: object) -> dict[str, int]:
        self.walks += 1
        self.clock.now += self.took_s
        self.walked.set()
        return dict.fromkeys(CLASSES, 0) | {"blobs": self.found}


def wait_for_walk(usage: Usage, slow: Slow) -> None:
    assert slow.walked.wait(10)
    with usage._walking:
        slow.walked.clear()


def test_a_walk_that_takes_long_is_done_seldom_and_by_the_way() -> None:
    clock = Clock()
    slow = Slow(clock, 4.0)
    usage = Usage(slow, steady=clock, sleep=lambda s: None)  # type: ignore[arg-type]
    assert usage.estimate() == 1000
    wait_for_walk(usage, slow)
    usage.add("blobs", 500)
    usage.add("manifests", 8)
    for _ in range(100):
        assert usage.estimate() == 1508
    figure = usage.figure()
    assert (figure.total_bytes, figure.classes["manifests"], figure.exact) == (1508, 8, False)
    assert slow.walks == 1
    clock.now += AT_MOST * 4 + 1
    slow.found = 1700
    usage.figure()
    wait_for_walk(usage, slow)
    assert slow.walks == 2
    assert usage.estimate() == 1700  # what was added before the walk is in it
    with usage.removing("blobs") as removed:
        removed(5000)
    assert usage.estimate() == 0


def test_what_comes_while_a_walk_goes_on_is_not_lost() -> None:
    clock = Clock()
    slow = Slow(clock, 4.0)
    usage = Usage(slow, steady=clock, sleep=lambda s: None)  # type: ignore[arg-type]
    slow.measure = lambda **o: usage.add("blobs", 7) or {"blobs": 10}  # type: ignore[method-assign]
    assert usage.exact().total_bytes == 17


def test_what_goes_while_a_walk_goes_on_is_not_taken_off_twice() -> None:
    clock = Clock()
    slow = Slow(clock, 4.0)
    usage = Usage(slow, steady=clock, sleep=lambda s: None)  # type: ignore[arg-type]
    usage.exact()
    with usage.removing("blobs") as removed:
        removed(300)
    assert usage.estimate() == 700
    slow.found = 700
    with usage.removing("blobs") as removed:  # a walk begins behind the unlinking, and ends before it is told
        slow.found = 500
        usage.exact()
        removed(200)
    assert usage.estimate() == 500
    with usage.removing("blobs") as removed:  # or it begins before, and ends behind
        slow.measure = lambda **o: removed(200) or {"blobs": 300}  # type: ignore[method-assign]
        assert usage.exact().total_bytes == 300
    with usage.removing("blobs") as removed:
        removed(100)
    assert (usage.estimate(), usage.figure().exact) == (200, False)


def test_what_moves_while_a_walk_goes_on_is_found(home: Home) -> None:
    """At whatever moment of a walk a file leaves staging for the store, or the store for the trash."""
    for number in range(1, 255):  # the fewer folders, the fewer moments
        (home.store / "blobs" / f"{number:02x}").rmdir()
    before = sum(DiskUsage(home).measure().values())
    written, taken = home.store / "staging" / "written", home.store / "blobs" / "00" / ("0" * 64)
    stored, thrown = home.store / "blobs" / "ff" / ("f" * 64), home.store / "trash" / "thrown"
    for at in range(len([path for path in home.root.rglob("*") if path.is_dir()])):
        for path in (taken, thrown):
            path.unlink(missing_ok=True)
        for path in (written, stored):
            path.write_bytes(os.urandom(8192))
        steps = iter(range(1000))

        def step(at: int = at, steps: Iterator[int] = steps) -> None:
            if next(steps) == at:
                written.rename(taken)
                stored.rename(thrown)

        assert sum(DiskUsage(home).measure(pause=step).values()) >= before + 2 * 8192
        assert taken.exists()
        assert thrown.exists()


def test_before_the_first_walk_is_done_the_index_has_to_do() -> None:
    clock, go = Clock(), threading.Event()
    slow = Slow(clock, 0.0)
    real = slow.measure
    slow.measure = lambda **o: (go.wait(10), real())[1]  # type: ignore[method-assign]
    usage = Usage(slow, lambda: {"blobs": 77}, steady=clock, sleep=lambda s: None)  # type: ignore[arg-type]
    assert usage.estimate() == 77
    go.set()
    wait_for_walk(usage, slow)
    assert usage.estimate() == 1000


def test_a_quick_walk_is_done_by_whoever_asks(home: Home) -> None:
    usage = Usage(DiskUsage(home))
    for number in range(3):
        blob(home, number, 50_000)
        usage.exact()
        assert usage.figure().total_bytes == du(home)
