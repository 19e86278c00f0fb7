"""A slot of llama.cpp's server: filled, grown, saved to a file and brought back."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from .llama_server import LlamaServer
from .rig import settle
from .rounds import console
from .slot_file import widened

FILE = "slot.bin"
SHORT_TOKENS = 61  # a number that nothing else in the head of such a file has
SIZE_AT_MOST = 1.01  # of the KV cache: ids and positions


@dataclass(slots=True)
class Slot:
    """The slot with some ids, what it says next, and what its last save wrote."""

    server: LlamaServer
    folder: Path
    ids: list[int]
    next_token: list[int] = field(default_factory=list)
    file_bytes: int = 0

    def prefill(self) -> None:
        """Have the server hold the ids; what it has already is not computed again."""
        self.next_token = self.server.prompt(self.ids)["tokens"]

    def fill(self, tensors: int, row_bytes: int) -> None:
        """Have it hold the ids at once, from a file laid out after that of a few of them; else by a prefill."""
        held, path = self.ids[:SHORT_TOKENS], self.folder / FILE
        self.server.prompt(held)
        self.save(synced=False)
        try:
            pieces = widened(path.read_bytes(), held, self.ids, tensors, row_bytes)
            self.clear()
            with path.open("xb") as file:
                file.writelines(pieces)
            self.restore()
        except (ValueError, RuntimeError) as error:
            console.print(f"[yellow]llama-server lays its slots out otherwise ({error}): it computes the tokens[/]")
        self.prefill()

    def grow(self, tokens: int) -> None:
        """Let it become longer, by ids that it has seen."""
        self.ids = self.ids + self.ids[:tokens]
        self.prefill()

    def save(self, *, synced: bool) -> None:
        """Save it, as the server does, or have the file on the disk, too."""
        self.file_bytes = int(self.server.slot("save", filename=FILE)["n_written"])
        if synced:
            fd = os.open(self.folder / FILE, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def clear(self) -> None:
        """Remove the file, so that the next save writes a new one and nobody else's fsync pays for this one."""
        (self.folder / FILE).unlink(missing_ok=True)
        settle(self.folder)

    def restore(self) -> None:
        """Bring it back."""
        self.server.slot("restore", filename=FILE)

    def check(self, kv_bytes: int) -> None:
        """Raise unless the file has the bytes of the cache, and what was restored goes on at once, as it did before."""
        if not kv_bytes < self.file_bytes <= kv_bytes * SIZE_AT_MOST:
            raise RuntimeError(f"llama-server wrote {self.file_bytes} bytes for a cache of {kv_bytes}")
        answer = self.server.prompt(self.ids)
        computed, tokens = answer["timings"]["prompt_n"], answer["tokens"]
        if computed > 1 or tokens != self.next_token:
            raise RuntimeError(f"llama-server computed {computed} tokens again and said {tokens}")
