"""Machines that share a bucket: each a home, its daemon, and a way to the bucket of its own that can be spoiled."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import torch

from support.waiting import until

from .caches import CacheSession, CacheTarget
from .daemon import Daemon
from .fault_proxy import FaultProxy
from .s3_servers import Place

QUICK_TIMEOUTS = {"S3_CONNECT_TIMEOUT_S": "1", "S3_STALL_S": "1", "S3_DEADLINE_S": "4"}


def small_session(seed: int, tokens: int = 100) -> CacheSession:
    """A session whose blobs are some 100 KiB each: bodies that are streamed, in little time."""
    session = CacheSession(layers=2, heads=4, dim=64)
    session.grow(tokens, seed)
    generator = torch.Generator().manual_seed(seed)
    session.note = {"kv": session.digest(), "pad": torch.rand(30_000, generator=generator)}
    return session


class Machine:
    """A machine. `proxy` is its way to the bucket; the daemon comes and goes with `start`, `stop` and `kill`."""

    def __init__(
        self, home: Path, place: Place, proxy: FaultProxy, settings: dict[str, str] | None = None, **options: Any
    ) -> None:
        self.home, self.place, self.proxy, self._options = home, place, proxy, options
        self.settings = {**place.settings, "S3_ENDPOINT": proxy.endpoint, **QUICK_TIMEOUTS, **(settings or {})}
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / "sync.json").write_bytes(orjson.dumps({"kv_policy": "always"}))
        self.daemon = self._daemon()

    def _daemon(self, crash_at: str = "") -> Daemon:
        return Daemon(self.home, settings=self.settings, crash_at=crash_at, **self._options)

    def start(self, crash_at: str = "") -> Daemon:
        """Start a daemon, in place of one that has ended or is killed now."""
        self.close()
        self.daemon = self._daemon(crash_at)
        return self.daemon.__enter__()

    def close(self) -> None:
        """Kill the daemon, if there is one."""
        if self.daemon.process is not None:
            self.daemon.__exit__()

    def sync(self) -> dict[str, Any]:
        """What the daemon says of the remote side."""
        return self._got("/v1/sync")

    def _got(self, path: str) -> dict[str, Any]:
        answer = self.daemon.request("GET", path)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def now(self) -> None:
        """`torpor sync now`."""
        assert self.daemon.request("POST", "/v1/sync/now").status_code in (200, 202, 204)

    def choose(self, what: str, **values: Any) -> None:
        """Change what the user may say of the second copy: `limits` or `policy`."""
        answer = self.daemon.request("PUT", f"/v1/sync/{what}", json=values)
        assert answer.status_code == 200, answer.text

    def save(self, session_id: str, session: CacheSession) -> str:
        with self.daemon.keeper() as keeper:
            return keeper.save(session_id, session).wait(30).id

    def is_synced(self, backup_id: str) -> bool:
        """Whether every stage of a backup is in the bucket, and was checked."""
        remote = self._got(f"/v1/backups/{backup_id}")["remote"]
        return bool(remote and remote["checked"] and not remote["waiting"] and not remote["held"])

    def is_text_there(self, backup_id: str) -> bool:
        """Whether the first stage is in the bucket, and was checked."""
        remote = self._got(f"/v1/backups/{backup_id}")["remote"]
        return bool(remote["checked"] and "text" in remote["stages"] and not remote["waiting"])

    def wait_synced(self, *backup_ids: str, timeout_s: float = 60) -> None:
        left = list(backup_ids)
        while left:
            until(lambda: self.is_synced(left[0]), self.sync, timeout_s)
            left.pop(0)

    def restores(self, backup_id: str, session: CacheSession) -> None:
        """Wake a backup, and compare every bit."""
        with self.daemon.keeper() as keeper:
            woken = keeper.restore(backup_id, CacheTarget(), require="full").session
        assert woken.digest() == session.digest() == woken.note["kv"]
        assert torch.equal(woken.note["pad"], session.note["pad"])

    def log(self) -> str:
        """Everything that the daemon has written for people to read."""
        return "".join(path.read_text(errors="replace") for path in sorted((self.home / "logs").glob("*")))

    def queue(self) -> list[tuple[Any, ...]]:
        """The rows of the outbox as they lie on the disk."""
        with sqlite3.connect(f"file:{self.home / 'index.sqlite'}?mode=ro", uri=True) as index:
            return index.execute("SELECT * FROM outbox").fetchall()

    def outgoing(self) -> list[Path]:
        """Files that wait to be sent on."""
        return [path for path in (self.home / "store" / "outgoing").rglob("*") if path.is_file()]


@contextmanager
def machine(home: Path, place: Place, settings: dict[str, str] | None = None, **options: Any) -> Iterator[Machine]:
    """Run a machine's proxy; its daemon, with `options` of its own, is killed at the end when it still runs."""
    with FaultProxy(place.endpoint) as proxy:
        found = Machine(home, place, proxy, settings, **options)
        try:
            yield found
        finally:
            found.close()
