"""The bandwidth limit, with a clock of the test's."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.state.errors import BadInput
from torpor.sync.limiter import BURST_S, LEAST_BYTES, LONGEST_WAIT_S, Limiter


class Clock:
    def __init__(self) -> None:
        self.now, self.waits = 1000.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, delay_s: float) -> None:
        self.waits.append(delay_s)
        self.now += delay_s


def never() -> bool:
    return False


def send(limiter: Limiter, size: int, piece: int = 64 << 10) -> None:
    while size:
        size -= limiter.up(min(size, piece), never)


def test_without_a_limit_nothing_waits() -> None:
    clock = Clock()
    send(Limiter(clock=clock, sleep=clock.sleep), 10 << 30, 1 << 30)
    assert not clock.waits


@given(rate=st.floats(500, 1e9), size=st.integers(1, 10_000_000), piece=st.integers(1000, 1 << 20))
def test_the_rate_is_kept(rate: float, size: int, piece: int) -> None:
    """Whatever the pieces, it takes as long as it must, and hardly longer."""
    size = min(size, int(rate * 20))
    clock = Clock()
    send(Limiter(up=rate, clock=clock, sleep=clock.sleep), max(1, size), piece)
    took = clock.now - 1000.0
    burst = max(rate * BURST_S, LEAST_BYTES)
    assert (size - burst) / rate - 1e-6 <= took <= (size + burst) / rate + 0.01
    assert max(clock.waits, default=0.0) <= LONGEST_WAIT_S


def test_up_and_down_are_two_limits() -> None:
    clock = Clock()
    limiter = Limiter(up=1000.0, clock=clock, sleep=clock.sleep)
    assert limiter.down(1 << 20, never) == 1 << 20
    assert limiter.limits == (1000.0, None)


def test_a_pause_is_not_saved_up_for_later() -> None:
    clock = Clock()
    limiter = Limiter(up=1e6, clock=clock, sleep=clock.sleep)
    clock.now += 3600
    begun = clock.now
    send(limiter, 2_000_000)
    assert clock.now - begun > 1.5


def test_a_limit_is_changed_while_somebody_waits() -> None:
    clock = Clock()
    limiter = Limiter(up=1024.0, clock=clock, sleep=lambda _: limiter.set(up=None, down=None))
    assert limiter.up(1 << 20, never) == 1 << 20


def test_what_is_over_is_not_held_back() -> None:
    clock, over = Clock(), threading.Event()
    limiter = Limiter(down=1.0, clock=clock, sleep=lambda _: over.set())
    assert limiter.down(5000, over.is_set) == 5000


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_limit_of_nothing_is_refused(rate: float) -> None:
    with pytest.raises(BadInput):
        Limiter(up=rate)


def test_threads_share_one_limit() -> None:
    """Real time: four threads together get what one would."""
    limiter = Limiter(up=4e6)
    barrier = threading.Barrier(5)

    def work() -> None:
        barrier.wait()
        send(limiter, 500_000)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    barrier.wait()
    begun = time.monotonic()
    for thread in threads:
        thread.join()
    assert 0.2 <= time.monotonic() - begun < 3
