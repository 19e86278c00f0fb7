"""The trusted time over restarts: what is kept of it, and files that are not what was kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torpor.daemon.trusted_time import KEPT_EVERY_S, TrustedTime, read_clocks
from torpor.state.trusted_clock import DAY_S, Anchor, Reading
from torpor.store.clock_anchor import read_anchor, write_anchor

T = 1_790_000_000.0
ANCHOR = Anchor(T, 5.0, "boot", T + 1, sure=False)


def test_an_anchor_comes_back_as_it_was(tmp_path: Path) -> None:
    write_anchor(tmp_path / "clock.json", ANCHOR)
    assert read_anchor(tmp_path / "clock.json") == ANCHOR
    assert (tmp_path / "clock.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"trusted": 1e999}',
        "\xff",
        "x" * 9000,
        '{"trusted":1,"up_s":1,"seen":1,"boot_id":3,"sure":true}',
    ],
)
def test_rubbish_is_no_anchor(tmp_path: Path, text: str) -> None:
    (tmp_path / "clock.json").write_bytes(text.encode("latin-1"))
    assert read_anchor(tmp_path / "clock.json") is None
    at = Reading(T + 400 * DAY_S, 5.0, "boot")
    found = TrustedTime(tmp_path / "clock.json", lambda: T, lambda: at).judged()
    assert found.now == T  # the newest backup stands in
    assert found.distrust is not None


def test_it_is_kept_now_and_then_and_goes_on_over_a_restart(tmp_path: Path) -> None:
    path, at = tmp_path / "clock.json", Reading(T, 100.0, "boot")

    def clocks() -> Reading:
        return at

    time = TrustedTime(path, lambda: None, clocks)
    assert time.now() == T
    first = path.read_bytes()
    at = replace(at, wall=T + 60, up_s=160.0)
    assert time.now() == T + 60
    assert path.read_bytes() == first
    at = replace(at, wall=T + KEPT_EVERY_S, up_s=100.0 + KEPT_EVERY_S)
    time.now()
    assert path.read_bytes() != first
    at = Reading(T + 400 * DAY_S, 7.0, "next boot")
    again = TrustedTime(path, lambda: None, clocks)
    assert again.now() == T + KEPT_EVERY_S + 7
    assert again.judged(believe=True).now == at.wall
    assert TrustedTime(path, lambda: None, clocks).judged().distrust is None


def test_a_home_that_cannot_be_written_still_tells_the_time(tmp_path: Path) -> None:
    assert TrustedTime(tmp_path / "gone" / "clock.json", lambda: None, lambda: Reading(T, 1.0, "b")).now() == T


def test_this_machines_clocks() -> None:
    first, second = read_clocks(), read_clocks()
    assert first.boot_id == second.boot_id
    assert second.up_s >= first.up_s > 0
