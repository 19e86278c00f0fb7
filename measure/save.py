"""Figure 1: a full save of 1,000 tokens, durable and committed, against writing the same bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..adapters.demo_model import Loaded
from ..client import Keeper
from .figures import Figure
from .peers import WRITERS, joined, write_raw
from .rig import keeper_in, scratch
from .rounds import Action, Contender, interleave
from .workload import TOKEN_BYTES, fresh_session, tensors_of

T = TypeVar("T")
TOKENS = 1_000
RAW = "raw write + fsync"
AT_MOST = 1.25


def measure(loaded: Loaded, parent: Path, rounds: int) -> list[Figure]:
    """Save with torpor and with every peer, round by round; nothing is deleted before the end."""
    tensors = tensors_of(fresh_session(loaded, TOKENS))
    data = joined(tensors)
    with scratch(parent) as folder, keeper_in(folder) as keeper:
        contenders = {
            "torpor": _saver(keeper, loaded),
            RAW: _writer(folder, "raw", write_raw, data),
        }
        for name, write in WRITERS.items():
            contenders[name] = _writer(folder, name.split()[0], write, tensors)
        samples = interleave("full save", rounds, contenders)
    ours = samples.pop("torpor")
    return [
        Figure("save", f"full save, {TOKENS:,} tokens", "s", ours, name, taken, AT_MOST if name == RAW else None)
        for name, taken in samples.items()
    ]


def _saver(keeper: Keeper, loaded: Loaded) -> Contender:
    numbers = itertools.count()

    def prepare() -> Action:
        session = fresh_session(loaded, TOKENS)
        name = f"full-{next(numbers)}"

        def save() -> None:
            backup = keeper.save(name, session).wait()
            if backup.bytes_written < TOKENS * TOKEN_BYTES:
                raise RuntimeError(f"only {backup.bytes_written} bytes were written: this was no full save")

        return save

    return prepare


def _writer(folder: Path, name: str, write: Callable[[Path, T], None], what: T) -> Contender:
    numbers = itertools.count()

    def prepare() -> Action:
        return partial(write, folder / f"{name}-{next(numbers)}", what)

    return prepare
