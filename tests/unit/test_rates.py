"""Estimates from timed work: within a factor of two where the machine keeps its pace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.state.rates import KEPT, NOTHING_MEASURED, Observation, Work, fit, rates_from


def prefill_s(new: int, past: int) -> float:
    return 0.02 + 0.0015 * new + 4e-8 * new * (past + new / 2)


@given(st.lists(st.tuples(st.integers(64, 4096), st.integers(0, 4096), st.floats(0.9, 1.1)), min_size=5, max_size=24))
def test_what_lies_among_the_observations_is_estimated_within_two(seen: list[tuple[int, int, float]]) -> None:
    rates = rates_from(Observation("prefill", n, prefill_s(n, p) * noise, p) for n, p, noise in seen)
    for new, past, _ in seen:
        estimate = rates.of("prefill", new, past)
        assert estimate is not None
        assert prefill_s(new, past) / 2 < estimate < prefill_s(new, past) * 2


def test_an_exact_machine_is_found_exactly() -> None:
    rates = rates_from(
        Observation("prefill", n, prefill_s(n, p), p) for n, p in ((64, 0), (500, 64), (4000, 0), (900, 900))
    )
    assert rates.of("prefill", 8000, 100) == pytest.approx(prefill_s(8000, 100), rel=0.05)
    read = rates_from([Observation("read", 10**6, 0.003), Observation("read", 10**8, 0.102)])
    assert read.of("read", 10**9) == pytest.approx(1.002, rel=0.01)


def test_one_observation_is_a_plain_rate() -> None:
    assert rates_from([Observation("prefill", 500, 1.0)]).of("prefill", 1000) == pytest.approx(2.0)


def test_the_newest_observations_count() -> None:
    old = [Observation("read", 1000, 9.0)] * 50
    new = [Observation("read", 1000, 1.0)] * KEPT
    assert rates_from([*old, *new]).of("read", 1000) == pytest.approx(1.0)


def test_what_was_never_measured_is_unknown() -> None:
    assert fit([]) is None
    assert NOTHING_MEASURED.of("prefill", 10) is None
    assert NOTHING_MEASURED.of("prefill", 0) == 0
    assert NOTHING_MEASURED.seconds(Work()) == 0
    known = rates_from([Observation("read", 1000, 1.0)])
    assert known.seconds(Work(read_bytes=2000, new_tokens=1)) == pytest.approx(2.0)
    assert known.seconds(Work(read_bytes=2000, new_tokens=2)) is None
    assert known.seconds(Work(read_bytes=2000, fetch_bytes=1)) is None


@given(st.lists(st.tuples(st.integers(1, 10**12), st.floats(1e-5, 1e5)), min_size=1, max_size=24))
def test_no_estimate_is_negative(rows: list[tuple[int, float]]) -> None:
    rates = rates_from(Observation("read", units, seconds) for units, seconds in rows)
    for units, _ in rows:
        estimate = rates.of("read", units)
        assert estimate is not None
        assert estimate >= 0
