"""Limits: what the user writes, and what still fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.state.errors import InvalidSettings
from torpor.state.quota import (
    GIB,
    SMALL_BYTES,
    Disk,
    can_ever_fit,
    in_words,
    limits_of,
    on_disk,
    parse_limit,
    shortfall,
    unasked_bytes,
)

SIZES = st.integers(0, 1 << 50)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20%", 200), (" 12.5 % ", 125), ("0", 0), ("4096", 4096), ("200GB", 200 << 30), ("200 GiB", 200 << 30),
        ("1.5T", 3 << 39), ("100%", 1000), ("7k", 7168), ("3b", 3),
    ],
)  # fmt: skip
def test_a_limit_is_a_share_or_a_size(text: str, size: int) -> None:
    assert parse_limit(text, 1000) == size


@pytest.mark.parametrize("text", ["", "%", "101%", "-5", "5 apples", "1e9", "٣", "1" * 40, "GB", "1.2.3", "5%%"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettings):
        parse_limit(text, 1000)


def test_defaults_are_shares_of_the_disk() -> None:
    limits = limits_of(1000 * GIB, "20%", "90%", None)
    assert (limits.hard_bytes, limits.soft_bytes) == (200 * GIB, 180 * GIB)
    assert (limits.floor_bytes, limits.reserve_bytes) == (5 * GIB, GIB)
    small = limits_of(10 * GIB, "20%", "90%", None)
    assert (small.floor_bytes, small.reserve_bytes) == (GIB // 2, int(2 * GIB * 0.05))
    assert limits_of(10 * GIB, "1G", "5G", "0").soft_bytes == GIB  # never above the hard limit


@given(used=SIZES, promised=SIZES, free=SIZES, wanted=SIZES, text=st.booleans())
def test_what_is_admitted_passes_no_limit(used: int, promised: int, free: int, wanted: int, text: bool) -> None:
    limits, disk = limits_of(1 << 49, "20%", "90%", "1%"), Disk(used, promised, free)
    short = shortfall(limits, disk, wanted, text=text)
    after = used + promised + wanted
    if short is None:
        assert after <= limits.hard_bytes - (0 if text else limits.reserve_bytes)
        assert text or free - promised - wanted >= limits.floor_bytes
        assert can_ever_fit(limits, wanted, text=text)
        return
    assert short.size_bytes > 0
    gone = Disk(used - short.size_bytes, promised, free + short.size_bytes)  # with so much less, it fits
    assert shortfall(limits, gone, wanted, text=text) is None
    if text:
        assert short.trouble == "quota"


def test_what_is_left_at_the_end_is_for_text() -> None:
    limits = limits_of(100 * GIB, "10%", "90%", "0")
    disk = Disk(limits.hard_bytes - limits.reserve_bytes, 0, 50 * GIB)
    assert shortfall(limits, disk, 1, text=False) is not None
    assert shortfall(limits, disk, limits.reserve_bytes, text=True) is None
    assert shortfall(limits, disk, limits.reserve_bytes + 1, text=True) is not None
    assert unasked_bytes(limits, disk) == 0
    assert unasked_bytes(limits, Disk(0, 0, 50 * GIB)) == SMALL_BYTES


def test_sizes_are_whole_blocks_and_have_words() -> None:
    assert [on_disk(n) for n in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
    assert [in_words(n) for n in (0, 1023, 1536, 5 << 30, 3 << 40)] == [
        "0 bytes", "1023 bytes", "1.5 KiB", "5.0 GiB", "3.0 TiB",
    ]  # fmt: skip
