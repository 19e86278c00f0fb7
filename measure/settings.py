"""What a run of the benches is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..state.errors import BadInput

SIZES = (1_000, 8_192, 32_768)  # tokens of KV cache, at 144 KiB each
USUAL_SIZES = SIZES[:1]
LEAST, MOST = 64, 262_144
JUDGED_FROM_TOKENS = USUAL_SIZES[0]  # what is fixed decides below, and no goal was set there


@dataclass(frozen=True, slots=True)
class Settings:
    """Where files go (a real disk), how long it may take, which model is run (None: what comes without a hub).

    `brief` is the usual run of a user: fewer rounds, and nobody who takes far longer than all others.
    """

    folder: Path
    quick: bool = False
    sizes: tuple[int, ...] = SIZES
    model: Path | None = None
    brief: bool = False

    def rounds(self, many: int, few: int) -> int:
        """Return how many rounds a figure takes."""
        return few if self.quick else (many + few) // 2 if self.brief else many


def parse_sizes(text: str) -> tuple[int, ...]:
    """Return the sizes that `1000,8192` names, the smallest first. Raises: BadInput."""
    found = [each.strip() for each in text.split(",")]
    if not all(each.isdecimal() and LEAST <= int(each) <= MOST for each in found):
        raise BadInput(
            f"{text[:60]!r} names no sizes", hint=f"Numbers of tokens with commas between, each {LEAST} to {MOST:,}."
        )
    return tuple(sorted({int(each) for each in found}))
