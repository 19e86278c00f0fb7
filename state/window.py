"""Which turns of a conversation stay in a context that is too short for all of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

from .errors import BadInput, ContextTooLong

Overflow = Literal["refuse", "keep-newest", "keep-system-and-newest"]
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)
_SYSTEM = ("system", "developer")


def check_overflow(name: str) -> Overflow:
    """Check the name of a choice. Raises: BadInput."""
    for choice in OVERFLOWS:
        if choice == name:
            return choice
    raise BadInput(f"{name[:40]!r} is no choice for a long context", hint=f"Choices: {', '.join(OVERFLOWS)}.")


def turn_starts(roles: Sequence[str]) -> list[int]:
    """Return where each turn begins: at a user's message; what follows it (answers, results of tools) goes with it.

    Leading system messages are no turn; what else stands before the first user's message is one.
    """
    system = system_count(roles)
    starts = [i for i, role in enumerate(roles) if i >= system and role == "user"]
    return starts if not roles[system:] or starts[:1] == [system] else [system, *starts]


def system_count(roles: Sequence[str]) -> int:
    """Return how many system messages a conversation begins with."""
    return next((i for i, role in enumerate(roles) if role not in _SYSTEM), len(roles))


def answer_room(window: int, max_new_tokens: object) -> int:
    """Return how many tokens are left free for the answer when a context is cut: at most half of the window."""
    wanted = max_new_tokens if isinstance(max_new_tokens, int) and max_new_tokens > 0 else window // 8
    return max(1, min(wanted, window // 2))


def left_out(
    roles: Sequence[str],
    size: Callable[[tuple[int, int]], int],
    *,
    window: int,
    room: int = 1,
    overflow: Overflow = "refuse",
) -> tuple[int, int] | None:
    """Return the messages `(start, stop)` that stay out of a context, None when all of them fit.

    `size` counts the tokens of the context without some messages; it is called about log2(turns) times, and taken to
    shrink with every turn that is left out. All fit when there is a place for one more token; once turns go, `room` is
    left free if it can be. Whole turns go, the oldest first, and the newest turn always stays.
    Raises: ContextTooLong when they do not fit and the caller chose to refuse, or the newest turn alone is too long.
    """
    whole = size((0, 0))
    if whole < window:
        return None
    starts, first = turn_starts(roles), 0 if overflow == "keep-newest" else system_count(roles)
    if overflow == "refuse" or len(starts) < 2:
        raise too_long(whole, window, only_turn=overflow != "refuse")
    low, high = 1, len(starts) - 1  # leave out the turns before starts[n], the smallest n that fits
    if (least := size((first, starts[high]))) >= window:
        raise too_long(least, window, only_turn=True)
    while low < high:
        middle = (low + high) // 2
        if size((first, starts[middle])) <= window - room:
            high = middle
        else:
            low = middle + 1
    return first, starts[low]


def too_long(tokens: int, window: int, *, only_turn: bool = False) -> ContextTooLong:
    """Make the error that names the counts and the choices."""
    if only_turn:
        return ContextTooLong(
            f"the newest turn alone takes {tokens} tokens, the model's window has {window}",
            hint="No whole turn can be left out. Wake the session in a model with a larger window, an older backup of "
            "it, or its text alone (PlainTarget).",
        )
    return ContextTooLong(f"the context takes {tokens} tokens, the model's window has {window}")
