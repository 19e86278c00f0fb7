"""What waits to go to the bucket: stages of backups, in which order, and when a failure is tried again. Pure.

A backup goes up in stages, so that text is safe before gigabytes follow. Each stage ends with a commit record that
names everything that is there so far; a stage that was committed is what another machine can wake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from .errors import (
    ClockSkewed,
    Conflict,
    ObjectExists,
    Offline,
    RemoteDenied,
    RemoteFailed,
    Throttled,
    Timeout,
    TorporError,
)

Stage = Literal["text", "media", "vision", "kv"]
STAGES: tuple[Stage, ...] = get_args(Stage)  # in the order in which they go
ItemKind = Literal["push", "remove"]
ItemState = Literal["pending", "leased", "dead", "held"]  # held: a policy keeps it here, with its reason
ErrorClass = Literal["offline", "throttled", "auth", "clock-skew", "conflict", "permanent", "failed"]

SMALL_BYTES = 8 << 20  # stages of one backup that go up together, with one commit record
LEASE_S = 600.0  # renewed while it runs
BASE_DELAY_S = 2.0
LONGEST_DELAY_S = 900.0
ATTEMPTS: dict[ErrorClass, int] = {"throttled": 40, "failed": 12, "auth": 12, "conflict": 5, "permanent": 1}

_STAGE_OF: dict[str, Stage] = {"media": "media", "vision_cache": "vision", "kv_cache": "kv"}


def stage_of(layer: str) -> Stage:
    """Return the stage with which a layer goes up: text, tokens and settings first, then what nothing can rebuild."""
    return _STAGE_OF.get(layer, "text")


def stage_sizes(layers: Iterable[str], blobs: Mapping[str, tuple[int, str]]) -> dict[Stage, int]:
    """Return the raw bytes of each stage that a backup has, in their order, out of digest -> (size in bytes, layer).

    Text is always one: it carries the manifest. A stage may be empty here: its layer lies in the manifest whole, or
    each of its blobs is counted with another layer that names it, too.
    """
    sizes: dict[Stage, int] = dict.fromkeys(("text", *map(stage_of, layers)), 0)
    for size, layer in blobs.values():
        sizes[stage_of(layer)] = sizes.get(stage_of(layer), 0) + size
    return {stage: sizes[stage] for stage in STAGES if stage in sizes}


def priority(stage: Stage | None) -> int:
    """Return the place of an item in the queue, lower first: a removal (no stage) goes behind all texts."""
    return {"text": 0, None: 1, "media": 2, "vision": 3, "kv": 4}[stage]


@dataclass(frozen=True, slots=True)
class Item:
    """An item of the outbox. `size_bytes` are the raw bytes of its stage's blobs; `stage` is empty for a removal."""

    id: int
    kind: ItemKind
    backup_id: str
    session_id: str
    stage: Stage | None
    size_bytes: int
    attempts: int


def error_class(error: TorporError) -> ErrorClass:
    """Tell which kind of failure an error is. Being offline and a wrong clock are states: they burn no attempt."""
    if isinstance(error, Offline):
        return "offline"
    if isinstance(error, Throttled):
        return "throttled"
    if isinstance(error, RemoteDenied):
        return "auth"
    if isinstance(error, ClockSkewed):
        return "clock-skew"
    if isinstance(error, (ObjectExists, Conflict)):
        return "conflict"
    if isinstance(error, (RemoteFailed, Timeout)) or error.retryable:
        return "failed"
    return "permanent"


def delay_s(attempts: int, random: Callable[[], float]) -> float:
    """Return how long to wait behind the `attempts`-th failure: full jitter, between nothing and a doubling limit.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random() * min(LONGEST_DELAY_S, BASE_DELAY_S * 2.0 ** min(attempts, 30))


def is_dead(kind: ErrorClass, attempts: int) -> bool:
    """Tell whether an item that failed so often is given up until somebody asks for it again."""
    limit = ATTEMPTS.get(kind)
    return limit is not None and attempts >= limit
