"""What was measured is read back from wherever another version, or nobody in their right mind, wrote it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.client.rates import RateBook
from torpor.client.remembered import InProcess
from torpor.state.plan import TargetState
from torpor.state.rates import Observation, Work

GOOD = [1 << 20, 0.5, 0, "cpu"]
ODD: dict[str, Any] = {
    "a word": "rates", "a number": 7, "a mapping": {"units": 1}, "short rows": [[1, 2]], "words": [["a", "b", "c", "d"]],
    "nothing": [[None, None, None, None]], "no time": [[1, 0.0, 0, "cpu"]], "negative": [[-5, 1.0, 0, "cpu"]],
    "before time": [[5, -1.0, 0, "cpu"]], "tiny": [[1 << 40, 5e-324, 0, "cpu"]], "huge": [[1e300, 1.0, 1e300, "cpu"]],
    "a past below zero": [[5, 1.0, -9, "cpu"]],
}  # fmt: skip


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_an_odd_memory_tells_nothing_and_can_be_written_again(value: Any) -> None:
    memory = InProcess()
    memory.put("rate", "read", value)
    book = RateBook(memory)
    assert book.rates(TargetState()).of("read", 1 << 20) is None
    book.note([Observation("read", 1 << 20, 0.5)], TargetState())
    assert RateBook(memory).rates(TargetState()).of("read", 1 << 20) == pytest.approx(0.5)


_values = st.none() | st.booleans() | st.integers(-(1 << 62), 1 << 62) | st.floats() | st.text(max_size=3)


@given(st.lists(st.tuples(_values, _values, _values, _values) | _values, max_size=5))
def test_no_memory_makes_an_estimate_that_is_no_time(rows: list[Any]) -> None:
    memory = InProcess()
    memory.put("rate", "read", [*rows, GOOD])
    seconds = RateBook(memory).rates(TargetState()).seconds(Work(read_bytes=1 << 30))
    assert seconds is None or (math.isfinite(seconds) and seconds >= 0)
