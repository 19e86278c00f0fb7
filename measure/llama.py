"""llama.cpp's slot save and restore against ours, per byte: the same weights, the same text, as many tokens.

llama.cpp keeps its KV cache as f16, transformers as bf16: as many bytes. Its save asks for no fsync and no digest, its
restore checks nothing; a variant syncs the file behind the save, as ours does.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from ..adapters.demo_model import Loaded
from ..adapters.transformers import TransformersSession
from ..client import Keeper
from . import smol
from .figures import Figure
from .llama_server import LlamaServer, find_server, llama_server
from .rig import keeper_in, scratch
from .rounds import Action, Contender, console, interleave
from .settings import Settings
from .workload import check_equal, target_of, tensors_of

TOKENS, QUICK_TOKENS = 4_096, 1_024
TORPOR, SAVE, SYNCED, RESTORE = "torpor", "llama.cpp, not synced", "llama.cpp + fsync", "llama.cpp, not checked"
FILE = "slot.bin"


@dataclass(slots=True)
class Rival:
    """The server with a prompt in its slot, and what its saves wrote."""

    server: LlamaServer
    slots: Path
    ids: list[int]
    next_token: list[int]
    file_bytes: int = 0

    def save(self, *, synced: bool) -> None:
        """Save the slot."""
        self.file_bytes = int(self.server.slot("save", filename=FILE)["n_written"])
        if synced:
            self.sync()

    def sync(self) -> None:
        """Have the file on the disk, so that nobody else's fsync pays for it."""
        fd = os.open(self.slots / FILE, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def restore(self) -> None:
        """Bring the slot back."""
        self.server.slot("restore", filename=FILE)

    def check(self) -> None:
        """Raise unless what was restored goes on at once, with the token that came before."""
        answer = self.server.prompt(self.ids)
        computed, tokens = answer["timings"]["prompt_n"], answer["tokens"]
        if computed > 1 or tokens != self.next_token:
            raise RuntimeError(f"llama-server computed {computed} tokens again and said {tokens}")


@dataclass(slots=True)
class Own:
    """Our side: a real cache of as many tokens, and a daemon."""

    loaded: Loaded
    keeper: Keeper
    session: TransformersSession
    kv_bytes: int
    numbers: Any = field(default_factory=itertools.count)

    def prepare_save(self) -> Action:
        """Return a full save of a cache in which no block is like one that was saved before."""
        number = next(self.numbers)
        session = _like(self.session, number)

        def save() -> None:
            if self.keeper.save(f"llama-{number}", session).wait().bytes_written < self.kv_bytes:
                raise RuntimeError("this was no full save")

        return save


def measure(settings: Settings) -> list[Figure]:
    """Save and restore with both. Raises: MissingExtra, BadInput."""
    find_server()
    gguf, loaded = smol.gguf_file(settings), smol.load(settings)
    tokens = QUICK_TOKENS if settings.quick else TOKENS
    ids = smol.prompt_ids(loaded, tokens + 1)
    with scratch(settings.folder) as folder:
        slots = folder / "slots"
        slots.mkdir()
        with (
            llama_server(gguf, slots, tokens + 64) as server,
            keeper_in(folder) as keeper,
            console.status(f"llama: {tokens:,} tokens are prefilled by both"),
        ):
            own = own_side(loaded, keeper, ids)
            rival = rival_side(server, slots, ids[0, :-1].tolist())
            return llama_figures(own, rival, settings.rounds(7, 3), tokens)


def own_side(loaded: Loaded, keeper: Keeper, ids: torch.Tensor) -> Own:
    """Prefill a text, all but its last token."""
    session = smol.session_of(loaded, ids)
    session.prefill()
    kv_bytes = sum(tensor.nbytes for tensor in tensors_of(session).values())
    return Own(loaded, keeper, session, kv_bytes)


def rival_side(server: LlamaServer, slots: Path, ids: list[int]) -> Rival:
    """Have the server prefill some ids."""
    return Rival(server, slots, ids, server.prompt(ids)["tokens"])


def _like(session: TransformersSession, number: int) -> TransformersSession:
    """Return a session with a copy of the cache, in which every block differs by one number from all others."""
    cache = DynamicCache(config=session.model.config.get_text_config())
    for layer, held in enumerate(session.cache.layers):
        keys = held.keys.clone()
        keys[:, :, ::64, 0] = number
        cache.update(keys, held.values.clone(), layer)
    copy = smol.session_of(Loaded(session.model, session.tokenizer, session.processor), session.token_ids)
    copy.cache = cache
    return copy


def llama_figures(own: Own, rival: Rival, rounds: int, tokens: int) -> list[Figure]:
    """Save by turns, then restore by turns, and tell the time of a MiB."""

    def theirs(action: Callable[[], None]) -> Contender:
        def prepare() -> Action:
            if (rival.slots / FILE).exists():
                rival.sync()
            return action

        return prepare

    saves = interleave(
        "llama: save",
        rounds,
        {
            TORPOR: own.prepare_save,
            SAVE: theirs(lambda: rival.save(synced=False)),
            SYNCED: theirs(lambda: rival.save(synced=True)),
        },
    )
    rival.sync()
    target = target_of(own.loaded)
    own.keeper.save("llama", own.session).wait()
    check_equal(tensors_of(own.keeper.restore("llama", target, require="full").session), tensors_of(own.session))

    def erased() -> Action:
        rival.server.slot("erase")
        return rival.restore

    restores = interleave(
        "llama: restore",
        rounds,
        {TORPOR: lambda: lambda: own.keeper.restore("llama", target, require="full"), RESTORE: erased},
    )
    rival.check()
    sizes = {TORPOR: own.kv_bytes, SAVE: rival.file_bytes, SYNCED: rival.file_bytes, RESTORE: rival.file_bytes}
    return [
        *_compared(f"durable save of {tokens:,} tokens, a MiB", saves, sizes),
        *_compared(f"verified restore of {tokens:,} tokens, a MiB", restores, sizes),
    ]


def _compared(name: str, samples: Mapping[str, list[float]], sizes: Mapping[str, int]) -> list[Figure]:
    a_mib = {who: [took_s * 1e3 / (sizes[who] / 2**20) for took_s in taken] for who, taken in samples.items()}
    ours = a_mib.pop(TORPOR)
    return [Figure("llama", name, "ms", ours, who, taken, at_most_ratio=1.0) for who, taken in a_mib.items()]
