"""How long a restore will take, from what was measured on this machine. Pure.

Each kind of work has a small linear model of its seconds, fitted to its newest observations by relative error, so that
ten tokens count as much as ten thousand:

| kind | terms |
|---|---|
| `read`, `fetch` | a start, and each byte |
| `prefill` | a start, each new token, and each pair of a new token and one that it attends to |
| `encode` | a start, and each placeholder of a picture |
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .fingerprint import Fingerprint
from .manifest import MAX_COUNT

Kind = Literal["read", "fetch", "prefill", "encode"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MACHINE_KINDS: tuple[Kind, ...] = ("read", "fetch")  # of the machine; the others are of a model on a device
KEPT = 24  # observations of each kind
MIN_SECONDS, MAX_SECONDS = 1e-5, 1e6  # shorter than a clock tells, and longer than anybody waits
FETCH_KEY = "fetch"  # under which downloads are remembered: they belong to the machine, not to a model
_ROUNDS = 200  # of the fit; it settles in far fewer
_ORDER = (1, 0, 2)  # units first: a single observation says nothing of a start, nor of pairs


@dataclass(frozen=True, slots=True)
class Observation:
    """Some work that was timed: `units` new bytes or tokens, behind `past` tokens, in `seconds`, on `device`."""

    kind: Kind
    units: int
    seconds: float
    past: int = 0
    device: str = ""

    def terms(self) -> tuple[float, ...]:
        """Return what its seconds are made of."""
        return terms_of(self.kind, self.units, self.past)


@dataclass(frozen=True, slots=True)
class Work:
    """What a restore has to do. `pictures` are placeholders whose images are encoded again."""

    read_bytes: int = 0
    fetch_bytes: int = 0
    past_tokens: int = 0
    new_tokens: int = 0
    pictures: int = 0


def terms_of(kind: Kind, units: int, past: int = 0) -> tuple[float, ...]:
    """Return the terms of some work: a start, its units, and for a prefill the pairs of tokens that attend."""
    if kind == "prefill":
        return 1.0, float(units), units * (past + units / 2)
    return 1.0, float(units)


def fit(observations: Sequence[Observation]) -> tuple[float, ...] | None:
    """Return seconds a term, none below zero, with the least squares of the relative errors; None for no data.

    Coordinate descent: each weight in turn takes its best value while the others stand still.
    """
    rows = [(o.terms(), o.seconds) for o in observations if o.seconds > 0]
    if not rows:
        return None
    scaled = [[term / seconds for term in terms] for terms, seconds in rows]
    scale = [max(row[j] for row in scaled) or 1.0 for j in range(len(scaled[0]))]
    scaled = [[value / scale[j] for j, value in enumerate(row)] for row in scaled]
    size = range(len(scale))
    gram = [[sum(row[j] * row[k] for row in scaled) for k in size] for j in size]
    wanted = [sum(row[j] for row in scaled) for j in size]
    weights = [0.0] * len(scale)
    for _ in range(_ROUNDS):
        for j in _ORDER[: len(scale)]:
            rest = sum(gram[j][k] * weights[k] for k in size if k != j)
            weights[j] = max((wanted[j] - rest) / gram[j][j], 0.0) if gram[j][j] else 0.0
    return tuple(weight / scale[j] for j, weight in enumerate(weights))


@dataclass(frozen=True, slots=True)
class Rates:
    """Fitted seconds a term of each kind of work that was ever measured for one target on this machine."""

    fitted: Mapping[Kind, tuple[float, ...]] = field(default_factory=dict)

    def of(self, kind: Kind, units: int, past: int = 0) -> float | None:
        """Return the seconds of some work, or None where it was never measured."""
        weights = self.fitted.get(kind)
        if units == 0:
            return 0.0
        return None if weights is None else sum(map(float.__mul__, weights, terms_of(kind, units, past)))

    def seconds(self, work: Work) -> float | None:
        """Return how long a restore takes, up to where the next token can be sampled; None where a rate is unknown.

        One token that is not in the cache yet is every session's next step, and no prefill.
        """
        new = work.new_tokens if work.new_tokens > 1 else 0
        parts = (
            self.of("read", work.read_bytes),
            self.of("fetch", work.fetch_bytes),
            self.of("prefill", new, work.past_tokens),
            self.of("encode", work.pictures),
        )
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


NOTHING_MEASURED = Rates()


def rate_key(kind: Kind, fingerprint: Fingerprint) -> str:
    """Name what a rate belongs to: the machine for bytes, the weights for what a model does."""
    if kind in MACHINE_KINDS:
        return kind
    part = fingerprint.weights if kind == "prefill" else fingerprint.vision_weights
    return f"{kind}:{hashlib.sha256(str(part).encode()).hexdigest()[:32]}"


def to_rows(observations: Iterable[Observation]) -> list[list[Any]]:
    """Return observations of one kind as they are remembered: JSON."""
    return [[o.units, o.seconds, o.past, o.device] for o in observations]


def from_rows(kind: Kind, rows: Any) -> list[Observation]:
    """Read remembered observations, the newest ones; what another version wrote is as good as none."""
    try:
        found = [Observation(kind, int(n), float(s), int(past), str(device)) for n, s, past, device in list(rows or [])]
    except (TypeError, ValueError, OverflowError):
        return []
    return [observation for observation in found[-2 * KEPT :] if is_sane(observation)]


def is_sane(seen: Observation) -> bool:
    """Tell whether an observation may be fitted: nothing in it makes an infinite or a negative rate."""
    return MIN_SECONDS < seen.seconds < MAX_SECONDS and 0 < seen.units <= MAX_COUNT and 0 <= seen.past <= MAX_COUNT


def rates_from(observations: Iterable[Observation]) -> Rates:
    """Fit the rates of every kind that was observed."""
    by_kind: dict[Kind, list[Observation]] = {}
    for observation in observations:
        by_kind.setdefault(observation.kind, []).append(observation)
    fitted = {kind: fit(group[-KEPT:]) for kind, group in by_kind.items()}
    return Rates({kind: weights for kind, weights in fitted.items() if weights is not None})
