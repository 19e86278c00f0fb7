"""A daemon of its own for a figure, in a home of its own on a real disk, and the clean-up of both."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..client import Keeper, connect
from ..state.errors import DaemonNotRunning

STOP_S = 15.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon and how long it took from exec until it answered."""

    pid: int
    ready_s: float


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Make a folder for the files of one figure; they are large, and gone at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="tmp-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        settle(parent)


def settle(folder: Path) -> None:
    """Have the file system finish what it owes (deletions and discards too), so that the next to sync does not pay."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def daemon(home: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Daemon]:
    """Run `torpor serve` for a home; `settings` are further variables of its environment."""
    others = ("TORPOR_", "S3_", "AWS_", "PERSISTENCE_BACKEND")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    # All of the disk: a daemon that lets something go in mid-figure would spoil it.
    environment |= {"TORPOR_HOME": str(home), "TORPOR_PORT": "0", "TORPOR_QUOTA": "100%", **settings}
    command = [sys.executable, "-m", "torpor.cli.entry", "serve", "--json"]
    with tempfile.TemporaryFile() as noise:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=home.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=noise,
            start_new_session=True,  # Ctrl-C is the bench's: it stops its daemon when nobody saves to it any more
            preexec_fn=ends_with_parent(),
        )
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            try:
                connect(home=home).close()  # its first successful GET /v1/status
            except DaemonNotRunning as error:
                process.kill()
                noise.seek(0)
                words = (said + process.stdout.read() + noise.read()).decode(errors="replace")
                raise RuntimeError(f"the daemon did not start: {' '.join(words.split())[-300:]}") from error
            yield Daemon(process.pid, time.perf_counter() - started)
        finally:
            stop(process)


def ends_with_parent() -> Callable[[], None] | None:
    """Return what a child runs before its program, so that it ends when this process is killed (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it was killed already
            os._exit(1)

    return arrange


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, in the end by force."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def keeper_in(folder: Path) -> Iterator[Keeper]:
    """Run a daemon for the home `folder/home` and connect to it."""
    home = folder / "home"
    with daemon(home), connect(home=home) as keeper:
        yield keeper


def timed_s(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def median_s(call: Callable[[], object], rounds: int = 15) -> float:
    """Return the median time of a call, which is warm: it was made once before."""
    call()
    return statistics.median(timed_s(call) for _ in range(rounds))
