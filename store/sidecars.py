"""Per-session sidecars: what the user said of a session (pins, TTLs, title), so that an index rebuild loses nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from blake3 import blake3

from ..state.errors import BadInput, StoreFailed
from ..state.ids import parse_session_id
from .files import translated, write_private
from .gentle_reads import DISK_ERRORS


@dataclass(slots=True)
class Sidecar:
    """One session's choices. `expires_at` (seconds since the epoch) overrides the default TTL of a backup.

    With `no_sync` nothing of it leaves this machine. `ttl_s` and `keep_newest` override the settings for this session.
    `dropped_at` says of backups since when their KV cache and embeddings are no longer kept here.
    """

    session_id: str
    title: str | None = None
    pinned: set[str] = field(default_factory=set)
    expires_at: dict[str, float] = field(default_factory=dict)
    no_sync: bool = False
    ttl_s: float | None = None
    keep_newest: int | None = None
    dropped_at: dict[str, float] = field(default_factory=dict)


class SidecarStore:
    """Sidecars under one folder, named by the digest of the session id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, session_id: str) -> Path:
        """Return where a session's sidecar lies. Raises: InvalidId."""
        return self._folder / (blake3(parse_session_id(session_id).encode()).hexdigest()[:32] + ".json")

    def read(self, session_id: str) -> Sidecar:
        """Return a session's sidecar; an absent or unreadable one is empty (the index holds the same facts)."""
        path = self.path(session_id)
        try:
            with translated("read", path):
                raw: Any = orjson.loads(path.read_bytes()) if path.is_file() else {}
        except orjson.JSONDecodeError:
            raw = {}
        if not isinstance(raw, dict):
            raw = {}
        title, pins, expiries = raw.get("title"), raw.get("pinned"), raw.get("expires_at")
        return Sidecar(
            session_id,
            title if isinstance(title, str) else None,
            {p for p in pins if isinstance(p, str)} if isinstance(pins, list) else set(),
            _times(expiries),
            raw.get("no_sync") is True,
            ttl_s=float(ttl) if isinstance(ttl := raw.get("ttl_s"), (int, float)) and ttl > 0 else None,
            keep_newest=keep if isinstance(keep := raw.get("keep_newest"), int) and keep >= 0 else None,
            dropped_at=_times(raw.get("dropped_at")),
        )

    def sessions(self) -> Iterator[str]:
        """Yield the sessions that have a readable sidecar. Raises: StoreFailed."""
        with translated("list", self._folder), os.scandir(self._folder) as entries:
            names = [entry.name for entry in entries if entry.name.endswith(".json")]
        for name in names:
            session_id = _session_in(self._folder / name)
            if session_id is not None and self.path(session_id).name == name:
                yield session_id

    def unreadable(self) -> list[Path]:
        """Return the sidecars that hold something else. Raises: StoreFailed."""
        readable = {self.path(session_id) for session_id in self.sessions()}
        with translated("list", self._folder):
            return sorted(path for path in self._folder.glob("*.json") if path not in readable)

    def forget(self, session_id: str) -> None:
        """Remove the sidecar of a session that is gone, if it says nothing more. Raises: StoreFailed."""
        path = self.path(session_id)
        if self.read(session_id) == Sidecar(session_id):
            with translated("remove", path):
                path.unlink(missing_ok=True)

    def write(self, sidecar: Sidecar) -> None:
        """Replace a session's sidecar, durably. Raises: StoreFull, StoreFailed.

        One that was emptied stays: it says that nothing is pinned, and an index that says otherwise is out of date.
        """
        path = self.path(sidecar.session_id)
        with translated("look at", path):
            if sidecar == Sidecar(sidecar.session_id) and not path.exists():
                return
        body = {
            "session_id": sidecar.session_id,
            "title": sidecar.title,
            "pinned": sorted(sidecar.pinned),
            "expires_at": sidecar.expires_at,
            "no_sync": sidecar.no_sync,
            "ttl_s": sidecar.ttl_s,
            "keep_newest": sidecar.keep_newest,
            "dropped_at": sidecar.dropped_at,
        }
        write_private(path, orjson.dumps(body, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2))


def _session_in(path: Path) -> str | None:
    """Return which session a sidecar says that it is of. Raises: StoreFailed."""
    try:
        with translated("read", path):
            raw: Any = orjson.loads(path.read_bytes())
        named = raw.get("session_id") if isinstance(raw, dict) else None
        return parse_session_id(named) if isinstance(named, str) else None
    except (orjson.JSONDecodeError, BadInput):
        return None
    except StoreFailed as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in DISK_ERRORS:
            return None
        raise  # too many open files, no memory: nothing is wrong with the sidecar


def _times(raw: Any) -> dict[str, float]:
    """Read times by backup; what is no time is left out."""
    return {k: float(v) for k, v in raw.items() if isinstance(v, (int, float))} if isinstance(raw, dict) else {}
