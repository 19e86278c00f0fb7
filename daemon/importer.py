"""The process that reads foreign files: it parses what anybody may have written, with numpy and torch, so not in here.

It gets a line of JSON a file on stdin and answers with one on stdout. It may die or hang; that ends it, not us.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import IO, Any

import orjson

from ..state.errors import BadInput, TorporError, Unavailable
from ..state.watching import Answer, Signature, answer_of, is_utf8, printable

Progress = Callable[[int, int], object]  # told the bytes done, and the bytes there are

COMMAND = (sys.executable, "-m", "torpor.client.import_worker")
DEADLINE_S = 120.0  # for any file, and on top of it:
BYTES_PER_S = 4 << 20
_LINE_AT_MOST = 1 << 20
_TURN_S, _END_S = 0.5, 5.0
_HINT = "The file was left as it is; it is tried again when it changes, or by `torpor watch rescan`."


class Stopped(Exception):  # noqa: N818  (no failure: nothing is said of the file)
    """The import was stopped from outside."""


class Importer:
    """Runs the worker of one folder, only while there is work. `turn` lets one file be imported at a time."""

    def __init__(
        self, home: str, turn: threading.Lock, command: Sequence[str] = COMMAND, deadline_s: float = DEADLINE_S
    ) -> None:
        self._home, self._turn, self._command, self._deadline_s = home, turn, command, deadline_s
        self._lock, self._stopped = threading.Lock(), False
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def ask(
        self,
        path: str,
        expected: Signature,
        *,
        name: str | None = None,
        session_id: str | None = None,
        progress: Progress | None = None,
        preview: bool = False,
        digest: str | None = None,
    ) -> Answer:
        """Have a file imported, unless another one has its name by then: a folder on the way may be a link now.

        `name` is what it was called before it was put there; `progress` is told the bytes done and the bytes there are.
        With `preview` it is read as far, and nothing is imported; with the `digest` of a preview, no other bytes.
        Whatever the file does to the worker is an answer. Raises: Stopped.
        """
        if not is_utf8(path):
            detail = f"the name {printable(path)} is not UTF-8"
            return Answer("failed", error=BadInput(detail, hint="Rename the file."))
        while not self._turn.acquire(timeout=_TURN_S):
            self._check()
        try:
            self._check()
            more = {"session_id": session_id, "name": name, "progress": progress is not None, "preview": preview}
            more["digest"] = digest
            return self._exchange(path, expected, more, progress or _unheard)
        except TorporError as error:
            self._kill()
            self._check()
            return Answer("failed", error=error)
        finally:
            self._turn.release()

    def close(self) -> None:
        """End the worker, if there is one: it has no work."""
        process = self._process
        if process is not None and process.stdin is not None:
            _close(process.stdin)
            _wait(process)
        self._kill()

    def stop(self) -> None:
        """Kill the worker for good, in whatever it is doing: what is not committed is nothing."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _check(self) -> None:
        if self._stopped:
            raise Stopped

    def _exchange(self, path: str, expected: Signature, more: dict[str, Any], progress: Progress) -> Answer:
        process, deadline_s = self._running(), self._deadline_s + expected.size_bytes / BYTES_PER_S
        request = {"path": path, "expected": asdict(expected), **more}
        assert process.stdin is not None
        try:
            process.stdin.write(orjson.dumps(request) + b"\n")
            process.stdin.flush()
            line = self._answer(process, deadline_s, progress)
        except BrokenPipeError:
            line = b""
        if not line:
            raise BadInput(f"reading {path} ended the import worker ({self._last_words(process)})", hint=_HINT)
        try:
            return answer_of(orjson.loads(line))
        except (orjson.JSONDecodeError, BadInput) as error:
            raise TorporError(f"{path}: the import worker cannot be understood: {error}") from error

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the worker, started if there is none. It gets no signal that a terminal sends to the daemon."""
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._kill()
        environment = {k: v for k, v in os.environ.items() if k not in ("TORPOR_URL", "TORPOR_TOKEN")}
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=environment | {"TORPOR_HOME": self._home},
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"the import worker cannot be started: {error}") from error
        with self._lock:
            self._process = process
            if self._stopped:
                process.kill()
        return process

    def _answer(self, process: subprocess.Popen[bytes], deadline_s: float, progress: Progress) -> bytes:
        """Return the line that answers, or nothing when the worker is dead. Raises: BadInput at the deadline."""
        until = time.monotonic() + deadline_s
        for line in self._lines(process, until, deadline_s):
            told = _progress_in(line)
            if told is None:
                return line
            progress(*told)
        return b""

    def _lines(self, process: subprocess.Popen[bytes], until: float, deadline_s: float) -> Iterator[bytes]:
        """Yield what the worker says, line by line, until it is dead. Raises: BadInput at the deadline."""
        assert process.stdout is not None
        fd, buffer = process.stdout.fileno(), b""
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        while True:
            *lines, buffer = buffer.split(b"\n")
            yield from (line + b"\n" for line in lines)
            if len(buffer) > _LINE_AT_MOST:
                raise BadInput("the import worker said more than it should", hint=_HINT)
            if not poller.poll(max(until - time.monotonic(), 0) * 1000):
                raise BadInput(f"reading the file came to no end in {deadline_s:.0f} s", hint=_HINT)
            piece = os.read(fd, 1 << 16)
            if not piece:
                return
            buffer += piece

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        status = _wait(process)
        words = f"signal {-status}" if status < 0 else f"status {status}"
        if self._errors is not None:
            self._errors.seek(0)
            lines = self._errors.read()[-4096:].decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            words += f": {last[:200]}" if last else ""
        return words

    def _kill(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        errors, self._errors = self._errors, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close(pipe)
            _wait(process)
        if errors is not None:
            errors.close()


def _unheard(done_bytes: int, total_bytes: int) -> None:
    pass


def _progress_in(line: bytes) -> tuple[int, int] | None:
    """Return what a line tells of progress; None for one that answers."""
    if not line.startswith(b'{"progress":'):
        return None
    try:
        done, total = orjson.loads(line)["progress"]
    except (ValueError, TypeError) as error:
        raise TorporError(f"the import worker cannot be understood: {type(error).__name__}") from error
    return (done, total) if isinstance(done, int) and isinstance(total, int) else (0, 0)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of a process, with force after a while; not for one that the kernel does not let go."""
    for _ in range(2):
        try:
            return process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return -signal.SIGKILL


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:  # what was still to be written is of no use to a dead process
        return
