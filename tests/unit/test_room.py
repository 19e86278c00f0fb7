"""Promises of room: together they never pass the quota, and end with those who hold them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.manifests import manifest
from torpor.codec import manifest_file
from torpor.daemon import room as room_module
from torpor.daemon.compose import compose
from torpor.daemon.room import LEASE_S, Room, open_room
from torpor.daemon.settings import load_settings
from torpor.daemon.usage import Usage
from torpor.state.errors import QuotaFull, StoreFull, Unavailable
from torpor.state.quota import Limits
from torpor.store.disk_usage import DiskUsage
from torpor.store.home import Home

HARD, RESERVE = 1_000_000, 50_000
BACKUP = "01M81P35719XNDZ4R57NMVGR0P"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Figures:
    """Stands for the walks: what is on the disk, and what the index would make of it between walks."""

    def __init__(self) -> None:
        self.on_disk, self.added, self.walks = 0, 0, 0

    def estimate(self) -> int:
        return self.on_disk + self.added

    def add(self, kind: str, size_bytes: int) -> None:
        self.added += size_bytes

    def removing(self, kind: str) -> AbstractContextManager[Callable[[int], None]]:
        return nullcontext(lambda size_bytes: self.add(kind, -size_bytes))

    def walk_unless_new(self) -> bool:
        self.exact()
        return True

    def exact(self) -> None:
        self.walks += 1
        self.added = 0


@pytest.fixture
def figures() -> Figures:
    return Figures()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def room(tmp_path: Path, figures: Figures, clock: Clock) -> Room:
    limits = Limits(HARD, 900_000, 0, RESERVE)
    return Room(str(tmp_path), figures, lambda disk: limits, clock, clock.sleep, turn_s=0)  # type: ignore[arg-type]


def test_what_is_promised_to_one_is_not_promised_to_another(room: Room, figures: Figures) -> None:
    room.ask("a", 500_000)
    room.ask("b", 400_000)
    with pytest.raises(QuotaFull) as caught:
        room.ask("c", 100_000)
    assert "878.9 KiB are promised" in caught.value.detail
    room.ask("c", 50_000)
    room.ask("t", 50_000, text=True)  # the reserve
    room.end("a")
    room.ask("d", 450_000)


def test_many_at_once_never_pass_the_quota(room: Room) -> None:
    granted, lock = [], threading.Lock()

    def ask(number: int) -> None:
        try:
            room.ask(f"s{number}", 40_000)
        except QuotaFull:
            return
        with lock:
            granted.append(number)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(64)))
    assert len(granted) == (HARD - RESERVE) // 40_000


def test_a_promise_ends_when_nobody_renews_it(room: Room, clock: Clock) -> None:
    room.ask("dead", 900_000)
    clock.now += LEASE_S - 1
    room.ask("dead", 890_000)  # it lives
    clock.now += LEASE_S - 1
    with pytest.raises(QuotaFull):
        room.ask("other", 900_000)
    clock.now += 2
    room.ask("other", 900_000)


def test_what_was_written_of_a_promise_counts_as_used(room: Room, figures: Figures) -> None:
    room.ask("a", 500_000)
    room.ask("a", 100_000, written_bytes=400_000)
    assert (figures.estimate(), room.state()[1].promised_bytes) == (400_000, 100_000)
    figures.on_disk = 400_000
    with pytest.raises(QuotaFull):
        room.ask("a", 700_000, written_bytes=400_000)  # more than it said at first, and more than there is
    assert room.state()[1].promised_bytes == 100_000
    room.ask("b", 450_000)


def test_nobody_claims_to_have_written_more_than_he_was_promised(room: Room, figures: Figures) -> None:
    room.ask("a", 1000)
    room.ask("a", 1000, written_bytes=1 << 50)
    assert figures.estimate() == 1000
    assert room.over_soft() == 0
    room.ask("b", 900_000)


def test_a_commit_claims_no_more_than_its_blobs(room: Room, figures: Figures) -> None:
    with room.committing([manifest(bytes_written=1 << 50)], 4096):
        pass
    assert figures.estimate() == 3 * 4096 + 4096  # the files of three small blobs, and the manifest


def test_there_is_an_end_to_promises(room: Room, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "PROMISES", 10)
    for number in range(10):
        room.ask(str(number), 0)
    room.ask("0", 5)  # renews its own
    with pytest.raises(Unavailable):
        room.ask("one more", 0)
    clock.now += LEASE_S + 1
    room.ask("one more", 0)


def test_who_asks_again_and_again_gets_no_more_than_there_is(room: Room, figures: Figures) -> None:
    written = 0
    with pytest.raises(QuotaFull):
        for _ in range(100):
            room.ask("import", 50_000, written_bytes=written)
            written += 50_000
            figures.on_disk += 50_000
    assert HARD - RESERVE - 50_000 < written <= HARD - RESERVE


def test_who_is_refused_waits_a_moment_for_those_who_write(tmp_path: Path, clock: Clock, figures: Figures) -> None:
    def sleep(seconds: float) -> None:
        clock.now += seconds
        room.end("a")

    limits = Limits(HARD, 900_000, 0, RESERVE)
    room = Room(str(tmp_path), figures, lambda disk: limits, clock, sleep)  # type: ignore[arg-type]
    room.ask("a", 600_000)
    figures.on_disk = 600_000  # all of it is written, and nobody has said so yet
    room.ask("b", 300_000)
    assert 0 < clock.now < 1


def test_room_is_made_where_that_can_help(room: Room, figures: Figures) -> None:
    asked: list[int] = []

    def make_room(size_bytes: int, session_id: str | None) -> int:
        asked.append(size_bytes)
        figures.on_disk -= size_bytes
        return size_bytes

    room.evict_with(make_room)
    figures.on_disk = 800_000
    room.ask("a", 300_000)
    assert asked == [150_000]
    with pytest.raises(QuotaFull):
        room.ask("b", 960_000)  # would not fit an empty home: nothing is let go for it
    assert len(asked) == 1
    room.evict_with(lambda size_bytes, session_id: 0)
    with pytest.raises(QuotaFull):
        room.ask("c", 1)


def test_room_that_is_made_while_it_is_measured_is_given_once(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    blobs = [home.store / "blobs" / f"0{number}" / (f"{number}" * 64) for number in range(2)]
    for path in blobs:
        path.write_bytes(bytes(6 << 20))
    usage = Usage(DiskUsage(home))
    limits = Limits(14 << 20, 14 << 20, 0, 0)  # of which folders take one
    room = Room(str(home.store), usage, lambda disk: limits, turn_s=0)
    size = 3 << 20

    def make_room(size_bytes: int, session_id: str | None) -> int:
        with room.letting_go() as unlinked:
            blobs.pop().unlink()
            usage.exact()  # another save asks in this moment, and walks
            unlinked(6 << 20)
        return 6 << 20

    room.evict_with(make_room)
    room.ask("a", size)  # the first blob goes for it
    room.ask("b", size)
    assert len(blobs) == 1
    room.ask("c", size)
    assert blobs == []


def test_room_that_was_made_and_not_counted_is_looked_for(room: Room, figures: Figures) -> None:
    figures.on_disk = HARD - RESERVE

    def make_room(size_bytes: int, session_id: str | None) -> int:
        figures.on_disk -= 300_000
        figures.added += 300_000  # a walk had come past these files before they went
        return 300_000

    room.evict_with(make_room)
    room.ask("a", 300_000)


def test_the_floor_is_left_to_others(tmp_path: Path, figures: Figures, clock: Clock) -> None:
    limits = Limits(1 << 60, 1 << 60, 1 << 60, 0)
    room = Room(str(tmp_path), figures, lambda disk: limits, clock, clock.sleep)  # type: ignore[arg-type]
    with pytest.raises(StoreFull, match="left to others") as caught:
        room.ask("a", 1)
    assert not isinstance(caught.value, QuotaFull)
    assert "TORPOR_FREE_FLOOR" in caught.value.hint
    room.ask("t", 1, text=True)


def test_a_file_of_unknown_length_asks_piece_by_piece(room: Room, figures: Figures) -> None:
    with pytest.raises(QuotaFull), room.taking() as take:
        for _ in range(100):
            take(20_000)
    assert (figures.estimate(), room.state()[1].promised_bytes) == (0, 0)
    room.ask("save", 900_000)
    with room.taking("save") as take:
        take(600_000)
    assert (figures.estimate(), room.state()[1].promised_bytes) == (600_000, 300_000)
    figures.on_disk = 600_000
    with room.taking("save") as take, pytest.raises(QuotaFull):
        take(310_000)  # more than was promised
    assert room.state()[1].promised_bytes == 300_000


def test_a_commit_ends_its_promise(room: Room, figures: Figures) -> None:
    room.ask(BACKUP, 500_000)
    with room.committing([manifest(id=BACKUP, bytes_written=400_000)], 4_000):
        assert room.state()[1].promised_bytes == 500_000
    assert (figures.estimate(), room.state()[1].promised_bytes) == (404_096, 0)
    room.ask(BACKUP, 500_000)
    with pytest.raises(KeyError), room.committing([manifest(id=BACKUP)], 4_000):
        raise KeyError
    assert room.state()[1].promised_bytes == 500_000  # its save tries again, or gives it back


def test_a_commit_that_nobody_asked_for_is_looked_at(room: Room, figures: Figures) -> None:
    figures.on_disk = HARD - RESERVE
    large, text = manifest(bytes_written=10), manifest(bytes_written=10, kv_cache=None, layers={"text_context": {}})
    with pytest.raises(QuotaFull), room.committing([large], 4096):
        raise AssertionError("not reached")
    with room.committing([text], 4096):
        pass
    with room.committing([manifest(bytes_written=0)], 4096):  # a fork: nothing but its manifest is new
        pass
    figures.on_disk = HARD
    with pytest.raises(QuotaFull), room.committing([text], 4096):
        raise AssertionError("not reached")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 600_000), st.integers(0, 100)), max_size=25))
def test_used_and_promised_never_pass_the_quota(steps: list[tuple[str, int, int]]) -> None:
    clock, figures = Clock(), Figures()
    limits = Limits(HARD, 900_000, 0, RESERVE)
    room = Room("/tmp", figures, lambda disk: limits, clock, clock.sleep)  # type: ignore[arg-type]
    left, written = dict.fromkeys("abc", 0), dict.fromkeys("abc", 0)
    for name, size, done in steps:
        try:
            room.ask(name, size, written_bytes=written[name])
        except QuotaFull:
            pass
        else:
            left[name] = size
        wrote = left[name] * done // 100
        figures.on_disk += wrote  # the disk knows at once, the room when it is told
        left[name] -= wrote
        written[name] += wrote
        assert figures.on_disk + sum(left.values()) <= HARD - RESERVE


def test_homes_have_the_room_of_their_disk(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    with ExitStack() as stack:
        given_settings = load_settings({"quota": "8M", "free_floor": "0"})
        catalog = compose(home, given_settings, stack)
        room = open_room(home, given_settings, catalog)
        limits, disk = room.state()
        assert (limits.hard_bytes, room.unasked_bytes()) == (8 << 20, 0)
        assert 0 < disk.used_bytes < 4 << 20
        assert disk.free_bytes > 0
        large = manifest(kv_cache=None, layers={"text_context": {"said": "word " * 20_000}})
        catalog.commit(large.id, manifest_file.dump(large))
        room._limits = lambda disk_bytes: Limits(0, 0, 0, 0)
        catalog.commit(large.id, manifest_file.dump(large))  # once more: nothing is written
        other = manifest(id=BACKUP, kv_cache=None, layers={})
        with pytest.raises(QuotaFull):
            catalog.commit(BACKUP, manifest_file.dump(other))
        assert not catalog.manifests.has(BACKUP)
