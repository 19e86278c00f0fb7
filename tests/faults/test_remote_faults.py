"""Twelve faults of a network and a storage, while something is saved, sent, and brought to another machine.

Whatever happens: no save fails or waits, nothing is lost, no wrong byte comes back; it ends well as soon as the fault is
over, and as long as it lasts there is a typed error with a hint, or the state of the remote side has a name.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.caches import CacheSession
from support.fault_proxy import Fault, Request
from support.machines import Machine, machine, small_session
from support.resolver import NAME, Resolver
from support.s3_servers import Place, Weed, new_place
from support.waiting import until
from torpor.state.errors import ClockSkewed, Offline, RemoteDenied, Unavailable

SOAK = bool(os.environ.get("TORPOR_SOAK"))
ROUNDS, TOKENS, STILL_S = (6, 600, 150.0) if SOAK else (1, 100, 30.0)

seeds = itertools.count(1)


def blob_put(request: Request) -> bool:
    return request.method == "PUT" and request.name.startswith("blobs/")


def blob_get(request: Request) -> bool:
    return request.method == "GET" and request.name.startswith("blobs/")


def record_put(request: Request) -> bool:
    return request.is_conditional and request.name.startswith("manifests/")


def something(request: Request) -> bool:
    return True


@dataclass(frozen=True)
class Case:
    """A fault. `states`: what the remote side is called meanwhile; none for a fault that it gets over by itself."""

    name: str
    fault: Callable[[], list[Fault]] | None = None  # none: the machine's own way is cut
    states: tuple[str, ...] = ()
    needs_now: bool = False  # it would take long to be noticed that it is over


def answer(
    status: int, code: str, hits: Callable[[Request], bool] = something, times: float = float("inf")
) -> list[Fault]:
    return [Fault("answer", times, hits, status, code)]


CASES = [
    Case("refused", None, ("offline",)),
    Case("dns", None, ("offline",)),
    Case("black-hole", lambda: [Fault("black-hole")], ("offline", "failing"), needs_now=True),
    Case("reset-up", lambda: [Fault("reset-up", 3, blob_put, at=20_000)]),
    Case("reset-down", lambda: [Fault("reset-down", 3, blob_get, at=20_000)]),
    Case("slow-down", lambda: answer(503, "SlowDown", times=5)),
    Case("lost-reply", lambda: [Fault("lost-reply", 2, lambda r: blob_put(r) or record_put(r) or blob_get(r), 500, "InternalError")]),
    Case("clock-skew", lambda: answer(403, "RequestTimeTooSkewed"), ("clock-skew",), needs_now=True),
    Case("denied", lambda: answer(403, "AccessDenied"), ("denied",), needs_now=True),
    Case("lost-write", lambda: [Fault("lost-reply", 2, record_put, 412, "PreconditionFailed")]),
    Case("no-conditions", lambda: answer(501, "NotImplemented", lambda r: r.is_conditional)),
    Case("flipped", lambda: [Fault("flip-up", 2, blob_put, at=9_000), Fault("flip-down", 2, blob_get, at=9_000)]),
]  # fmt: skip


class Pair:
    """A machine that saves, and one that wakes what it saved."""

    def __init__(self, here: Machine, there: Machine, resolvers: dict[str, Resolver]) -> None:
        self.here, self.there, self.resolvers = here, there, resolvers

    @contextmanager
    def broken(self, case: Case, which: Machine) -> Iterator[Callable[[], int]]:
        """Break a machine's way to the bucket; what it yields counts how often somebody met the fault."""
        proxy = which.proxy
        if case.name == "refused":
            proxy.refuse()
            try:
                yield lambda: 1
            finally:
                proxy.accept()
        elif case.name == "dns":
            resolver = self.resolvers[str(which.home)]
            resolver.down()
            proxy.break_all()
            try:
                yield lambda: 1
            finally:
                resolver.up()
        else:
            assert case.fault is not None
            faults = case.fault()
            with proxy.fault(*faults):
                yield lambda: sum(fault.met for fault in faults)

    def save(self) -> tuple[str, CacheSession]:
        seed = next(seeds)
        session = small_session(seed, TOKENS)
        return self.here.save(f"s{seed}", session), session


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, weed_server: Weed) -> Iterator[Pair]:
    place, folder = new_place(weed_server), tmp_path_factory.mktemp("faults")
    homes = {name: folder / name for name in ("here", "there")}
    resolvers = {str(home): Resolver(folder / f"{name}-resolver") for name, home in homes.items()}
    with named(homes["here"], place, resolvers) as here, named(homes["there"], place, resolvers) as there:
        pair = Pair(here, there, resolvers)
        backup_id, session = pair.save()
        here.wait_synced(backup_id)
        there.restores(backup_id, session)
        yield pair


@contextmanager
def named(home: Path, place: Place, resolvers: dict[str, Resolver]) -> Iterator[Machine]:
    """A machine that knows the way to the bucket by name."""
    with machine(home, place, **resolvers[str(home)].starts_as) as found:
        found.settings["S3_ENDPOINT"] = f"http://{NAME}:{found.proxy.port}"
        found.start()
        yield found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_fault(pair: Pair, case: Case) -> None:
    for _ in range(ROUNDS):
        backup_id, session = sends(pair, case)
        comes_back(pair, case, backup_id, session)


def sends(pair: Pair, case: Case) -> tuple[str, CacheSession]:
    """Save while the way is broken, and see it arrive."""
    here = pair.here
    with pair.broken(case, here) as met:
        backup_id, session = pair.save()  # it does not wait for the bucket, which nobody reaches
        if case.states:
            found = until(lambda: seen(here, case.states), here.sync, STILL_S)
            assert found["hint"]
            assert found["reason"]
            assert not here.is_synced(backup_id)
        elif case.name not in ("reset-down",):
            until(met, here.sync, STILL_S)
            here.wait_synced(backup_id, timeout_s=STILL_S)
    if case.needs_now and not SOAK:
        here.now()  # `failing` is looked at again after seconds, what a person has to put right after a minute
    here.wait_synced(backup_id, timeout_s=STILL_S)
    assert here.sync()["state"] in ("idle", "busy")
    return backup_id, session


def seen(which: Machine, states: tuple[str, ...]) -> dict[str, object] | None:
    found = which.sync()
    return found if found["state"] in states else None


def comes_back(pair: Pair, case: Case, backup_id: str, session: CacheSession) -> None:
    """Wake it on the other machine while its way is broken, and when it is not."""
    there = pair.there
    with ThreadPoolExecutor(1) as thread, pair.broken(case, there):
        waking = thread.submit(there.restores, backup_id, session)
        error = waking.exception(STILL_S)
    if error is not None:
        assert isinstance(error, Unavailable | RemoteDenied | ClockSkewed), repr(error)
        assert error.hint
    assert error is not None or not case.states
    until(lambda: wakes(there, backup_id, session), wait_s=STILL_S)


def wakes(which: Machine, backup_id: str, session: CacheSession) -> bool:
    """Wake it; for some seconds a daemon takes for granted that nobody answers."""
    try:
        which.restores(backup_id, session)
    except Offline:
        return False
    return True
