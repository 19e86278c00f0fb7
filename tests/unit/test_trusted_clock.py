"""The time that TTLs are judged by: a clock that jumps moves nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.state.trusted_clock import BELIEVED_GAP_S, DAY_S, TOLERANCE_S, Anchor, Reading, first_anchor, judge

T = 1_790_000_000.0
START = Reading(T, 1000.0, "boot-1")
YEAR_S = 365 * DAY_S


def anchor() -> Anchor:
    return judge(None, START).anchor


def later(seconds: float, *, jump: float = 0.0) -> Reading:
    return replace(START, wall=T + seconds + jump, up_s=START.up_s + seconds)


def restarted(off_s: float, *, up_s: float = 30.0) -> Reading:
    return Reading(T + off_s, up_s, "boot-2")


def test_a_clock_that_keeps_step_is_believed() -> None:
    found = judge(anchor(), later(3600, jump=2.0))
    assert (found.now, found.distrust) == (T + 3602, None)


@pytest.mark.parametrize("jump", [10 * YEAR_S, -10 * YEAR_S, DAY_S, -DAY_S, 3600, -3600])
def test_a_jump_within_one_run_moves_nothing(jump: float) -> None:
    found = judge(anchor(), later(60, jump=jump))
    assert found.now == T + 60
    assert found.distrust is not None
    again = judge(found.anchor, later(120, jump=jump))
    assert again.now == T + 120
    put_right = judge(again.anchor, later(180))
    assert (put_right.now, put_right.distrust) == (T + 180, None)


def test_a_clock_cannot_creep_in_steps_that_are_each_believed() -> None:
    at, moved = anchor(), 0.0
    for minute in range(1, 600):
        moved += TOLERANCE_S - 1
        found = judge(at, later(60 * minute, jump=moved))
        at = found.anchor
    assert found.now <= T + 60 * 600 + TOLERANCE_S * 2


def test_a_machine_that_was_off_for_days_is_believed() -> None:
    found = judge(anchor(), restarted(29 * DAY_S))
    assert (found.now, found.distrust) == (T + 29 * DAY_S, None)


def test_a_year_off_needs_a_witness() -> None:
    reading = restarted(YEAR_S)
    found = judge(anchor(), reading)
    assert found.now == T + reading.up_s
    assert "days ahead" in str(found.distrust)
    for witness in ({"synchronised": True}, {"server_at": reading.wall + 30}):
        assert judge(found.anchor, replace(reading, **witness)).now == reading.wall  # type: ignore[arg-type]
    assert judge(found.anchor, replace(reading, server_at=T)).now < T + DAY_S
    assert judge(found.anchor, reading, believe=True).now == reading.wall


def test_a_dead_clock_battery_and_a_server_that_sets_it_right() -> None:
    woken = judge(anchor(), Reading(100.0, 20.0, "boot-2"))
    assert woken.now == T + 20
    assert not woken.anchor.sure
    right = judge(woken.anchor, Reading(T + 3 * DAY_S, 60.0, "boot-2"))  # the machine was off for three days
    assert (right.now, right.distrust) == (T + 3 * DAY_S, None)
    assert right.anchor.sure


def test_without_an_anchor_the_newest_backup_bounds_what_may_have_passed() -> None:
    assert first_anchor(None, START) is None
    assert judge(first_anchor(T - DAY_S, START), START).now == T
    assert judge(first_anchor(T - YEAR_S, START), START).now == T - YEAR_S
    assert judge(first_anchor(T + 10 * YEAR_S, START), START).now == T  # made under a wrong clock: nothing goes by that


def test_the_user_may_say_that_an_earlier_time_is_right() -> None:
    assert judge(anchor(), later(60, jump=-YEAR_S), believe=True).now == T + 60 - YEAR_S


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e6), st.sampled_from([0.0, 1.0, -1.0, 1e5, -1e5, 1e9, -1e9, 40 * DAY_S]), st.booleans()
        ),
        max_size=12,
    )
)
def test_it_never_goes_back_and_never_runs_ahead_of_what_may_have_passed(
    steps: list[tuple[float, float, bool]],
) -> None:
    at, found, boots, up_s, true = anchor(), judge(None, START), 0, START.up_s, T
    for seconds, jump, restart in steps:
        true += seconds
        up_s = min(seconds, 100.0) if restart else up_s + seconds
        boots += restart
        before = found.now
        found = judge(at, Reading(true + jump, up_s, f"boot-{boots}" if boots else "boot-1"))
        at = found.anchor
        assert found.now >= before
        passed = BELIEVED_GAP_S * (boots + 1) + 2 * TOLERANCE_S * (len(steps) + 1)
        assert found.now <= true + passed + 1e-3 * (true - T)
