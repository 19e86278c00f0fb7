"""Figures 2 and 3: a verified restore, from the page cache and from the disk, at several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..adapters.transformers import TransformersTarget
from ..client import Keeper
from ..client.memory import available_bytes
from .figures import Figure
from .floor import Floor
from .page_cache import bring, evict, files_under
from .peers import PIECE_BYTES, READERS, WRITERS, joined, read_raw, read_safetensors, write_raw, write_safetensors
from .raw_reads import fastest, read_all
from .rig import keeper_in, scratch
from .rounds import Action, Contender, console, interleave
from .settings import JUDGED_FROM_TOKENS, Settings
from .workload import TOKEN_BYTES, check_equal, fresh_session, load, target_of, tensors_of

FLOOR, HUGE = "copy + BLAKE3 into fresh memory", "copy + BLAKE3 into fresh huge pages"
RAW = "raw cold read, best queue depth"
WARM_AT_MOST = {FLOOR: 1.25, HUGE: 1.25, "torch.load": 1.0, "safetensors, cloned": 1.0}
COLD_AT_MOST = {RAW: 1.15, "safetensors, cloned": 1.0}
SESSION = "restored"
BEST_OF = 3
MOST_RESIDENT = MOST_AWAY = 0.01
LARGE_TOKENS = 8_192  # from here on one run of a contender takes long enough to be a sample, and rounds are few
_TAKEN_WARM, _TAKEN_COLD = 1.0, 2.0  # caches: one that is filled, and one of pages for what is read
_PEERS_NEED = 2.5  # caches: one that is filled, the reader's own, and what else it holds of it


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


@dataclass(frozen=True, slots=True)
class _Reader:
    """What reads a cache back, and the files that it reads."""

    files: Callable[[], list[Path]]
    read: Action


@contextmanager
def _saved(settings: Settings, tokens: int) -> Iterator[_Saved]:
    loaded = load()
    with scratch(settings.folder) as folder, keeper_in(folder) as keeper:
        session = fresh_session(loaded, tokens)
        keeper.save(SESSION, session).wait()
        saved = _Saved(folder, keeper, target_of(loaded), tensors_of(session))
        saved.check()
        yield saved


def _rounds(settings: Settings, tokens: int) -> int:
    if tokens >= LARGE_TOKENS:
        return settings.rounds(4, 1)
    return settings.rounds(9, 3)


def measure_warm(settings: Settings) -> list[Figure]:
    """Restore with the files in the page cache, against memory's floor and the peers."""
    return [figure for tokens in settings.sizes for figure in _warm(settings, tokens)]


def _warm(settings: Settings, tokens: int) -> list[Figure]:
    away: list[float] = []
    with _saved(settings, tokens) as saved:
        floor = Floor(list(saved.tensors.values()))
        try:
            readers = {"torpor": _Reader(lambda: files_under(saved.folder / "home"), saved.restore)}
            readers |= _peers(saved, tokens, with_slow=not settings.brief)
            contenders: dict[str, Contender] = {
                **{name: _warm_alone(name, readers, away) for name in readers},
                **{name: partial(_as_it_is, action) for name, action in _memory(floor, tokens).items()},
            }
            rounds, taken = _rounds(settings, tokens), int(_TAKEN_WARM * tokens * TOKEN_BYTES)
            samples = interleave(
                "warm restore", rounds, contenders, best_of=BEST_OF, warm_up=tokens < LARGE_TOKENS, takes_bytes=taken
            )
        finally:
            floor.close()
    if max(away) > MOST_AWAY:
        console.print(f"[bold red]not warm:[/] up to {max(away):.1%} of the pages were not in the page cache")
    return _figures("restore", "warm restore", tokens, samples, WARM_AT_MOST)


def _as_it_is(action: Action) -> Action:
    return action


def _memory(floor: Floor, tokens: int) -> dict[str, Action]:
    """Return the floors, all on all cores; those that hold touched memory for small caches alone."""
    fresh: dict[str, Action] = {FLOOR: floor.copy_hash_fresh, HUGE: floor.copy_hash_huge}
    if tokens >= LARGE_TOKENS:
        return fresh
    return {
        **fresh,
        "copy + BLAKE3 into warm memory": floor.copy_hash_warm,
        "memcpy into fresh memory": floor.copy_fresh,
        "memcpy into warm memory": floor.copy_warm,
    }


