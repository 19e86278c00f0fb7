"""Somebody at a terminal: `torpor` on a real pseudo-terminal, of which what is shown is read and on which is typed."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from support.forked import Forked, start

PATIENCE_S = 60
CTRL_C, CTRL_D = "\x03", "\x04"


@dataclass
class Terminal:
    """A running command, and what was shown so far."""

    fd: int
    process: Forked
    shown: str = ""
    seen: int = field(default=0)

    def until(self, text: str) -> str:
        """Wait until a text is shown behind what was waited for before; return what is between."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.shown[self.seen :]:
            assert time.monotonic() < deadline, f"{text!r} does not come:\n{self.shown}"
            if not self._read():
                raise AssertionError(f"{text!r} does not come, and it ended:\n{self.shown}")
        began = self.seen
        self.seen = self.shown.index(text, began) + len(text)
        return self.shown[began : self.seen]

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def answer(self, question: str, text: str = "") -> None:
        """Wait for a question, and type an answer and Enter."""
        self.until(question)
        self.until(": ")
        self.type(text + "\n")

    def end(self) -> int:
        """Wait for its end, and return its exit status."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read():
            assert time.monotonic() < deadline, f"it does not end:\n{self.shown}"
        return self.process.wait(PATIENCE_S)

    def press(self, key: str) -> int:
        """Press a key until it ends, as people do: a signal just before a read is seen at the next one."""
        deadline = time.monotonic() + PATIENCE_S
        self.type(key)
        last = time.monotonic()
        while self._read():
            assert time.monotonic() < deadline, f"it does not end:\n{self.shown}"
            if time.monotonic() > last + 2.0:
                last = time.monotonic()
                self.type(key)
        return self.process.wait(PATIENCE_S)

    def _read(self, wait_s: float = 1.0) -> bool:
        if not select.select([self.fd], [], [], wait_s)[0]:
            return True
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the other side was closed
            return False
        self.shown += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


@contextlib.contextmanager
def at_terminal(environment: Mapping[str, str], *words: str, cwd: str = "/") -> Iterator[Terminal]:
    """Run a command at a terminal of its own; it is killed when the block is left before it ended."""
    ours, theirs = pty.openpty()
    with open(theirs, "r+b", buffering=0) as side:
        process = start(words, environment, cwd=cwd, stdout=side, stderr=side, terminal=side)
    try:
        yield Terminal(ours, process)
    finally:
        process.send_signal(9)
        os.close(ours)
