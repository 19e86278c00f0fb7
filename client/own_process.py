"""Which process something belongs to: a process that was forked has a copy of its memory, and none of its threads.

What it cannot do there without them would wait for ever; what it can would be done to the files and the memory of the
process that it was forked from.
"""

from __future__ import annotations

import os

from ..state.errors import ForkedProcess


class OwnProcess:
    """The process that was first to use something; one that is only made before a fork is used behind it as ever."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid: int | None = None

    def claim(self) -> None:
        """Note that it is used here. Raises: ForkedProcess, where it was used before this process was forked."""
        if self._pid is None:
            self._pid = os.getpid()
        elif self.is_elsewhere():
            raise ForkedProcess(f"{self._what} belongs to process {self._pid}, from which this one was forked")

    def is_elsewhere(self) -> bool:
        """Tell whether another process uses it, from which this one was forked."""
        return self._pid not in (None, os.getpid())
