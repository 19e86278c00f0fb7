"""Memory that is at hand before a contender runs: some virtual machines give free memory back to their host."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from torpor.measure.free_pages import have_at_hand
from torpor.measure.memory import Watched
from torpor.measure.page_cache import bring, evict, resident_share
from torpor.measure.restore import _Reader, _warm_alone
from torpor.measure.rounds import Action, interleave

SIZE_BYTES = 64 << 20


def test_every_page_is_written_to_and_freed() -> None:
    watched = Watched(os.getpid())
    watched.begin()
    assert have_at_hand(SIZE_BYTES) == SIZE_BYTES
    assert watched.end() * 2**20 > 0.9 * SIZE_BYTES
    assert watched._field("VmRSS") - watched.before < SIZE_BYTES / 2


def test_less_than_a_page_is_left_alone() -> None:
    assert have_at_hand(0) == have_at_hand(1000) == 0


def test_before_each_run_behind_what_prepares_it() -> None:
    seen: list[int] = []

    def prepare() -> Action:
        watched = Watched(os.getpid())
        watched.begin()
        return lambda: seen.append(int(watched.end() * 2**20))

    interleave("test", 2, {"one": prepare, "other": prepare}, takes_bytes=SIZE_BYTES)
    assert len(seen) == 6  # a round is not counted
    assert all(peak > 0.9 * SIZE_BYTES for peak in seen)
    interleave("test", 1, {"one": prepare}, warm_up=False)
    assert seen[6] < SIZE_BYTES / 2


def test_files_are_brought_back_into_the_page_cache(tmp_path: Path) -> None:
    paths = [tmp_path / "large", tmp_path / "small", tmp_path / "empty"]
    for path, size in zip(paths, (20 << 20, 1, 0), strict=True):
        path.write_bytes(bytes(size))
    assert evict(paths) < 0.9
    assert bring(paths) < 0.05  # a system short of memory takes a page of them back now and then
    assert resident_share(paths) > 0.95


def test_a_reader_is_warm_alone(tmp_path: Path) -> None:
    readers = {
        name: _Reader(partial(list, [tmp_path / name]), (tmp_path / name).read_bytes) for name in ("one", "other")
    }
    for reader in readers.values():
        reader.files()[0].write_bytes(bytes(20 << 20))
    away: list[float] = []
    for name, last in (("one", "other"), ("other", "one")):
        assert len(_warm_alone(name, readers, away)()()) == 20 << 20
        assert resident_share(readers[name].files()) == 1
        assert resident_share(readers[last].files()) < 0.1
    assert away == [0, 0]
