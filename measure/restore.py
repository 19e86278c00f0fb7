"""Figures 2 and 3: a verified restore of 1,000 tokens, from the page cache and from the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..adapters.demo_model import Loaded
from ..adapters.transformers import TransformersTarget
from ..client import Keeper
from .figures import Figure
from .floor import Floor
from .page_cache import evict, files_under
from .peers import PIECE_BYTES, READERS, WRITERS, joined, read_raw, read_safetensors, write_raw, write_safetensors
from .rig import keeper_in, scratch
from .rounds import Action, Contender, console, interleave
from .workload import check_equal, fresh_session, target_of, tensors_of

TOKENS = 1_000
FLOOR, RAW = "copy + BLAKE3 into fresh memory", "raw cold read"
WARM_AT_MOST = {FLOOR: 2.0, "torch.load": 1.0}
COLD_AT_MOST = {RAW: 1.5}
SESSION = "restored"
BEST_OF = 3
MOST_RESIDENT = 0.01


@dataclass(frozen=True, slots=True)
class _Saved:
    """One saved session, what it was, and who wakes it."""

    folder: Path
    keeper: Keeper
    target: TransformersTarget
    tensors: dict[str, torch.Tensor]

    def restore(self) -> Any:
        """Restore once. The caller drops the session, so that the next one's memory is as fresh."""
        return self.keeper.restore(SESSION, self.target, require="full")

    def check(self) -> None:
        """Compare a restored session with the one that was saved, bit for bit."""
        check_equal(tensors_of(self.restore().session), self.tensors)


@contextmanager
def _saved(loaded: Loaded, parent: Path) -> Iterator[_Saved]:
    with scratch(parent) as folder, keeper_in(folder) as keeper:
        session = fresh_session(loaded, TOKENS)
        keeper.save(SESSION, session).wait()
        saved = _Saved(folder, keeper, target_of(loaded), tensors_of(session))
        saved.check()
        yield saved


def measure_warm(loaded: Loaded, parent: Path, rounds: int) -> list[Figure]:
    """Restore with the files in the page cache, against memory's floor and the peers."""
    with _saved(loaded, parent) as saved:
        floor = Floor(list(saved.tensors.values()))
        try:
            actions = {"torpor": saved.restore, **_memory(floor), **_warm_readers(saved)}
            contenders = {name: partial(_as_it_is, action) for name, action in actions.items()}
            samples = interleave("warm restore", rounds, contenders, best_of=BEST_OF)
        finally:
            floor.close()
    return _figures("restore", "warm restore", samples, WARM_AT_MOST)


def _as_it_is(action: Action) -> Action:
    return action


def _memory(floor: Floor) -> dict[str, Action]:
    """Return the floors: all on all cores."""
    return {
        FLOOR: floor.copy_hash_fresh,
        "copy + BLAKE3 into warm memory": floor.copy_hash_warm,
        "memcpy into fresh memory": floor.copy_fresh,
        "memcpy into warm memory": floor.copy_warm,
    }


def _warm_readers(saved: _Saved) -> dict[str, Action]:
    raw, buffer = saved.folder / "raw", memoryview(bytearray(PIECE_BYTES))
    write_raw(raw, joined(saved.tensors))
    readers: dict[str, Action] = {"raw warm read, one buffer": partial(read_raw, raw, buffer)}
    for (name, read), write in zip(READERS.items(), WRITERS.values(), strict=True):
        path = saved.folder / name.split()[0]
        write(path, saved.tensors)
        readers[name] = partial(read, path)
    return readers


def measure_cold(loaded: Loaded, parent: Path, rounds: int) -> list[Figure]:
    """Restore with nothing of the home in the page cache, against a plain read of as many bytes."""
    with _saved(loaded, parent) as saved:
        raw, other = saved.folder / "raw", saved.folder / "safetensors"
        write_raw(raw, joined(saved.tensors))
        write_safetensors(other, saved.tensors)
        buffer = memoryview(bytearray(PIECE_BYTES))
        stayed: list[float] = []
        contenders = {
            "torpor": _cold(lambda: files_under(saved.folder / "home"), saved.restore, stayed),
            RAW: _cold(lambda: [raw], partial(read_raw, raw, buffer), stayed),
            "safetensors, cloned": _cold(lambda: [other], partial(read_safetensors, other), stayed),
        }
        samples = interleave("cold restore", rounds, contenders, best_of=BEST_OF)
    if max(stayed) > MOST_RESIDENT:
        console.print(f"[bold red]not cold:[/] up to {max(stayed):.1%} of the pages stayed in the page cache")
    return _figures("cold", "cold restore", samples, COLD_AT_MOST)


def _cold(paths: Callable[[], list[Path]], action: Action, stayed: list[float]) -> Contender:
    """Evict some files before each run, and note the share of their pages that stayed."""

    def prepare() -> Action:
        stayed.append(evict(paths()))
        return action

    return prepare


def _figures(group: str, what: str, samples: dict[str, list[float]], at_most: dict[str, float]) -> list[Figure]:
    ours = samples.pop("torpor")
    name = f"{what}, {TOKENS:,} tokens"
    return [Figure(group, name, "s", ours, other, taken, at_most.get(other)) for other, taken in samples.items()]
