"""What follows from what the pump does: the policy of KV caches, what is measured, and events worth knowing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from datetime import datetime

import orjson

from ..db.index import Index
from ..db.outbox import OutboxTable
from ..db.remembered import Remembered
from ..state.errors import BackupNotFound, TorporError
from ..state.kv_policy import Budget, Decision, KVUpload, decide
from ..state.outbox import Item
from ..state.rates import FETCH_KEY, KEPT, Kind, Observation, from_rows, rates_from, to_rows
from ..state.sync_state import TELLING_AGAIN_S, Troubled
from ..store.sync_choices import SyncChoices
from ..sync.ports import Pushed

UPLOAD_KEY, USED_KEY = "upload", "kv-today"
MEASURED_BYTES = 1 << 20  # less says nothing of a rate
_MOST_HELD = 10_000
_LOUD = ("denied", "clock-skew", "key-missing", "unusable", "disk-full")  # somebody has to do something


class SyncWatcher:
    """The pump's watcher (sync/pump_ports.py). Safe to call from several threads."""

    def __init__(
        self,
        index: Index,
        outbox: OutboxTable,
        remembered: Remembered,
        choices: Callable[[], SyncChoices],
        clock: Callable[[], float],
        advanced: Callable[[], None] = lambda: None,
        waits: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Watch. `advanced` is told of each push; `waits` says why no KV cache goes now."""
        self._advanced, self._waits = advanced, waits
        self._index, self._outbox, self._remembered = index, outbox, remembered
        self._choices, self._clock, self._lock = choices, clock, threading.Lock()
        self._told: dict[str, float] = {}

    def kept_back(self, item: Item) -> str | None:
        """Say why an item is to stay here; with a text its KV cache is decided, so that its record says why."""
        if item.kind != "push":
            return None
        if item.stage == "kv":
            decision = self.decide(item)
            return None if decision.goes else decision.reason
        if item.stage == "text":
            for entry in self._outbox.of_backups([item.backup_id]).get(item.backup_id, []):
                if entry.item.stage == "kv" and entry.state == "pending":
                    decision = self.decide(entry.item)
                    if not decision.goes:
                        self._outbox.hold(entry.item.id, decision.reason)
        return None

    def decide(self, item: Item) -> Decision:
        """Decide on the KV cache of a backup."""
        choices = self._choices()
        budget = Budget(choices.kv_daily_bytes, self.used_today() if choices.kv_daily_bytes else 0)
        return decide(choices.kv_policy, self._upload(item), budget, self._waits())

    def _upload(self, item: Item) -> KVUpload:
        try:
            backup = self._index.backup(item.backup_id)
        except BackupNotFound:
            return KVUpload(item.size_bytes, 0, None, None)
        prefill = self._seconds("prefill", prefill_key(backup.weights_hash), backup.tokens)
        fetch = self._seconds("fetch", FETCH_KEY, item.size_bytes)
        if fetch is not None:
            return KVUpload(item.size_bytes, backup.tokens, fetch, prefill)
        upload = self._seconds("fetch", UPLOAD_KEY, item.size_bytes)
        return KVUpload(item.size_bytes, backup.tokens, upload, prefill, guessed=True)

    def _seconds(self, kind: Kind, key: str, units: int) -> float | None:
        seen = self._seen(kind, key)
        on_last = [o for o in seen if o.device == seen[-1].device]  # the device that was used last
        return rates_from(on_last).of(kind, units) if units else None

    def _seen(self, kind: Kind, key: str) -> list[Observation]:
        text = self._remembered.get("rate", key, now=self._clock())
        return from_rows(kind, None if text is None else orjson.loads(text))

    def used_today(self) -> int:
        """Return the bytes of KV caches that went up since midnight."""
        text = self._remembered.get("sync", USED_KEY, now=self._clock())
        found = orjson.loads(text) if text is not None else None
        if not isinstance(found, dict) or found.get("day") != self._day():
            return 0
        used = found.get("bytes")
        return used if isinstance(used, int) else 0

    def _day(self) -> str:
        return datetime.fromtimestamp(self._clock()).astimezone().date().isoformat()

    def pushed(self, items: tuple[Item, ...], result: Pushed, seconds: float) -> None:
        """Learn how fast it went, and what is left of the day's budget."""
        raw_bytes = sum(item.size_bytes for item in items)
        self._advanced()
        with self._lock:
            if any(item.stage == "kv" for item in items) and result.sent_bytes:
                used = {"day": self._day(), "bytes": self.used_today() + result.sent_bytes}
                self._remembered.put("sync", USED_KEY, orjson.dumps(used).decode(), now=self._clock())
            if result.sent_bytes >= MEASURED_BYTES and not result.reused_bytes and seconds > 0:
                seen = [*self._seen("fetch", UPLOAD_KEY), Observation("fetch", raw_bytes, seconds)]
                text = orjson.dumps(to_rows(seen[-KEPT:])).decode()
                self._remembered.put("rate", UPLOAD_KEY, text, now=self._clock())

    def gave_up(self, item: Item, error: TorporError) -> None:
        """Note a dead letter."""
        what = f"the {item.stage} of {item.backup_id}" if item.stage else f"the removal of {item.backup_id}"
        detail = f"{what} was given up: {error.detail}"
        self._index.add_event(
            at=self._clock(),
            level="error",
            kind="sync-given-up",
            detail=detail,
            session_id=item.session_id,
            backup_id=item.backup_id,
        )

    def troubled(self, trouble: Troubled | None, before: Troubled | None) -> None:
        """Note what somebody has to see to; of a network that comes and goes, one event an hour."""
        if trouble is not None and trouble.name != "throttled":
            level = "warning" if trouble.name in _LOUD else "info"
            if self._is_news(trouble.name):
                self._note(level, f"sync-{trouble.name}", trouble.detail)
        elif trouble is None and before is not None and self._told.pop(f"open:{before.name}", None) is not None:
            self._note("info", "sync-well", f"it goes on after {before.name}")

    def _is_news(self, name: str) -> bool:
        now = self._clock()
        if abs(now - self._told.get(name, -1e12)) < TELLING_AGAIN_S:
            return False
        self._told[name] = self._told[f"open:{name}"] = now
        return True

    def _note(self, level: str, kind: str, detail: str) -> None:
        self._index.add_event(at=self._clock(), level=level, kind=kind, detail=detail)


def prefill_key(weights_hash: str | None) -> str:
    """Return under which key the SDK notes how long prefills of a model take (client/rates.py)."""
    return f"prefill:{hashlib.sha256(str(weights_hash).encode()).hexdigest()[:32]}"
