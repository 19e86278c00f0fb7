"""The second copy with a real daemon and a real S3 server: it goes by itself, and says how it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.caches import CacheSession
from support.daemon import Daemon
from support.s3_servers import Place


def eventually(found: Callable[[], bool], what: object = "", deadline_s: float = 20.0) -> None:
    until = time.monotonic() + deadline_s
    while not found():
        assert time.monotonic() < until, what() if callable(what) else what
        time.sleep(0.05)


def sync(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.request("GET", "/v1/sync").json()
    return found


def synced(daemon: Daemon) -> None:
    def done() -> bool:
        found = sync(daemon)
        return found["state"] == "idle" and not found["waiting_count"] and found["last_synced_at"] is not None

    eventually(done, lambda: sync(daemon))


def save(daemon: Daemon, session_id: str, tokens: int = 70, seed: int = 1) -> str:
    session = CacheSession()
    session.grow(tokens, seed)
    with daemon.keeper() as keeper:
        return keeper.save(session_id, session).wait(60).id


def test_a_save_reaches_the_bucket_by_itself(home: Path, weed: Place) -> None:
    with Daemon(home, settings=weed.settings) as daemon:
        backup_id = save(daemon, "s")
        synced(daemon)
        found = daemon.request("GET", f"/v1/backups/{backup_id}").json()["remote"]
        assert found == {"stages": ["text", "kv"], "checked": True, "waiting": [], "given_up": [], "held": None}
        assert daemon.stop() == 0
