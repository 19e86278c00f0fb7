"""Whether a KV cache goes to the bucket: it can be computed again, and often sooner than it is downloaded. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .errors import BadInput

KVPolicy = Literal["auto", "always", "never"]
POLICIES: tuple[KVPolicy, ...] = get_args(KVPolicy)


@dataclass(frozen=True, slots=True)
class KVUpload:
    """What an upload of a KV cache would be worth.

    `download_s` is how long it takes to bring it back, `prefill_s` how long to compute it again on the machine that did
    before; None where that was never measured. `guessed` says that the way back was taken to be as fast as the way up.
    """

    size_bytes: int
    tokens: int
    download_s: float | None
    prefill_s: float | None
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that may go up for KV caches in a day, if that is limited, and those that went today."""

    daily_bytes: int | None = None
    used_bytes: int = 0

    @property
    def left_bytes(self) -> int | None:
        """Return what may still go today; None without a limit."""
        return None if self.daily_bytes is None else max(self.daily_bytes - self.used_bytes, 0)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether it goes, and why, in words. `until_tomorrow`: the day's budget keeps it here."""

    goes: bool
    reason: str
    until_tomorrow: bool = False


def decide(policy: KVPolicy, upload: KVUpload, budget: Budget, waits: str | None = None) -> Decision:
    """Decide on one KV cache; `waits` says why none goes now, whatever it is worth."""
    if policy == "never":
        return Decision(False, "the policy is `never`")
    worth = _always() if policy == "always" else _worth(upload)
    if worth.goes and waits is not None:
        return Decision(False, waits)
    left = budget.left_bytes
    if not worth.goes or left is None or upload.size_bytes <= left:
        return worth
    if budget.daily_bytes is not None and upload.size_bytes > budget.daily_bytes:
        return Decision(
            False, f"{_size(upload.size_bytes)} is more than the daily budget of {_size(budget.daily_bytes)}"
        )
    return Decision(False, f"{_size(left)} of today's budget are left; tomorrow it goes", until_tomorrow=True)


def _always() -> Decision:
    return Decision(True, "the policy is `always`")


def _worth(upload: KVUpload) -> Decision:
    download, prefill = upload.download_s, upload.prefill_s
    if prefill is None:
        return Decision(True, "how long its prefill takes was not measured yet on this machine, so it goes")
    if download is None:
        return Decision(True, "how long its download takes was not measured yet, so it goes")
    fetched = f"{_time(download)} to download" + (" (as fast as uploads were)" if upload.guessed else "")
    computed = f"{_time(prefill)} to compute its {upload.tokens:,} tokens again"
    if prefill < download:
        return Decision(False, f"{computed}, and {fetched}: it is sooner computed")
    return Decision(True, f"{fetched}, and {computed}: it is worth its upload")


def parse_policy(text: str) -> KVPolicy:
    """Check a policy. Raises: BadInput."""
    for policy in POLICIES:
        if policy == text:
            return policy
    raise BadInput(f"{text[:40]!r} is not a policy", hint=f"Policies: {', '.join(POLICIES)}.")


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
