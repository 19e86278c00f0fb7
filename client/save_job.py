"""What a save is once it was captured: its job, its handle, and those that are committed together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..codec import tree
from ..state.backup import Backup
from ..state.block_keys import TokenRow
from ..state.errors import Timeout, TorporError
from ..state.fingerprint import Fingerprint
from ..state.manifest import BlobRef, GroupRef, LayerName
from ..state.rates import Observation
from .capture import SessionSource
from .kv_save import KnownBlocks, KVJob
from .own_process import OwnProcess

T = TypeVar("T")


class Started(Generic[T]):
    """Something that goes on in the background."""

    def __init__(self, what: str) -> None:
        self._what, self._process = what, OwnProcess(what)
        self._process.claim()
        self.started = time.perf_counter()
        self.stall_s = 0.0  # how long the caller was held
        self._future: Future[T] = Future()

    def wait(self, timeout_s: float | None = None) -> T:
        """Wait until it is durable and committed. Raises: Timeout, and whatever the save failed with."""
        self._process.claim()
        try:
            return self._future.result(timeout_s)
        except FutureTimeout as error:
            if self._future.done():  # in the very moment
                return self._future.result()
            raise Timeout(f"{self._what} is still being written") from error

    def done(self) -> bool:
        """Tell whether it has ended, well or not."""
        return self._future.done()

    def finish(self, result: T) -> None:
        """Note the result."""
        self._future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Note the failure."""
        self._future.set_exception(error)


class SaveHandle(Started[Backup]):
    """A save that was started. The session may go on; what it does from now on is not part of this backup."""

    def __init__(self, backup_id: str, session_id: str) -> None:
        super().__init__(f"backup {backup_id}")
        self.backup_id, self.session_id = backup_id, session_id
        self.snapshot = "none"  # how the KV cache was captured: copied, held, followed
        self.messages: int | None = None  # of the conversation; None where nobody can count them


@dataclass(slots=True)
class SaveJob:
    """Everything that a save needs once `save` has returned."""

    handle: SaveHandle
    adapter: str
    created_at: float
    tokens: int
    trees: dict[LayerName, tree.EncodedTree]
    fingerprint: Callable[[], Fingerprint]
    omitted: dict[str, str]
    media_spans: tuple[tuple[int, int], ...] = ()
    observations: Sequence[Observation] = ()
    row: Callable[[], TokenRow | None] = lambda: None
    kv: KVJob | None = None
    known: KnownBlocks | None = None  # in place of `kv`: a small save writes none
    group: GroupRef | None = None
    parent_id: str | None = None
    lost: TorporError | None = None  # why the KV cache could not even be captured
    written: list[BlobRef] = field(default_factory=list)
    futures: list[Future[BlobRef]] = field(default_factory=list)
    fingerprint_future: Future[Fingerprint] | None = None
    stored: list[tuple[tree.Leaf, list[BlobRef]]] = field(default_factory=list)

    def known_fingerprint(self) -> Fingerprint:
        """Return the fingerprint that the save went with. Only once it is committed."""
        assert self.fingerprint_future is not None
        return self.fingerprint_future.result()

    def drop(self) -> None:
        """Give back what the capture holds: this job will not be run."""
        if self.kv is not None:
            self.kv.finish(None)


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that are committed together, the sessions they are of, and whom to tell."""

    jobs: Sequence[SaveJob]
    sources: Sequence[SessionSource]
    finish: Callable[[list[Backup]], None]
    fail: Callable[[BaseException], None]
