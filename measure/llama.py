"""llama.cpp's slot save and restore against ours, a byte: at the geometry of workload.py, and on real weights.

llama.cpp keeps its KV cache as f16, ours is bf16: as many bytes. Its save asks for no fsync and no digest, its restore
checks nothing and reads into memory that the server has; a variant syncs the file behind the save, as ours does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..adapters.demo_model import Loaded
from ..adapters.transformers import TransformersSession
from ..client import Keeper
from ..client.memory import available_bytes
from . import smol, workload
from .figures import Figure
from .growth import FASTER_AT_LEAST, HALF_BLOCK, MORE_TOKENS
from .llama_model import write_gguf
from .llama_server import find_server, llama_server
from .llama_slot import Slot
from .restore import BEST_OF
from .rig import keeper_in, scratch
from .rounds import Action, Contender, console, interleave
from .save import HUGE_BYTES, LARGE_BYTES, saver
from .settings import Settings
from .workload import (
    BLOCK_TOKENS,
    HEAD_DIM,
    HEADS,
    LAYERS,
    TOKEN_BYTES,
    check_equal,
    fresh_session,
    go_on,
    target_of,
    tensors_of,
)

SMOL_TOKENS, QUICK_SMOL_TOKENS = 4_096, 1_024
TORPOR, SAVE, SYNCED, RESTORE = "torpor", "llama.cpp, not synced", "llama.cpp + fsync", "llama.cpp, not checked"
SESSION = "llama"
LATER_SAVES, FEW_LATER_SAVES = 4, 2
SPARE_TOKENS = (LATER_SAVES + 3) * MORE_TOKENS  # that the slot grows by
JUDGED_TOKENS = 32_768  # from here on a later save has to be that many times faster
_NEEDED = 3.2  # caches: theirs, ours, and the restored one


@dataclass(frozen=True, slots=True)
class Own:
    """Our side: a session with its cache, and a daemon of its own for what is restored and grows."""

    loaded: Loaded
    session: TransformersSession
    keeper: Keeper

    @property
    def kv_bytes(self) -> int:
        """Return how many bytes the cache has."""
        return sum(tensor.nbytes for tensor in tensors_of(self.session).values())

    def save(self) -> int:
        """Save it; return how many bytes were new."""
        return self.keeper.save(SESSION, self.session).wait().bytes_written


def measure(settings: Settings) -> list[Figure]:
    """Take the figures at Qwen3-VL's geometry, at every length. Raises: MissingExtra."""
    find_server()
    loaded = workload.load()
    with scratch(settings.folder) as folder:
        model = folder / "geometry.gguf"
        write_gguf(loaded, model)
        return [figure for tokens in settings.sizes for figure in _at_geometry(settings, loaded, model, tokens)]


def _at_geometry(settings: Settings, loaded: Loaded, model: Path, tokens: int) -> list[Figure]:
    if available_bytes() < _NEEDED * tokens * TOKEN_BYTES:
        console.print(f"[yellow]{tokens:,} tokens: too little memory for both sides: left out[/]")
        return []
    size_bytes = tokens * TOKEN_BYTES
    few = (2 if size_bytes >= HUGE_BYTES else 3, 1)
    rounds = settings.rounds(*few) if size_bytes >= LARGE_BYTES else settings.rounds(7, 3)
    session = fresh_session(loaded, tokens)
    with _sides(settings, loaded, session, model) as (own, slot, folder):
        slot.fill(2 * LAYERS, HEADS * HEAD_DIM * 2)
        first = partial(fresh_session, loaded, BLOCK_TOKENS)
        return [
            *_saves(own, slot, folder, first, rounds, f"{tokens:,} tokens"),
            *_restores(own, slot, rounds, f"{tokens:,} tokens"),
            *_later_saves(own, slot, settings.rounds(LATER_SAVES, FEW_LATER_SAVES), tokens),
        ]


def measure_small(settings: Settings) -> list[Figure]:
    """Take them on real weights with a small cache, both sides of the same text. Raises: MissingExtra, BadInput."""
    find_server()
    model, loaded = smol.gguf_file(settings), smol.load(settings)
    tokens = QUICK_SMOL_TOKENS if settings.quick else SMOL_TOKENS
    ids = smol.prompt_ids(loaded, tokens + 1)

    def prefilled(count: int) -> TransformersSession:
        session = smol.session_of(loaded, ids[:, : count + 1])
        session.prefill()
        return session

    with _sides(settings, loaded, prefilled(tokens), model) as (own, slot, folder):
        slot.prefill()
        rounds, what = settings.rounds(7, 3), f"{tokens:,} tokens of a small cache"
        first = partial(prefilled, BLOCK_TOKENS)
        return [*_saves(own, slot, folder, first, rounds, what), *_restores(own, slot, rounds, what)]


