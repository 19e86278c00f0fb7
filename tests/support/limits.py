"""A file read in a process of its own that may take no more memory and time than is allowed."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

READ, WRITE = (Path(__file__).with_name(name) for name in ("read_file.py", "write_file.py"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What reading a file came to; `code` is None when it was accepted. The peak includes the interpreter."""

    code: str | None
    detail: str | None
    peak_bytes: int


def read_limited(path: Path, memory_bytes: int, cpu_s: int) -> Outcome:
    """Read a file; going over a limit ends the process and fails the test."""
    return _limited([READ, path], memory_bytes, cpu_s)


def write_limited(size_bytes: int, memory_bytes: int, cpu_s: int) -> Outcome:
    """Write a backup of this size in every format."""
    return _limited([WRITE, str(size_bytes)], memory_bytes, cpu_s)


def _limited(command: list[str | Path], memory_bytes: int, cpu_s: int) -> Outcome:

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))

    done = subprocess.run([sys.executable, *command], preexec_fn=limit, capture_output=True, timeout=100)
    assert done.returncode == 0, (done.returncode, done.stderr.decode()[-2000:])
    return Outcome(**json.loads(done.stdout))
