"""What adapters may ask to be remembered between processes: a port, so that they know nothing of HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import orjson

from ..state.errors import NotFound, TorporError, Unavailable
from ..state.remembered import MAX_VALUE_BYTES, Kind, parse_key
from .api import Api

TIMEOUT_S = 5.0  # a value that takes longer is not worth waiting for
AWAY_S = 30.0  # how long a daemon that did not answer is left alone


class Memory(Protocol):
    """Somewhere to remember JSON values that can be found again. Never raises: what is lost is just found again."""

    def get(self, kind: Kind, key: str) -> Any:
        """Return a value, or None."""
        ...

    def put(self, kind: Kind, key: str, value: Any) -> None:
        """Remember a value."""
        ...


@runtime_checkable
class UsesMemory(Protocol):
    """A session or a target that can make use of a keeper's memory. Optional: others work all the same."""

    def use_memory(self, memory: Memory) -> None:
        """Take the memory; called before each capture and each description."""
        ...


def lend(memory: Memory, user: object) -> None:
    """Let an adapter that wants to remember something (what hashing 16 GB gave, say) use a keeper's memory."""
    if isinstance(user, UsesMemory):
        user.use_memory(memory)


class InProcess:
    """A memory that ends with the process."""

    def __init__(self) -> None:
        self._values: dict[tuple[Kind, str], bytes] = {}

    def get(self, kind: Kind, key: str) -> Any:
        """Return a value, or None."""
        raw = self._values.get((kind, parse_key(key)))
        return None if raw is None else orjson.loads(raw)

    def put(self, kind: Kind, key: str, value: Any) -> None:
        """Remember a value."""
        self._values[kind, parse_key(key)] = orjson.dumps(value)


class InDaemon:
    """The daemon's memory. One that is away is as good as one that has forgotten. Safe to use from several threads."""

    def __init__(self, api: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self._api, self._clock, self._lock = api, clock, threading.Lock()
        self._away_until = 0.0

    def get(self, kind: Kind, key: str) -> Any:
        """Return a value, or None."""
        raw = self._call("GET", kind, key)
        try:
            return None if raw is None else orjson.loads(raw)
        except orjson.JSONDecodeError:
            return None

    def put(self, kind: Kind, key: str, value: Any) -> None:
        """Remember a value; one that is too large is let go."""
        raw = orjson.dumps(value)
        if len(raw) <= MAX_VALUE_BYTES:
            self._call("PUT", kind, key, content=raw, headers={"Content-Type": "application/json"})

    def _call(self, method: str, kind: Kind, key: str, **options: Any) -> bytes | None:
        path = f"/v1/remembered/{kind}/{parse_key(key)}"
        with self._lock:
            if self._clock() < self._away_until:
                return None
        try:
            return self._api.call(method, path, timeout=TIMEOUT_S, **options).content
        except NotFound:
            return None
        except (TorporError, RuntimeError) as error:  # the latter once the keeper is closed
            if isinstance(error, Unavailable):
                with self._lock:
                    self._away_until = self._clock() + AWAY_S
            return None
