"""Run code that talks to a bucket one request at a time: who goes next, and what becomes of the request, is decided outside."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

from torpor.state.errors import Offline
from torpor.sync.bucket import ObjectInfo

from support.memory_bucket import MemoryBucket, MemoryServer, Stored

# go: done and answered. lose: done, the answer is lost. drop: not done, no answer. late: no answer now, done some day.
# kill: the process dies before the request goes. kill-behind: it dies when the request is done.
Fate = Literal["go", "lose", "drop", "late", "kill", "kill-behind"]


class Killed(BaseException):
    """The process is gone."""


class Actor:
    """A thread that stops before each request, until it is told to go on. Only one thread of all runs at a time."""

    def __init__(self, work: Callable[[Actor], Any]) -> None:
        self._go, self._back = threading.Lock(), threading.Lock()  # each released by the other side
        self._go.acquire()
        self._back.acquire()
        self._fate: Fate = "go"
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.at: tuple[str, str] = ("begin", "")
        self.done, self.dead = False, False
        self.result: Any = None
        self.error: BaseException | None = None
        self.late: list[Callable[[], None]] = []
        self._thread.start()

    def _run(self, work: Callable[[Actor], Any]) -> None:
        self._go.acquire()
        try:
            if not self.dead:
                self.result = work(self)
        except BaseException as error:
            self.error = error
        self.done = True
        self._back.release()

    def step(self, fate: Fate = "go") -> None:
        """Let the request that it stands before have its fate, and everything up to the next one."""
        assert not self.done
        self._fate = fate
        if fate == "kill":
            self.dead = True
        self._go.release()
        self._back.acquire()
        if self.done:
            self._thread.join()

    def finish(self) -> Any:
        while not self.done:
            self.step()
        return self.result

    def request(self, operation: str, name: str, perform: Callable[[], Any]) -> Any:
        if self.dead:
            raise Killed
        self.at = (operation, name)
        self._back.release()
        self._go.acquire()
        fate = self._fate
        if fate == "late" and operation in ("put", "delete"):
            self.late.append(perform)
        elif fate not in ("kill", "drop", "late"):
            result = perform()
        if fate == "kill-behind":
            self.dead = True
        if self.dead:
            raise Killed
        if fate != "go":
            raise Offline(f"{operation} {name}: no answer")
        return result


class SteppedBucket(MemoryBucket):
    """A bucket whose requests, each page of a listing among them, wait for their turn."""

    def __init__(self, server: MemoryServer, actor: Actor) -> None:
        super().__init__(server)
        self._plain, self._actor = MemoryBucket(server), actor

    def put(self, name: str, body: BinaryIO, size_bytes: int, *, only_new: bool = False) -> None:
        data = body.read(size_bytes)
        self._actor.request("put", name, lambda: self._plain.put(name, io.BytesIO(data), size_bytes, only_new=only_new))

    @contextmanager
    def get(self, name: str, *, offset: int = 0) -> Iterator[Iterator[bytes]]:
        stored: Stored = self._actor.request("get", name, lambda: self._plain._stored(name, "get"))
        yield iter([stored.data[offset:]])

    def head(self, name: str) -> ObjectInfo:
        found: ObjectInfo = self._actor.request("head", name, lambda: self._plain.head(name))
        return found

    def delete(self, name: str) -> None:
        self._actor.request("delete", name, lambda: self._plain.delete(name))

    def now(self) -> float:
        return float(self._actor.request("now", "", self._plain.now))

    def _page(self, prefix: str, behind: str | None) -> list[tuple[str, Stored]]:
        found: list[tuple[str, Stored]] = self._actor.request("list", prefix, lambda: self._plain._page(prefix, behind))
        return found
