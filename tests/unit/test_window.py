"""Which turns stay in a window, as a table."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.state.errors import BadInput, ContextTooLong
from torpor.state.window import OVERFLOWS, Overflow, answer_room, check_overflow, left_out, turn_starts

TALK = ["system", "user", "assistant", "user", "assistant", "tool", "assistant", "user"]  # turns at 1, 3 and 7


def sizes(tokens: list[int]) -> Callable[[tuple[int, int]], int]:
    return lambda out: sum(tokens) - sum(tokens[out[0] : out[1]])


@pytest.mark.parametrize(
    ("roles", "starts"),
    [
        (TALK, [1, 3, 7]),
        (["user"], [0]),
        (["system", "developer", "user"], [2]),
        (["assistant", "user"], [0, 1]),
        (["system", "assistant", "tool"], [1]),
        (["system"], []),
        (["user", "system", "user"], [0, 2]),
        ([], []),
    ],
)
def test_turns(roles: list[str], starts: list[int]) -> None:
    assert turn_starts(roles) == starts


@pytest.mark.parametrize(
    ("overflow", "window", "room", "out"),
    [
        ("refuse", 81, 1, None),
        ("keep-newest", 81, 40, None),  # what fits stays as it is, whatever the room
        ("keep-newest", 80, 1, (0, 3)),  # whole turns: the system message and the first turn
        ("keep-newest", 80, 31, (0, 7)),
        ("keep-newest", 51, 1, (0, 3)),
        ("keep-newest", 50, 1, (0, 7)),
        ("keep-newest", 11, 1, (0, 7)),
        ("keep-newest", 11, 5, (0, 7)),  # the room is only a wish
        ("keep-system-and-newest", 80, 1, (1, 3)),
        ("keep-system-and-newest", 61, 1, (1, 3)),
        ("keep-system-and-newest", 60, 1, (1, 7)),
        ("keep-system-and-newest", 21, 1, (1, 7)),
    ],
)
def test_the_choices(overflow: Overflow, window: int, room: int, out: tuple[int, int] | None) -> None:
    tokens = [10] * 8  # 80 with all, 70 without the first turn's two and the system's one
    assert left_out(TALK, sizes(tokens), window=window, room=room, overflow=overflow) == out


@pytest.mark.parametrize(("overflow", "window"), [("refuse", 80), ("keep-newest", 10), ("keep-system-and-newest", 20)])
def test_what_cannot_be(overflow: Overflow, window: int) -> None:
    with pytest.raises(ContextTooLong) as caught:
        left_out(TALK, sizes([10] * 8), window=window, overflow=overflow)
    assert str(window) in caught.value.detail
    if overflow == "refuse":
        assert "80 tokens" in caught.value.detail
        assert all(choice in caught.value.hint for choice in OVERFLOWS[1:])
    else:
        assert "newest turn" in caught.value.detail


def test_one_turn_is_never_cut() -> None:
    with pytest.raises(ContextTooLong, match="newest turn alone"):
        left_out(["user", "assistant"], sizes([50, 50]), window=80, overflow="keep-newest")


@given(
    tokens=st.lists(st.integers(1, 30), min_size=1, max_size=30),
    window=st.integers(1, 300),
    room=st.integers(1, 50),
    system=st.booleans(),
)
def test_as_much_as_fits_stays(tokens: list[int], window: int, room: int, system: bool) -> None:
    roles = [*(["system"] if system else []), *(["user", "assistant"] * len(tokens))][: len(tokens)]
    size = sizes(tokens)
    try:
        out = left_out(roles, size, window=window, room=room, overflow="keep-system-and-newest")
    except ContextTooLong:
        assert size((int(system), (turn_starts(roles) or [0])[-1])) >= window
        return
    if out is None:
        assert sum(tokens) < window
        return
    starts = turn_starts(roles)
    assert out[0] == int(system)
    assert out[1] in starts
    more = [at for at in starts if at < out[1]]
    assert not more or size((out[0], more[-1])) > window - room or out[1] == starts[0]


@pytest.mark.parametrize(
    ("window", "wanted", "room"), [(800, None, 100), (800, 50, 50), (800, 700, 400), (1, None, 1), (800, "x", 100)]
)
def test_room_for_the_answer(window: int, wanted: object, room: int) -> None:
    assert answer_room(window, wanted) == room


def test_the_name_of_a_choice_is_checked() -> None:
    assert check_overflow("keep-newest") == "keep-newest"
    with pytest.raises(BadInput, match="'cut' is no choice"):
        check_overflow("cut")
