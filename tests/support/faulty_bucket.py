"""A bucket whose downloads go wrong as a test says: resets, stalls, damage, and nobody who answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torpor.state.errors import TorporError

from support.memory_bucket import MemoryBucket


@dataclass(slots=True)
class Get:
    """One request, as a fault sees it."""

    name: str
    offset: int
    number: int  # of this object's requests, from 0 on


class FaultyBucket(MemoryBucket):
    """`fault` is asked at each get: None (nothing goes wrong), an error that is raised at once, or one behind some bytes.

    `change` alters what was stored as it goes by, and `gate` is called at each piece.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fault: Callable[[Get], TorporError | tuple[int, TorporError] | None] = lambda get: None
        self.change: Callable[[Get, bytes], bytes] = lambda get, data: data
        self.gate: Callable[[Get], None] = lambda get: None
        self.gets: list[Get] = []
        self._mutex = threading.Lock()

    @contextmanager
    def get(self, name: str, *, offset: int = 0) -> Iterator[Iterator[bytes]]:
        with self._mutex:
            seen = Get(name, offset, sum(each.name == name for each in self.gets))
            self.gets.append(seen)
        fault = self.fault(seen)
        if isinstance(fault, TorporError):
            raise fault
        with super().get(name) as pieces:
            data = self.change(seen, b"".join(pieces))[offset:]
        yield self._pieces(seen, data, fault)

    def _pieces(self, seen: Get, data: bytes, fault: tuple[int, TorporError] | None) -> Iterator[bytes]:
        stop = len(data) if fault is None else min(fault[0], len(data))
        for at in range(0, stop, 64 << 10):
            self.gate(seen)
            yield data[at : min(at + (64 << 10), stop)]
        if fault is not None:
            raise fault[1]
