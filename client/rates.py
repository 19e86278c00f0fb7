"""What was measured on this machine, remembered by the daemon, so that a plan can say how long it takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..state.plan import TargetState
from ..state.rates import (
    FETCH_KEY,
    KEPT,
    KINDS,
    MACHINE_KINDS,
    Kind,
    Observation,
    Rates,
    from_rows,
    is_sane,
    rate_key,
    rates_from,
    to_rows,
)
from .remembered import Memory


class RateBook:
    """Observations of one machine, read once. A daemon that is away costs nothing but the estimate."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._read: dict[str, list[Observation]] = {}

    @property
    def is_wanting(self) -> bool:
        """Tell whether those of the machine were not read yet, or are to be read anew."""
        return any(kind not in self._read for kind in MACHINE_KINDS)

    def take(self, remembered: Any) -> None:
        """Take what the daemon told unasked, by key: what was read or measured since is newer."""
        for key, rows in remembered.items() if isinstance(remembered, dict) else ():
            kind = key.partition(":")[0]
            if kind in KINDS:
                self._read.setdefault(key, from_rows(kind, rows))

    def rates(self, target: TargetState) -> Rates:
        """Return the rates that hold for a target: on its device, or where that is unknown on the last one used."""
        found: list[Observation] = []
        for kind in KINDS:
            seen = self._seen(kind, rate_key(kind, target.fingerprint))
            device = target.device if target.device is not None or not seen else seen[-1].device
            found += [o for o in seen if kind in MACHINE_KINDS or o.device == device]
        return rates_from(found)

    def note(self, observations: Iterable[Observation], target: TargetState) -> None:
        """Remember what was measured with a target."""
        by_kind: dict[Kind, list[Observation]] = {}
        for observation in observations:
            if is_sane(observation):
                by_kind.setdefault(observation.kind, []).append(observation)
        for kind, new in by_kind.items():
            key = rate_key(kind, target.fingerprint)
            kept = self._read[key] = [*self._seen(kind, key), *new][-2 * KEPT :]
            self._memory.put("rate", key, to_rows(kept))

    def forget_fetches(self) -> None:
        """Ask the daemon again how fast downloads were: it measures them itself."""
        self._read.pop(FETCH_KEY, None)

    def _seen(self, kind: Kind, key: str) -> list[Observation]:
        if key not in self._read:
            self._read[key] = self._load(kind, key)
        return self._read[key]

    def _load(self, kind: Kind, key: str) -> list[Observation]:
        return from_rows(kind, self._memory.get("rate", key))
