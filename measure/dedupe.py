"""Forks of one session: what is common is in the store once.

The session ends in half a block, so that each fork writes that block again, with its own tokens: on average a session
ends there. Everything in the home counts on our side: blobs, manifests, the index and its log.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..adapters.demo_model import Loaded
from ..adapters.transformers import TransformersSession
from ..client import Keeper
from .figures import Figure
from .page_cache import files_under
from .rig import keeper_in, scratch, timed_s
from .rounds import console
from .settings import Settings
from .workload import BLOCK_TOKENS, TOKEN_BYTES, fresh_session, go_on, load, target_of

TOKENS = 8_192
FORKS, FEW_FORKS = 20, 5
MORE_TOKENS = 64
AT_MOST = 1.1
SESSION = "forked"


@dataclass(slots=True)
class Samples:
    """What forks of a session left in the store, and what they took."""

    tokens: int
    forks: int
    home_bytes: int = 0
    fork_s: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)  # by the save of each fork, in blobs


def measure(settings: Settings) -> list[Figure]:
    """Fork a session of 8,192 tokens (or the largest size there is), let each fork go on, and save it."""
    tokens = min(TOKENS, max(settings.sizes)) + BLOCK_TOKENS // 2
    samples = Samples(tokens, settings.rounds(FORKS, FEW_FORKS))
    with scratch(settings.folder) as folder:
        with keeper_in(folder) as keeper:
            fork_all(keeper, load(), samples)
        samples.home_bytes = _size_bytes(folder / "home")  # the daemon has ended: nothing is on its way
    return figures(samples)


def fork_all(keeper: Keeper, loaded: Loaded, samples: Samples) -> None:
    """Save a session, and fork it as often as asked; each fork is woken, grows, and is saved."""
    keeper.save(SESSION, fresh_session(loaded, samples.tokens)).wait()
    target = target_of(loaded)
    names = itertools.count()
    for _ in range(samples.forks):
        name = f"{SESSION}-{next(names)}"
        with console.status(f"dedupe: {name} of {samples.forks}"):
            samples.fork_s.append(timed_s(lambda name=name: keeper.fork(SESSION, name)))  # type: ignore[misc]
            session = keeper.restore(name, target, require="full").session
            torch.seed()  # a restore brings the state of the random numbers back: all forks would go on alike
            go_on(session, MORE_TOKENS)
            samples.written.append(_saved_bytes(keeper, name, session))


def _saved_bytes(keeper: Keeper, name: str, session: TransformersSession) -> int:
    backup = keeper.save(name, session).wait()
    if backup.bytes_written < MORE_TOKENS * TOKEN_BYTES:
        raise RuntimeError(f"only {backup.bytes_written} bytes were written: this fork has no tokens of its own")
    return backup.bytes_written


def _size_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in files_under(home))


def figures(samples: Samples) -> list[Figure]:
    """Return the figures of some samples."""
    least = [float((samples.tokens + samples.forks * MORE_TOKENS) * TOKEN_BYTES)]
    sizes = [float((1 + samples.forks) * samples.tokens * TOKEN_BYTES) + samples.forks * MORE_TOKENS * TOKEN_BYTES]
    group, what = "dedupe", f"{samples.forks} forks of {samples.tokens:,} tokens, +{MORE_TOKENS} each"
    ours = [float(samples.home_bytes)]
    goal = AT_MOST if samples.tokens >= TOKENS else None  # of a short one the half block that each writes again is more
    return [
        Figure(group, f"{what}: the whole home", "B", ours, "one session + the new tokens", least, goal),
        Figure(group, f"{what}: the whole home", "B", ours, "the sum of their sizes", sizes),
        Figure(group, "the call of fork", "s", samples.fork_s),
        Figure(group, "a fork's save: bytes", "B", samples.written),
    ]
