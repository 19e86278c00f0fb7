"""The pool of copied snapshots: parts never overlap, and all of it comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from torpor.client.memory import Lease, Pool, available_bytes


@given(st.lists(st.integers(0, 60) | st.integers(-8, -1), max_size=60))
def test_parts_never_overlap_and_come_back(steps: list[int]) -> None:
    pool, leases = Pool(4096), list[Lease]()
    for step in steps:
        if step >= 0:
            lease = pool.take(step * 32)
            free = 4096 - sum(x.memory.nbytes for x in leases)
            if lease is None:
                assert step * 32 > free or leases  # refused only when full or fragmented
            else:
                lease.memory[:] = bytes([len(leases) % 251]) * lease.memory.nbytes
                leases.append(lease)
        elif leases:
            lease = leases.pop(step % len(leases))
            assert len(set(lease.memory)) <= 1  # nobody else wrote into it
            lease.free()
            lease.free()  # twice does no harm
    for lease in leases:
        lease.free()
    whole = pool.take(4096)
    assert whole is not None


def test_more_than_the_pool_is_refused() -> None:
    assert Pool(64).take(65) is None


def test_warming_touches_only_what_nobody_holds() -> None:
    """A save may be copying into its part while another thread warms: not one byte of it may be written."""
    pool, written = Pool(1 << 16), []
    lease = pool.take(1 << 15)
    assert lease is not None
    lease.memory[:] = b"\7" * (1 << 15)
    real = pool.take

    def watched(size_bytes: int) -> Lease | None:
        found = real(size_bytes)
        if found is not None:
            written.append((found._start, found.memory.nbytes))
        return found

    pool.take = watched  # type: ignore[method-assign]
    pool.warm(1 << 15)
    assert written == [(1 << 15, 1 << 15)]
    pool.warm(1 << 30)  # no room: nothing is touched
    assert len(written) == 1
    assert bytes(lease.memory) == b"\7" * (1 << 15)


def test_this_machine_says_how_much_memory_is_free() -> None:
    assert available_bytes() > 1 << 20
