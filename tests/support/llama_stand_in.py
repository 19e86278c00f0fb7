"""What llama.cpp's server does with a slot, as far as a figure sees it: it says what it computes, and writes files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from torpor.measure.llama_server import LlamaServer

Layout = Callable[[list[int]], bytes]
TENSORS, ROW_BYTES = 4, 2048


def words(*numbers: int) -> bytes:
    return numpy.array(numbers, dtype="<i4").tobytes()


def slot_file(ids: list[int], tensors: int = TENSORS, row_bytes: int = ROW_BYTES) -> bytes:
    """Lay ids out as version 4 does; a row says which of the first 61 places it was made for."""
    count = len(ids)
    head = words(0x67677371, 4, count + 4, -1, 1, count, *ids, 0, 1, count)
    cells = b"".join(words(position, 1, 0) for position in range(count))
    rows = b"".join(bytes([position % 61]) * row_bytes for position in range(count))
    return head + cells + words(0, tensors // 2) + (words(1, row_bytes, 0) + rows) * tensors


@dataclass(frozen=True, slots=True)
class StandIn(LlamaServer):
    """A server that holds ids, and computes those only that it does not hold."""

    folder: Path = Path()
    layout: Layout = slot_file
    held: list[int] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)

    def prompt(self, ids: list[int]) -> dict[str, Any]:
        known = next((i for i, (a, b) in enumerate(zip(self.held, ids, strict=False)) if a != b), len(self.held))
        count = max(len(ids) - known, 1)
        self.computed.append(count)
        self.held[:] = ids
        return {"timings": {"prompt_n": count}, "tokens": [sum(ids) % 97]}

    def slot(self, action: str, **body: str) -> dict[str, Any]:
        if action == "erase":
            self.held.clear()
            return {}
        path = self.folder / body["filename"]
        if action == "save":
            return {"n_written": path.write_bytes(self.layout(self.held))}
        data = path.read_bytes()
        count = int(numpy.frombuffer(data[20:24], dtype="<i4")[0])
        ids = numpy.frombuffer(data[24 : 24 + 4 * count], dtype="<i4").tolist()
        if self.layout(ids) != data:
            raise RuntimeError("llama-server answered 400")
        self.held[:] = ids
        return {"n_restored": count}
