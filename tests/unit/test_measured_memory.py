"""The growth of a process is seen from outside, and its peak does not get lost between two samples."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from support.waiting import until
from torpor.measure.memory import MIB, Watched

TAKES = "taken = bytearray(b'x') * (96 << 20); print(flush=True)"
STEPS = f"print(flush=True); input(); {TAKES}; input(); del taken; print(flush=True); input()"
LEAST, MOST = 90, 110  # what the kernel counts is some pages off


@contextmanager
def taking() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", STEPS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def say(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    process.stdout.readline()


def test_a_peak_that_is_over() -> None:
    with taking() as process:
        watched = Watched(process.pid)
        watched.begin()
        say(process)
        say(process)
        assert LEAST <= watched.end() <= MOST


def test_samples_where_the_kernel_sets_no_peak_back() -> None:
    with taking() as process:
        watched = Watched(process.pid, _can_reset=False)
        watched.begin()
        say(process)
        until(lambda: watched.highest - watched.before >= LEAST * MIB)
        say(process)
        assert LEAST <= watched.end() <= MOST
