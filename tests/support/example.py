"""The server of examples/qwen3-vl-web, forked off a process that has torch loaded: a test kills and starts it often."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from support.forked import TORCH, Forked, clean_environment, start
from support.plain_http import PLAIN
from support.ports import free_port
from support.waiting import until

FOLDER = Path(__file__).parents[2] / "examples" / "qwen3-vl-web"


class Example:
    """The example's server on a port of its own; `start` and `kill` it as often as you like."""

    def __init__(self, home: Path) -> None:
        self._environment = clean_environment() | {"TORPOR_HOME": str(home), "TRANSFORMERS_VERBOSITY": "error"}
        self._process: Forked | None = None
        self._pace_s = 0.0
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, pace_s: float = 0.0) -> None:
        """Start it, unless it runs so already; each letter of an answer takes `pace_s` and a little more."""
        if self._process and self._pace_s == pace_s:
            return
        self.close()
        self._pace_s = pace_s
        words = ["--port", str(self.port), "--pace", str(pace_s)]
        with open(os.devnull, "wb") as nowhere:
            self._process = start(
                words,
                self._environment,
                stdout=nowhere,
                stderr=sys.__stderr__.buffer,
                module="server",
                folders=[str(FOLDER)],
                imports=TORCH,
            )
        until(self._answers, "the example's server did not start")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/models", **PLAIN).is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """End it as a crash does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._process = None

    def close(self) -> None:
        """End it if it runs."""
        if self._process:
            self.kill()

    def say(self, session_id: str, text: str, known: int, **more: Any) -> str:
        """Say something without a page; return the whole answer."""
        body = {"text": text, "known": known, **more}
        answer = httpx.post(f"{self.url}/chats/{session_id}", json=body, timeout=60, **PLAIN)
        return str(json.loads(answer.raise_for_status().text.splitlines()[-1])["message"]["content"])


@contextmanager
def example(home: Path) -> Iterator[Example]:
    """The server, which is not started yet."""
    server = Example(home)
    try:
        yield server
    finally:
        server.close()
