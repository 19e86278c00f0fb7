"""Daemons with a bucket: one that has put everything there, and one on another machine."""

from __future__ import annotations

from pathlib import Path

from torpor.client import Keeper
from torpor.store.home import Home
from torpor.store.sync_choices import SyncChoices, write_sync_choices

from support.daemon import Daemon
from support.s3_servers import Place
from support.waiting import until

_FAST = {"S3_CONNECT_TIMEOUT_S": "2", "S3_STALL_S": "5"}


def machine(home: Path, place: Place, *, kv: bool = True, **settings: str) -> Daemon:
    """A daemon that syncs to a place; KV caches too, whatever they would be worth."""
    made = Home(home)
    made.create()
    write_sync_choices(made.sync_json, SyncChoices(kv_policy="always" if kv else "never"))
    return Daemon(home, settings={**place.settings, **_FAST, "TORPOR_KEY_STORAGE": "file", **settings})


def in_bucket(keeper: Keeper, backup_id: str) -> None:
    """Wait until all of a backup is in the bucket, and was checked."""

    def there() -> bool:
        remote = keeper.api.json("GET", f"/v1/backups/{backup_id}")["remote"]
        return bool(remote and remote["checked"] and not remote["waiting"])

    until(there, lambda: f"{backup_id} is not in the bucket: {keeper.api.json('GET', '/v1/sync')}")
