"""The remote side, put together: settings -> bucket -> repository -> pusher -> pump, and what else needs the bucket.

Without S3 nothing of it runs, and boto3 is not imported. With it, the pump opens the repository when the bucket can be
reached: `repository()` is for everybody else who needs it at once, and raises why it cannot be had.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, replace
from typing import Any

from ulid import ULID

from ..codec.keys import KeyRing
from ..db.derive import Derived, derive
from ..db.outbox import OutboxTable
from ..db.remembered import Remembered
from ..db.remote import RemoteIndex, Uploads
from ..state.collection import Grace
from ..state.errors import BackupNotFound, Conflict, TorporError
from ..store.arriving import StoreBlobs
from ..store.home import Home
from ..store.machine import boot_id, machine_id
from ..store.sync_choices import SyncChoices, read_sync_choices, write_sync_choices
from ..sync.bucket import Bucket
from ..sync.collect import Collected, Collector
from ..sync.limiter import Limiter
from ..sync.network import NetworkWatch, can_connect, steady_clock
from ..sync.pump_ports import Clocks
from ..sync.pump_ports import Remote as RemotePort
from ..sync.push import BucketPusher
from ..sync.repository import Repository
from ..sync.spool import Spool
from ..sync.threads import DaemonPool
from ..sync.upload import Uploader
from ..sync.worker import Pump
from .catalog import Catalog
from .endpoint import address_of
from .key_desk import KeyDesk
from .keys import KeyStorage, KeyStore
from .local_backups import CatalogBackups, describer
from .opening import QUIRKS_KEY, Opening
from .plain_copies import PlainCopies
from .power import Power
from .remote_settings import RemoteSettings
from .sync_memory import SyncMemory
from .sync_watcher import SyncWatcher

log = logging.getLogger("torpor.sync")

UPLOADS_AT_ONCE = 4
TROUBLE_HOLDS_S = 15.0  # what the pump saw so lately is not tried again for others
COLLECT_EVERY_S, COLLECTED_KEY = 86_400.0, "collect-at"


class RemoteSide:
    """Everything that has to do with the bucket. Safe to call from several threads."""

    def __init__(
        self,
        home: Home,
        settings: RemoteSettings,
        catalog: Catalog,
        remembered: Remembered,
        *,
        key_storage: KeyStorage = "auto",
        clock: Callable[[], float] = time.time,
        grace: Grace = Grace(),  # noqa: B008
        plain_copies: bool = False,
        power: Power | None = None,
    ) -> None:
        self._grace, self._power = grace, power
        self._asked_on_battery = False  # to send all that waits
        self._home, self.settings, self._catalog, self._clock = home, settings, catalog, clock
        self.outbox = OutboxTable(catalog.index)
        self.known = RemoteIndex(catalog.index, describer())
        self.uploads = Uploads(catalog.index, clock)
        self.remembered, self.keys = remembered, KeyStore(home.repo_key, key_storage)
        self.memory = SyncMemory(remembered, clock)
        self.choices = read_sync_choices(home.sync_json)
        self.machine = machine_id(home.machine_id) if settings.s3 is not None else ""
        self.limiter = Limiter(self.choices.up_limit, self.choices.down_limit)
        self.pool = DaemonPool(UPLOADS_AT_ONCE, "upload")
        self.watcher = SyncWatcher(
            catalog.index, self.outbox, remembered, lambda: self.choices, clock, self._copy_plainly, self._no_heavy
        )
        self._choosing, self._collecting = threading.Lock(), threading.Lock()
        self._told: Callable[[], None] = lambda: None
        self._state_told: tuple[str, bool] | None = None
        self.opening = Opening(
            settings.s3,
            machine=self.machine,
            known=self.known,
            memory=self.memory,
            keys=self.keys,
            pool=self.pool,
            limiter=self.limiter,
            clock=clock,
        )
        self.pump = self._make_pump()
        self.plain = self._make_plain_copies() if plain_copies and self.on else None
        self._network = NetworkWatch(self.pump.network_changed, lambda: self.pump.waits) if self.on else None

    def _make_pump(self) -> Pump:
        return Pump(
            self.outbox,
            RemotePort(self._connect, lambda: self.bucket().now(), self._can_connect, self.opening.break_off),
            self.watcher,
            Clocks(self._clock, steady_clock, random.random),
            f"{boot_id()}:{os.getpid()}",
            changed=self._changed,
            checkpoint=self._catalog.checkpoint,
        )

    def _make_plain_copies(self) -> PlainCopies:
        return PlainCopies(
            self._home.root,
            lambda: self.repository().bucket,
            self.uploads,
            self._catalog.index.that_may_leave,
            self._catalog.staging.new_path,
            self._no_plain_copies,
        )

    def _no_plain_copies(self) -> str | None:
        """Say why no plain copy is written now."""
        opened = self.opened
        if opened is not None and opened.ring is not None:
            return "the bucket is encrypted, and anybody could read a plain copy"
        if (waits := self._no_heavy()) is not None:
            return waits
        return None if self.pump.state in ("idle", "busy") else f"sync is {self.pump.state}"

    def _no_heavy(self) -> str | None:
        """Say why nothing that is large and no backup needs is sent now."""
        return None if self._power is None or self._asked_on_battery else self._power.why_not()

    def power_changed(self) -> None:
        """Learn that the machine was plugged in or out."""
        self._asked_on_battery = False
        if not self.on:
            return
        if self._no_heavy() is not None:
            self.pump.give_way("kv")
            return
        with suppress(TorporError):  # the index is full or damaged: decided again at the next housekeeping
            self.reconsider()
        self._copy_plainly()

    def _copy_plainly(self) -> None:
        if self.plain is not None:
            self.plain.wake()

    @property
    def on(self) -> bool:
        """Tell whether a storage is configured."""
        return self.settings.s3 is not None

    @property
    def name_in_bucket(self) -> str | None:
        """Return this machine's name in the bucket; None without one."""
        return self.machine if self.on else None

    @property
    def voucher(self) -> str | None:
        """Return the same; empty while the bucket was not opened in this run of the daemon.

        Until then what is known of it may be of another bucket, of one that was emptied, or sealed with lost keys: on
        such a word nothing leaves this machine.
        """
        return self.name_in_bucket if not self.on or self.opened is not None else ""

    def start(self) -> None:
        """Derive the queue again, and begin to send. Raises: StoreFull, StoreFailed, IndexDamaged."""
        if self._network is None:
            return
        # First: what was committed before is derived then, and what comes after is queued.
        self._catalog.queue_with(self.pump.notify)
        self.outbox.revive(self._clock())
        self.outbox.reconsider()  # what a policy or the battery kept here
        self.derive()
        left = self.choices.pause_left_s(self._clock())
        if left is None or left > 0:
            self.pump.pause(left)
        self._network.start()
        self.pump.start()
        if self.plain is not None:
            self.plain.start()

    def stop(self) -> None:
        """End at once; what is not committed is sent again. A second time changes nothing."""
        network, self._network = self._network, None
        if network is None:
            return
        network.stop()
        if self.plain is not None:
            self.plain.stop()
        if not self.pump.stop():
            log.warning("a transfer did not end in time; it is left behind")
        self.opening.end()
        self.pool.close()

    def derive(self, session_id: str | None = None) -> Derived:
        """Queue what is here and not in the bucket, as far as is known."""
        found = derive(self._catalog.index, self.machine, self._clock(), session_id)
        if found.added or found.removed:
            log.info("queued %d items that the bucket lacks; %d were there already", found.added, found.removed)
        return found

    # -- the bucket and what lies in it ------------------------------------------------------------------------------

    def bucket(self) -> Bucket:
        """Return the bucket; nothing is sent by that. Raises: SyncOff, RemoteDenied, RemoteRefused."""
        return self.opening.bucket()

    def repository(self) -> Repository:
        """Return the repository, opened now if need be. Raises: as `Opening.repository`."""
        return self.opening.repository()

    @property
    def opened(self) -> Repository | None:
        """Return the repository if it was opened."""
        return self.opening.opened

    def quirks(self) -> dict[str, Any]:
        """Return what was found out about the storage; empty before it was."""
        found = self.memory.read(QUIRKS_KEY)
        return found if isinstance(found, dict) else {}

    def ring(self) -> KeyRing | None:
        """Return the keys of the opened repository; None without one. Raises: as `repository`."""
        return self.repository().ring

    def hold(self) -> AbstractContextManager[None]:
        """Send nothing while this is open."""
        return self.pump.hold()

    def key_desk(self) -> KeyDesk:
        """Return what makes and changes the keys of the bucket."""
        return KeyDesk(self.bucket, self.keys, hold=self.hold, changed=self.keys_changed, new_id=_new_id)

    def keys_changed(self, ring: KeyRing) -> None:
        """Open the repository anew, with other keys."""
        self.opening.close()
        self.pump.reconnect()

    def _connect(self) -> BucketPusher:
        """Open the remote side for the pump: learn what is there, and queue what is not."""
        repository = self.opening.open_anew()
        for name, error in repository.refresh():
            log.warning("%s cannot be read: %s", name, error.detail)
        self.derive()
        spool = Spool(self._home.outgoing)
        spool.clean(lambda name: self.uploads.read(name) is not None)
        blobs = StoreBlobs(self._catalog.blobs, self._catalog.staging)
        uploader = Uploader(
            repository.bucket, blobs, repository.ring, spool, self.uploads, new_upload=lambda: str(ULID()).lower()
        )
        backups = CatalogBackups(self._catalog)
        return BucketPusher(repository, backups, uploader, self.pool, self._clock, _mark, self._catalog.checkpoint)

    def _can_connect(self) -> bool:
        address = None if self.settings.s3 is None else address_of(self.settings.s3.options())
        return address is None or can_connect(*address)

    def tell(self, told: Callable[[], None]) -> None:
        """Call a function when the state of the second copy has become another one, in the thread that noticed."""
        self._told = told

    def _changed(self) -> None:
        if self._network is not None:
            self._network.nudge()
        if (state := (self.pump.state, self.pump.looked)) != self._state_told:
            self._state_told = state
            self._told()

    def woken(self) -> None:
        """Look at the bucket now: the machine has slept."""
        if self.on:
            self.pump.network_changed()

    # -- what the user says ------------------------------------------------------------------------------------------

    def choose(self, **changes: Any) -> SyncChoices:
        """Change what the user said of the second copy, durably, and act on it. Raises: StoreFull, StoreFailed."""
        with self._choosing:
            before, made = self.choices, replace(self.choices, **changes)
            write_sync_choices(self._home.sync_json, made)
            self.choices = made
            if (before.up_limit, before.down_limit) != (made.up_limit, made.down_limit):
                self.limiter.set(up=made.up_limit, down=made.down_limit)
            if (before.kv_policy, before.kv_daily_bytes) != (made.kv_policy, made.kv_daily_bytes):
                self.reconsider()
            if (before.paused_at, before.paused_until) != (made.paused_at, made.paused_until):
                self._pause_or_resume()
        return made

    def _pause_or_resume(self) -> None:
        left = self.choices.pause_left_s(self._clock())
        if left is None or left > 0:
            self.pump.pause(left)
        else:
            self.pump.resume()

    def pause(self, seconds: float | None) -> None:
        """Send nothing for so long, or until `resume`; it outlives a restart."""
        now = self._clock()
        self.choose(paused_at=now, paused_until=None if seconds is None else now + seconds)

    def resume(self) -> None:
        """Go on."""
        self.choose(paused_at=None, paused_until=None)
        self.pump.retry_now()

    def now(self) -> None:
        """Try everything now that waits, whatever the remote side was, and look what the bucket has. A pause stays.

        On battery KV caches go too, until the machine is plugged in or out.
        """
        self._asked_on_battery = True
        self.outbox.revive(self._clock())
        self.outbox.reconsider()
        self.outbox.hasten(self._clock())
        if self.plain is not None:
            self.plain.retry()
        self.pump.look_again()
        self.pump.notify()

    def retry(self, item_ids: list[int] | None) -> int:
        """Try given up items again, all or some; return how many there were."""
        count = self.outbox.retry(self._clock(), item_ids)
        self.pump.notify()
        return count

    def reconsider(self) -> None:
        """Decide again on the KV caches that a policy keeps here: the rates, the budget or the policy changed."""
        if self.on and self.outbox.reconsider():
            self.pump.notify()

    def set_no_sync(self, session_id: str, no_sync: bool) -> None:
        """Keep a session on this machine, or queue what of it is missing in the bucket. Raises: InvalidId."""
        self._catalog.set_no_sync(session_id, no_sync)
        if no_sync:
            self.pump.drop(session_id)
        elif self.on:
            self.derive(session_id)
            self.pump.notify()

    def remove(self, backup_id: str, *, purge: bool = False) -> None:
        """Remove a backup from this machine, and with `purge` from the bucket, of whatever machine it is.

        Raises: BackupNotFound.
        """
        try:
            self._catalog.remove(backup_id, purge=purge)
        except BackupNotFound:
            found = self.known.known([backup_id]).get(backup_id) if purge else None
            if not found:
                raise
            self._catalog.index.queue_removal(backup_id, found[0].backup.session_id, now=self._clock())
            self.pump.notify()

    def copies(self, session_id: str) -> dict[str, int]:
        """Count the backups of a session, and those of them that the bucket is known to have."""
        ids = [backup.id for backup in self._catalog.index.list_backups(session_id=session_id, limit=10_000)]
        return {"backups": len(ids), "in_bucket": len(self.known.known(ids)) if self.on else 0}

    # -- collection --------------------------------------------------------------------------------------------------

    def collector(self) -> Collector:
        """Return the collector of the bucket. Raises: as `repository`."""
        return Collector(self.repository(), self.pool, clock=self._clock)

    def collect(self, *, dry_run: bool = False) -> Collected:
        """Collect what no record names. Raises: as `repository`, and the collector's errors."""
        if not self._collecting.acquire(blocking=False):
            raise Conflict("the bucket is being collected already", hint="Try again when that is done.")
        try:
            self.repository().refresh()  # what a killed process left is known then
            return self.collector().run(self._grace, dry_run=dry_run)
        finally:
            self._collecting.release()

    def housekeep(self) -> None:
        """Decide again on KV caches, since budgets are a day's; collect once a day, when nothing is sent."""
        if not self.on:
            return
        self.reconsider()
        self._copy_plainly()
        now, due = self._clock(), self.memory.read(COLLECTED_KEY)
        if self.pump.state != "idle" or (isinstance(due, (int, float)) and now < due < now + 2 * COLLECT_EVERY_S):
            return
        try:
            log.info("collected: %s", asdict(self.collect()))
        except TorporError as error:
            log.warning("the bucket was not collected; it is tried again in an hour: %s", error.detail)
            return
        next_at = now + COLLECT_EVERY_S * random.uniform(0.8, 1.2)  # noqa: S311  machines of one bucket take turns
        self.memory.write(COLLECTED_KEY, next_at)

    def trouble(self) -> TorporError | None:
        """Return why the bucket cannot be used, as far as the pump has just seen; None when it may be tried."""
        return self.pump.trouble_now(TROUBLE_HOLDS_S)


def _new_id() -> str:
    return str(ULID())


def _mark() -> str:
    return secrets.token_hex(4)
