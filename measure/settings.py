"""What a run of the benches is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SIZES = (1_000, 8_192, 32_768)  # tokens of KV cache, at 144 KiB each


@dataclass(frozen=True, slots=True)
class Settings:
    """Where files go (a real disk), how long it may take, which model is run (None: what comes without a hub)."""

    folder: Path
    quick: bool = False
    sizes: tuple[int, ...] = SIZES
    model: Path | None = None

    def rounds(self, many: int, few: int) -> int:
        """Return how many rounds a figure takes."""
        return few if self.quick else many
