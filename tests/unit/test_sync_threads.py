"""Threads that hold up no exit, and what notices a change of the network."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from support.waiting import until
from torpor.sync.network import SLEPT_S, NetworkWatch, asleep_s, can_connect, open_clock_jumps, open_netlink
from torpor.sync.ports import Interrupted
from torpor.sync.threads import DaemonPool
from torpor.sync.turn import RunningPush


def test_work_is_done_by_so_many_threads_at_once() -> None:
    pool, together = DaemonPool(3, "test"), threading.Barrier(3, timeout=10)
    assert sorted(f.result(10) for f in [pool.submit(lambda n: together.wait() >= 0 and n, n) for n in range(6)]) == [
        0, 1, 2, 3, 4, 5,
    ]  # fmt: skip
    pool.close()


def test_an_error_belongs_to_the_one_who_asked() -> None:
    pool = DaemonPool(1, "test")

    def fail(error: BaseException) -> None:
        raise error

    for error in (ValueError("x"), Interrupted()):
        with pytest.raises(type(error)):
            pool.submit(fail, error).result(10)
    assert pool.submit(int, "7").result(10) == 7
    pool.close()


def test_idle_threads_end_and_come_back() -> None:
    pool = DaemonPool(2, "idle-test", idle_s=0.01)

    def alive() -> int:
        return sum(thread.name == "idle-test" for thread in threading.enumerate())

    for _ in range(20):
        assert pool.submit(int, "7").result(10) == 7
    until(lambda: alive() == 0)
    assert pool.submit(int, "8").result(10) == 8
    pool.close()


def test_a_closed_pool_cancels_what_was_not_begun() -> None:
    pool, go, begun = DaemonPool(1, "test"), threading.Event(), threading.Event()

    def block() -> str:
        begun.set()
        go.wait(10)
        return "done"

    running, waiting = pool.submit(block), pool.submit(int, "7")
    assert begun.wait(10)
    pool.close()
    for future in (waiting, pool.submit(int, "8")):
        with pytest.raises(CancelledError):
            future.result(10)
    go.set()
    assert running.result(10) == "done"


def test_a_stuck_thread_does_not_hold_up_the_end_of_the_process() -> None:
    code = (
        "import threading\nfrom torpor.sync.threads import DaemonPool\n"
        "begun = threading.Event()\n"
        "DaemonPool(1, 'x').submit(lambda: (begun.set(), threading.Event().wait()))\nbegun.wait()"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


# -- a push that runs -----------------------------------------------------------------------------------------------


def test_the_rate_is_that_of_the_last_seconds() -> None:
    now = [100.0]
    running = RunningPush((), 0.0, lambda: now[0], lambda: None)
    for _ in range(100):
        running.sent(1000)
        now[0] += 0.1
    assert running.sent_bytes == 100_000
    assert running.rate() == pytest.approx(10_000, rel=0.05)
    now[0] += 5
    assert running.still_s() == pytest.approx(5.1)
    now[0] += 60
    assert running.rate() == 0
    running.give_way()
    running.sent(1)  # what is under way may end
    with pytest.raises(Interrupted):
        running.next_blob()
    running.end()
    with pytest.raises(Interrupted):
        running.sent(1)


# -- the network ----------------------------------------------------------------------------------------------------


def test_whether_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert can_connect("127.0.0.1", port)
    assert not can_connect("127.0.0.1", port)
    assert not can_connect("no-such-host.invalid", 80)
    assert not can_connect("a" * 300, 80)


def test_a_machine_that_slept_is_noticed_while_something_waits() -> None:
    slept, changes, alert = [0.0], threading.Semaphore(0), [True]
    watch = NetworkWatch(changes.release, lambda: alert[0], asleep=lambda: slept[0], tick_s=0.01)
    watch.start()
    slept[0] += SLEPT_S + 1
    assert changes.acquire(timeout=10)
    slept[0] += SLEPT_S / 2  # two readings of two clocks
    watch.nudge()
    watch.stop()
    watch.stop()
    watch.nudge()
    assert not changes.acquire(blocking=False)
    assert asleep_s() >= -1


def test_a_machine_that_wakes_up_says_so_itself() -> None:
    """The kernel's timer stands ready; here another file becomes readable in its place, since nobody sets the clock."""
    real = open_clock_jumps()
    assert real is not None
    assert select.select([real], [], [], 0) == ([], [], [])
    os.close(real)
    fd, changes, waits = os.eventfd(0, os.EFD_NONBLOCK), threading.Semaphore(0), threading.Semaphore(0)

    def alert() -> bool:
        waits.release()
        return False

    watch = NetworkWatch(changes.release, alert, clock_jumps=lambda: fd)
    watch.start()
    for _ in range(2):
        assert waits.acquire(timeout=60)
        os.eventfd_write(fd, 1)
        assert changes.acquire(timeout=60)
    watch.stop()
    assert not changes.acquire(blocking=False)


def test_nothing_is_looked_at_while_nothing_waits() -> None:
    looks = [0]

    def asleep() -> float:
        looks[0] += 1
        return 0.0

    asked = threading.Semaphore(0)

    def alert() -> bool:
        asked.release()
        return False

    watch = NetworkWatch(lambda: None, alert, asleep=asleep, tick_s=0.001)
    watch.start()
    assert asked.acquire(timeout=10)
    before = looks[0]
    watch.nudge()
    assert asked.acquire(timeout=10)
    until(lambda: looks[0] == before + 1)
    watch.stop()


def test_a_link_that_comes_up_is_heard(tmp_path: Path) -> None:
    """In a network of its own: the loopback link goes up, and a thread that sleeps hears it."""
    listening = open_netlink()
    assert listening is not None
    listening.close()
    code = (
        "import fcntl, socket, struct, threading\n"
        "from torpor.sync.network import NetworkWatch, can_connect\n"
        "heard = threading.Event()\n"
        "watch = NetworkWatch(heard.set, lambda: False)\n"
        "watch.start()\n"
        "assert not heard.is_set()\n"
        "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:\n"
        "    fcntl.ioctl(any_socket, 0x8914, struct.pack('16sh22x', b'lo', 1))\n"  # SIOCSIFFLAGS, IFF_UP
        "print('heard' if heard.wait(10) else 'deaf')\n"
        "watch.stop()\n"
    )
    command = ["unshare", "-rn", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ})
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"not permitted: {done.stderr.strip()}")
    assert done.stdout == "heard\n", done.stderr
