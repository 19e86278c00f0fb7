"""Sequences in ascending order, compared without holding either."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def differences(left: Iterable[str], right: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield what only one of two ascending sequences without repetition has; true when it is the left one."""
    ours, theirs = iter(left), iter(right)
    a, b = next(ours, None), next(theirs, None)
    while a is not None or b is not None:
        if a == b:
            a, b = next(ours, None), next(theirs, None)
        elif b is None or (a is not None and a < b):
            assert a is not None
            yield a, True
            a = next(ours, None)
        else:
            yield b, False
            b = next(theirs, None)
