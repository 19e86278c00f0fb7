"""Inference processes that are killed. They start from a server that has torch loaded, so a hundred cost little."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "torch",  # by its own name: until Python 3.13 the server does not see where `support` lies
        "transformers.cache_utils",
        "torpor.client.keeper",  # torpor.client alone imports nothing until it is asked
        "torpor.adapters.dynamic_cache",
        "torpor.adapters.plain",
        "httpcore",
        "torpor.daemon.groups",
        "torpor.daemon.compose",
        "torpor.sync.s3",
        "boto3",
    ]
)


def start_worker(home: Path, crash_at: str, seed: int, saves: int) -> tuple[BaseProcess, Connection]:
    """Start a process that grows and saves a session; it sends the id of each backup once it is acknowledged."""
    return _start(_work, str(home), crash_at, seed, saves)


def _work(home: str, crash_at: str, seed: int, saves: int, out: Connection) -> None:
    import torch
    from torpor.state.errors import TorporError

    from support.caches import CacheSession

    os.environ["TORPOR_CRASH_AT"] = crash_at
    torch.set_num_threads(1)
    rng = random.Random(seed)
    session = CacheSession(layers=2, heads=2, dim=16)
    session.grow(300, seed)
    try:
        with _connected(home) as keeper:
            for _ in range(saves):
                session.grow(rng.choice([1, 20, 64, 100]), rng.randrange(1 << 30))
                if rng.random() < 0.2:
                    session.crop_to(rng.randrange(session.tokens // 2, session.tokens))
                session.note = {
                    "kv": session.digest(),
                    "tokens": session.tokens,
                    "pad": torch.zeros(20_000) + rng.random(),
                }
                handle = keeper.save(f"session-{seed % 3}", session)
                out.send(("started", handle.backup_id))
                out.send(("acknowledged", handle.wait(30).id))
    except TorporError as error:
        out.send(("failed", error.code))
    out.send(("done", ""))


def _connected(home: str) -> Any:
    """Connect; a daemon that was killed before this process got so far is waited for."""
    from torpor.client import connect
    from torpor.state.errors import DaemonNotRunning

    until = time.monotonic() + 30
    while True:
        try:
            return connect(home=home)
        except DaemonNotRunning:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def start_mixed(home: Path, crash_at: str, seed: int) -> tuple[BaseProcess, Connection]:
    """Start a process that does everything an inference process does, until it is killed (support/mixed_work.py)."""
    from support.mixed_work import work

    return _start(work, str(home), crash_at, seed)


def start_group_worker(home: Path, crash_at: str, name: str) -> tuple[BaseProcess, Connection]:
    """Start a process that saves the sessions a, b and c as a group."""
    return _start(_save_group, str(home), crash_at, name)


def start_group_commit(home: Path, crash_at: str, group_id: str, body: bytes) -> tuple[BaseProcess, Connection]:
    """Start a process that does what a daemon does at its start, and then commits a group."""
    return _start(_commit_group, str(home), crash_at, group_id, body)


def start_sync(home: Path, settings: dict[str, str], crash_at: str) -> tuple[BaseProcess, Connection]:
    """Start a process that does what a daemon does at its start, and then sends until nothing waits."""
    return _start(_sync, str(home), settings, crash_at)


def _start(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    here, there = _context.Pipe(duplex=False)
    process = _context.Process(target=target, args=(*arguments, there), daemon=True)
    process.start()
    there.close()
    return process, here


def _commit_group(home: str, crash_at: str, group_id: str, body: bytes, out: Connection) -> None:
    from contextlib import ExitStack

    from torpor.daemon.compose import compose
    from torpor.daemon.groups import Groups
    from torpor.daemon.reconcile import reconcile
    from torpor.daemon.settings import Settings
    from torpor.store.home import Home

    os.environ["TORPOR_CRASH_AT"] = crash_at
    with ExitStack() as stack:
        catalog = compose(Home(Path(home)), Settings(), stack)
        reconcile(catalog)
        out.send(("acknowledged", Groups(catalog).commit(group_id, body).id))


def _sync(home: str, settings: dict[str, str], crash_at: str, out: Connection) -> None:
    import time
    from contextlib import ExitStack

    from torpor.daemon.compose import compose, compose_remote
    from torpor.daemon.reconcile import reconcile
    from torpor.daemon.remote_settings import load_remote_settings
    from torpor.daemon.settings import Settings
    from torpor.store.home import Home

    os.environ["TORPOR_CRASH_AT"] = crash_at
    with ExitStack() as stack:
        catalog = compose(Home(Path(home)), Settings(), stack)
        reconcile(catalog)
        side = compose_remote(
            Home(Path(home)), Settings(), load_remote_settings(settings, Path("/"), Path(home)), catalog
        )
        stack.callback(side.stop)
        side.start()
        until = time.monotonic() + 60
        while side.outbox.summary() and time.monotonic() < until:
            time.sleep(0.02)
        out.send(("left", str(side.outbox.summary())))


def _save_group(home: str, crash_at: str, name: str, out: Connection) -> None:
    from torpor.client import connect

    from support.caches import CacheSession

    os.environ["TORPOR_CRASH_AT"] = crash_at
    agents = {name: CacheSession() for name in "abc"}
    for seed, session in enumerate(agents.values()):
        session.grow(100, seed)
    with connect(home=home) as keeper:
        out.send(("acknowledged", *keeper.save_group(name, agents).wait(30)))


def messages(pipe: Connection, process: BaseProcess, timeout_s: float) -> list[tuple[str, str]]:
    """Return everything a worker said until it ended, however it ended."""
    found: list[tuple[str, Any]] = []
    process.join(timeout_s)
    try:
        while pipe.poll():
            found.append(pipe.recv())
    except EOFError:
        pass
    pipe.close()
    return found
