"""Figures 4 and 5: the save after 64 more tokens of a long session, and how long a save holds its caller."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..adapters.demo_model import Loaded
from ..adapters.transformers import TransformersSession
from ..client import Keeper, SaveHandle
from ..state.backup import Backup
from .figures import Figure
from .peers import joined, write_raw
from .rig import keeper_in, scratch
from .rounds import console, seconds
from .workload import BLOCK_TOKENS, TOKEN_BYTES, fresh_session, go_on, tensors_of

TOKENS = 4_096 + 32  # 580.5 MiB, and half a block at the end, which the next save writes again
MORE_TOKENS = 64
LATER_SAVES = 3  # a round: one first save, then these
BYTES_AT_MOST, BYTES_SLACK = 1.05, 128 << 10
TIME_AT_MOST = 1 / 20
STALL_AT_MOST_S = 0.010


@dataclass(slots=True)
class _Samples:
    full_s: list[float] = field(default_factory=list)
    first_stall_s: list[float] = field(default_factory=list)
    later_s: list[float] = field(default_factory=list)
    later_stall_s: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)
    expected: list[float] = field(default_factory=list)
    raw_s: list[float] = field(default_factory=list)


def measure(loaded: Loaded, parent: Path, rounds: int) -> list[Figure]:
    """Each round saves a session that no save has seen, then lets it grow and saves it again a few times."""
    samples = _Samples()
    with scratch(parent) as folder, keeper_in(folder) as keeper, console.status("") as status:
        for number in range(-1, rounds):  # the first round is not counted
            status.update(f"growing session: round {max(number, 0) + 1} of {rounds}")
            _round(loaded, keeper, folder, number, samples if number >= 0 else _Samples())
    return list(_figures(samples))


def _round(loaded: Loaded, keeper: Keeper, folder: Path, number: int, samples: _Samples) -> None:
    session = fresh_session(loaded, TOKENS)
    name = f"growth-{number + 1}"
    full_s, handle, _ = _save(keeper, name, session)
    samples.first_stall_s.append(handle.stall_s)
    for later in range(LATER_SAVES):
        partial_tokens = (session.token_ids.shape[-1] - 1) % BLOCK_TOKENS
        go_on(session, MORE_TOKENS)
        took_s, handle, backup = _save(keeper, name, session)
        samples.full_s.append(full_s)
        samples.later_s.append(took_s)
        samples.later_stall_s.append(handle.stall_s)
        samples.written.append(backup.bytes_written)
        samples.expected.append((MORE_TOKENS + partial_tokens) * TOKEN_BYTES)
        samples.raw_s.append(_raw_s(session, folder / f"raw-{number + 1}-{later}", MORE_TOKENS + partial_tokens))


def _save(keeper: Keeper, name: str, session: TransformersSession) -> tuple[float, SaveHandle, Backup]:
    gc.collect()
    started = time.perf_counter()
    handle = keeper.save(name, session)
    backup = handle.wait()
    return time.perf_counter() - started, handle, backup


def _raw_s(session: TransformersSession, path: Path, tokens: int) -> float:
    data = joined({name: tensor[:, :, -tokens:] for name, tensor in tensors_of(session).items()})
    gc.collect()
    return seconds(lambda: write_raw(path, data))


def _figures(samples: _Samples) -> Iterator[Figure]:
    yield Figure(
        "growth", "later save, bytes written", "B", samples.written, "new KV + old partial block", samples.expected,
        BYTES_AT_MOST, slack=BYTES_SLACK,
    )  # fmt: skip
    # The full save is of the session before it grew: a little less than a full save now would be.
    full = f"full save of {TOKENS:,} tokens"
    yield Figure("growth", "later save", "s", samples.later_s, full, samples.full_s, TIME_AT_MOST)
    yield Figure("growth", "later save", "s", samples.later_s, "raw write + fsync of the new bytes", samples.raw_s)
    yield Figure("stall", "caller held, first save", "s", samples.first_stall_s, at_most=STALL_AT_MOST_S)
    yield Figure("stall", "caller held, later saves", "s", samples.later_stall_s, at_most=STALL_AT_MOST_S)