def _peers(saved: _Saved, tokens: int, *, with_slow: bool) -> dict[str, _Reader]:
    raw, buffer = saved.folder / "raw", memoryview(bytearray(PIECE_BYTES))
    if not _room_for_peers(tokens):
        return {}
    write_raw(raw, joined(saved.tensors))
    found = {"raw warm read, one buffer": _Reader(lambda: [raw], partial(read_raw, raw, buffer))}
    for (name, read), write in zip(READERS.items(), WRITERS.values(), strict=True):
        if name == "v1 file" and not (with_slow and tokens < LARGE_TOKENS):
            continue  # seconds, and minutes of a large one
        path = saved.folder / name.split()[0]
        write(path, saved.tensors)
        found[name] = _Reader(partial(list, [path]), partial(read, path))
    return found


def _room_for_peers(tokens: int) -> bool:
    if available_bytes() >= _PEERS_NEED * tokens * TOKEN_BYTES:
        return True
    console.print(f"[yellow]{tokens:,} tokens: too little memory for the peers: left out[/]")
    return False


def measure_cold(settings: Settings) -> list[Figure]:
    """Restore with nothing of the home in the page cache, against the fastest read of as many bytes."""
    return [figure for tokens in settings.sizes for figure in _cold(settings, tokens)]


def _cold(settings: Settings, tokens: int) -> list[Figure]:
    rounds = _rounds(settings, tokens)
    with _saved(settings, tokens) as saved:
        raw, other = saved.folder / "raw", saved.folder / "safetensors"
        write_raw(raw, joined(saved.tensors))
        write_safetensors(other, saved.tensors)
        way, medians = fastest(raw, min(rounds, 3))
        speeds = ", ".join(f"{w} {tokens * TOKEN_BYTES / took_s / 1e9:.1f}" for w, took_s in medians.items())
        console.print(f"[dim]raw cold read of {tokens:,} tokens, GB/s: {speeds}[/]", highlight=False)
        stayed: list[float] = []
        contenders = {
            "torpor": _evicted(lambda: files_under(saved.folder / "home"), saved.restore, stayed),
            RAW: _evicted(lambda: [raw], partial(read_all, raw, way), stayed),
            "safetensors, cloned": _evicted(lambda: [other], partial(read_safetensors, other), stayed),
        }
        taken = int(_TAKEN_COLD * tokens * TOKEN_BYTES)
        samples = interleave(
            "cold restore", rounds, contenders, best_of=BEST_OF, warm_up=tokens < LARGE_TOKENS, takes_bytes=taken
        )
    if max(stayed) > MOST_RESIDENT:
        console.print(f"[bold red]not cold:[/] up to {max(stayed):.1%} of the pages stayed in the page cache")
    return _figures("cold", "cold restore", tokens, samples, COLD_AT_MOST)


def _warm_alone(name: str, readers: Mapping[str, _Reader], away: list[float]) -> Contender:
    """Bring one reader's files into the page cache before each run, without those of the others; note what is away.

    Large files do not fit side by side, and those that were read more often push out the newest.
    """

    def prepare() -> Action:
        evict(path for other, reader in readers.items() if other != name for path in reader.files())
        away.append(bring(readers[name].files()))
        return readers[name].read

    return prepare


def _evicted(paths: Callable[[], list[Path]], action: Action, stayed: list[float]) -> Contender:
    """Evict some files before each run, and note the share of their pages that stayed."""

    def prepare() -> Action:
        stayed.append(evict(paths()))
        return action

    return prepare


def _figures(
    group: str, what: str, tokens: int, samples: dict[str, list[float]], at_most: dict[str, float]
) -> list[Figure]:
    ours, name = samples.pop("torpor"), f"{what}, {tokens:,} tokens"
    at_most = at_most if tokens >= JUDGED_FROM_TOKENS else {}
    return [Figure(group, name, "s", ours, other, taken, at_most.get(other)) for other, taken in samples.items()]
