"""The server of examples/qwen3-vl-web, forked off a process that has torch loaded: a test kills and starts it often."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from support.forked import clean_environment
from support.plain_http import PLAIN
from support.ports import free_port
from support.waiting import until

FOLDER = Path(__file__).parents[2] / "examples" / "qwen3-vl-web"
_ZYGOTE = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[1])
import server
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        os.dup2(2, 1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sys.argv = ["server.py", *json.loads(line)]
        server.main()
        os._exit(0)
    print(pid, flush=True)
"""


class Example:
    """The example's server on a port of its own; `start` and `kill` it as often as you like."""

    def __init__(self, zygote: subprocess.Popen[str]) -> None:
        self._zygote, self._pid, self._pace_s = zygote, 0, 0.0
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self, pace_s: float = 0.0) -> None:
        """Start it, unless it runs so already; each letter of an answer takes `pace_s` and a little more."""
        if self._pid and self._pace_s == pace_s:
            return
        self.close()
        self._pace_s = pace_s
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        print(json.dumps(["--port", str(self.port), "--pace", str(pace_s)]), file=self._zygote.stdin, flush=True)
        self._pid = int(self._zygote.stdout.readline())
        until(self._answers, "the example's server did not start")

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/models", **PLAIN).is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """End it as a crash does."""
        os.kill(self._pid, signal.SIGKILL)
        self._pid = 0

    def close(self) -> None:
        """End it if it runs."""
        if self._pid:
            self.kill()

    def say(self, session_id: str, text: str, known: int, **more: Any) -> str:
        """Say something without a page; return the whole answer."""
        body = {"text": text, "known": known, **more}
        answer = httpx.post(f"{self.url}/chats/{session_id}", json=body, timeout=60, **PLAIN)
        return str(json.loads(answer.raise_for_status().text.splitlines()[-1])["message"]["content"])


@contextmanager
def example(home: Path) -> Iterator[Example]:
    """Load what the server needs; it is not started yet."""
    command = [sys.executable, "-c", _ZYGOTE, str(FOLDER)]
    environment = clean_environment() | {"TORPOR_HOME": str(home), "TRANSFORMERS_VERBOSITY": "error"}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as zygote:
        server = Example(zygote)
        try:
            yield server
        finally:
            server.close()
            zygote.kill()
