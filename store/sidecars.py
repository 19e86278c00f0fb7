"""Per-session sidecars: what the user said of a session (pins, TTLs, title), so that an index rebuild loses nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from blake3 import blake3

from ..state.ids import parse_session_id
from .files import translated, write_private


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

    def _path(self, session_id: str) -> Path:
        return self._folder / (blake3(parse_session_id(session_id).encode()).hexdigest()[:32] + ".json")

    def read(self, session_id: str) -> Sidecar:
        """Return a session's sidecar; an absent or unreadable one is empty (the index holds the same facts)."""
        path = self._path(session_id)
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

    def write(self, sidecar: Sidecar) -> None:
        """Replace a session's sidecar, durably; an empty one is removed. Raises: StoreFull, StoreFailed."""
        path = self._path(sidecar.session_id)
        if sidecar == Sidecar(sidecar.session_id):
            with translated("remove", path):
                path.unlink(missing_ok=True)
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


def _times(raw: Any) -> dict[str, float]:
    """Read times by backup; what is no time is left out."""
    return {k: float(v) for k, v in raw.items() if isinstance(v, (int, float))} if isinstance(raw, dict) else {}
