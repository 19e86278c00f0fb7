"""Import files for the daemon, in a process of its own that ends when there is nothing more to do.

Run as `python -m torpor.client.import_worker` with `TORPOR_HOME` set. One JSON object a line on stdin, `{"path",
"session_id"}`; one a line on stdout, in the same order:

    {"outcome": "imported" | "known", "backup": {…}, "seen": {"size_bytes", "mtime_ns", "inode"}}
    {"outcome": "previewed", "preview": {…}, "seen": {…}}     asked with `"preview": true`: nothing is imported
    {"outcome": "failed", "problem": {…}, "seen": {…} | null}
    {"outcome": "busy", "detail": "…"}     somebody still writes to it, or it is not the one that was `expected`

With `"name"` the file was called so before; with `"progress": true`, lines `{"progress": [bytes done, bytes]}` come
before the answer.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import orjson

from ..state.errors import FileChanged, TorporError
from ..state.problems import to_problem
from ..state.watching import Signature
from ..store.files import store_error
from .keeper import Keeper, connect
from .transfer import no_progress, signature_of

_PR_SET_PDEATHSIG = 1
TELL_EVERY_S = 0.2


def main() -> int:
    """Serve requests until stdin ends."""
    _end_with_parent()
    if hasattr(signal, "SIGIO"):
        signal.signal(signal.SIGIO, signal.SIG_IGN)  # somebody opens a file in the instant of our question
    keeper: Keeper | None = None
    try:
        for line in sys.stdin.buffer:
            request = orjson.loads(line)
            try:
                keeper = keeper or connect()
                answer = _import(keeper, request)
            except TorporError as error:
                answer = {"outcome": "failed", "problem": to_problem(error), "seen": _seen(request["path"])}
            sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
            sys.stdout.buffer.flush()
    finally:
        if keeper is not None:
            keeper.close()
    return 0


def _end_with_parent() -> None:
    """Have the kernel end this process when the daemon dies, whatever it is doing (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def _import(keeper: Keeper, request: dict[str, Any]) -> dict[str, Any]:
    path, expected = request["path"], request.get("expected")
    if is_open_for_writing(path):
        return {"outcome": "busy", "detail": "another process has it open for writing"}
    try:
        wanted = None if expected is None else Signature.of(**expected)
        told = _Telling() if request.get("progress") else no_progress
        given, name = request.get("session_id"), request.get("name")
        if request.get("preview"):
            found = asdict(keeper.preview_file(path, given, told, follow=False, expected=wanted, name=name))
            return {"outcome": "previewed", "seen": found.pop("seen"), "preview": found}
        digest = request.get("digest")
        done = keeper.import_file(path, given, told, follow=False, expected=wanted, digest=digest, name=name)
    except FileChanged as error:
        return {"outcome": "busy", "detail": error.detail}
    except OSError as error:
        raise store_error(error, "read", path) from error
    outcome = "known" if done.known else "imported"
    return {"outcome": outcome, "backup": asdict(done.backup), "seen": asdict(done.seen)}


class _Telling:
    """Tells on stdout how far it is, now and then."""

    def __init__(self) -> None:
        self._next_at = 0.0

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + TELL_EVERY_S
            sys.stdout.buffer.write(orjson.dumps({"progress": [done_bytes, total_bytes]}) + b"\n")
            sys.stdout.buffer.flush()


def _seen(path: str) -> dict[str, int] | None:
    with suppress(OSError):
        return asdict(signature_of(os.stat(path, follow_symlinks=False)))
    return None


def is_open_for_writing(path: str) -> bool:
    """Tell whether some process has a file open for writing, where the kernel says so (Linux, one's own files).

    A read lease is granted only while nobody has; it is given back at once.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False  # the import says why
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False  # somebody else's file, or a file system without leases
    else:
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return False
    finally:
        os.close(fd)


if __name__ == "__main__":
    raise SystemExit(main())
