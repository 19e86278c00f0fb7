"""The canonical digest of a model's weights: the same from memory and from files, under any name, path or split.

Each tensor is a line of compact JSON, `["name","bfloat16",[4096,1024],"BLAKE3 of its bytes, hex"]` and a line feed;
bytes are row-major and little endian. The lines are sorted by name and digested by BLAKE3, language and vision apart.
What counts are parameters and persistent buffers (others follow from the config); a tensor that is tied to another one
is left out where both have the same bytes, since files carry it or not as their writer liked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson
from blake3 import blake3

from ..state.fingerprint import NONE

_VISION = frozenset(("visual", "vision_tower", "vision_model", "multi_modal_projector"))


@dataclass(frozen=True, slots=True)
class WeightLine:
    """One tensor: its name in the model, dtype and shape, and the digest of its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    digest: str

    def same_content(self, other: WeightLine) -> bool:
        """Tell whether two tensors hold the same."""
        return (self.dtype, self.shape, self.digest) == (other.dtype, other.shape, other.digest)


@dataclass(frozen=True, slots=True)
class WeightDigests:
    """The digests of the language part and of the vision tower (`none` without one)."""

    language: str
    vision: str


def weight_digests(lines: Iterable[WeightLine], ties: Mapping[str, str]) -> WeightDigests:
    """Digest a whole model. `ties` names for each tensor that may be tied the one that it may be tied to."""
    left = without_ties({line.name: line for line in lines}, ties)
    language = [line for name, line in left.items() if not is_vision(name)]
    vision = [line for name, line in left.items() if is_vision(name)]
    return WeightDigests(lines_digest(language), lines_digest(vision) if vision else NONE)


def without_ties(lines: Mapping[str, WeightLine], ties: Mapping[str, str]) -> dict[str, WeightLine]:
    """Leave out what is tied: a copy of its source, or the one that stands for a source that is not there."""
    left = dict(lines)
    for target in ties:
        source = _first_source(target, ties)
        if target not in left or target == source:
            continue
        if source not in left:
            moved = left.pop(target)
            left[source] = WeightLine(source, moved.dtype, moved.shape, moved.digest)
        elif left[target].same_content(left[source]):
            del left[target]
    return left


def _first_source(name: str, ties: Mapping[str, str]) -> str:
    seen = set()
    while name in ties and name not in seen:
        seen.add(name)
        name = ties[name]
    return name


def lines_digest(lines: Iterable[WeightLine]) -> str:
    """Return the BLAKE3 digest of some lines in canonical order."""
    total = blake3()
    for line in sorted(lines, key=lambda line: line.name):
        total.update(orjson.dumps((line.name, line.dtype, line.shape, line.digest)) + b"\n")
    return total.hexdigest()


def is_vision(name: str) -> bool:
    """Tell whether a tensor belongs to the vision tower."""
    return not _VISION.isdisjoint(name.split("."))