@contextmanager
def _sides(
    settings: Settings, loaded: Loaded, session: TransformersSession, model: Path
) -> Iterator[tuple[Own, Slot, Path]]:
    """Run both: a daemon for ours, and a server whose slot is still empty; they share a folder."""
    ids = session.token_ids[0, :-1].tolist()
    with scratch(settings.folder) as folder:
        slots = folder / "slots"
        slots.mkdir()
        with llama_server(model, slots, len(ids) + SPARE_TOKENS) as server, keeper_in(folder) as keeper:
            yield Own(loaded, session, keeper), Slot(server, slots, ids), folder


def _saves(
    own: Own, slot: Slot, folder: Path, first: Callable[[], TransformersSession], rounds: int, what: str
) -> list[Figure]:
    """Save all of it by turns, each time into new files, and tell the time of a MiB."""
    with ExitStack() as stack:
        contenders: dict[str, Contender] = {
            TORPOR: saver(stack, own.session, folder / "full", first),
            SAVE: lambda: partial(slot.save, synced=False),
            SYNCED: lambda: partial(slot.save, synced=True),
        }
        samples = interleave(
            f"llama: save of {what}",
            rounds,
            {name: partial(_cleared, slot, contender) for name, contender in contenders.items()},
            warm_up=own.kv_bytes < LARGE_BYTES,
            takes_bytes=own.kv_bytes,
        )
    return _a_mib(f"durable save of {what}, a MiB", samples, own, slot)


def _cleared(slot: Slot, contender: Contender) -> Action:
    slot.clear()
    return contender()


def _restores(own: Own, slot: Slot, rounds: int, what: str) -> list[Figure]:
    """Restore by turns with the files in the page cache, and tell the time of a MiB."""
    slot.clear()
    slot.save(synced=True)
    own.save()
    restore = partial(own.keeper.restore, SESSION, target_of(own.loaded), require="full")
    check_equal(tensors_of(restore().session), tensors_of(own.session))

    def erased() -> Action:
        slot.server.slot("erase")
        return slot.restore

    contenders: dict[str, Contender] = {TORPOR: lambda: restore, RESTORE: erased}
    samples = interleave(f"llama: restore of {what}", rounds, contenders, best_of=BEST_OF, takes_bytes=own.kv_bytes)
    slot.check(own.kv_bytes)
    return _a_mib(f"verified restore of {what}, a MiB", samples, own, slot)


def _a_mib(name: str, samples: Mapping[str, list[float]], own: Own, slot: Slot) -> list[Figure]:
    """Compare by the MiB: of the KV cache on our side, of the file on theirs."""
    a_mib = {
        who: [took_s * 1e3 / ((own.kv_bytes if who == TORPOR else slot.file_bytes) / 2**20) for took_s in taken]
        for who, taken in samples.items()
    }
    ours = a_mib.pop(TORPOR)
    return [Figure("llama", name, "ms", ours, who, taken, at_most_ratio=1.0) for who, taken in a_mib.items()]


def _later_saves(own: Own, slot: Slot, rounds: int, tokens: int) -> list[Figure]:
    """Let both grow and save, by turns; they have no other save than a whole one, and no fsync holds it up here."""
    lead = HALF_BLOCK + -tokens % BLOCK_TOKENS  # so that half a block is left at the end
    go_on(own.session, lead)
    slot.grow(lead)
    own.save()
    written: list[float] = []
    files: list[float] = []

    def ours() -> Action:
        slot.clear()
        go_on(own.session, MORE_TOKENS)
        return lambda: written.append(own.save())

    def save_slot() -> None:
        slot.save(synced=False)
        files.append(slot.file_bytes)

    def theirs() -> Action:
        slot.clear()
        slot.grow(MORE_TOKENS)
        return save_slot

    what, contenders = f"llama: later save at {tokens:,} tokens", {TORPOR: ours, SAVE: theirs}
    samples = interleave(what, rounds, contenders, takes_bytes=own.kv_bytes)
    name = f"later save, +{MORE_TOKENS} at {tokens:,} tokens"
    faster = FASTER_AT_LEAST if tokens >= JUDGED_TOKENS else None
    return [
        Figure("llama", f"{name}: bytes", "B", written[-rounds:], "llama.cpp's file", files[-rounds:]),
        Figure("llama", name, "s", samples[TORPOR], SAVE, samples[SAVE], faster_at_least=faster),
    ]
