"""The SDK's side of the channel: a thread that asks the daemon for work, and does it with the sessions at hand.

The daemon may be away for days: it is looked for again and again, ever more seldom, and found when it is back.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import orjson
from ulid import ULID

from ..state.errors import SessionNotFound, TooLarge, TorporError, Unavailable
from ..state.ids import parse_session_id
from ..state.problems import to_problem
from .api import Api
from .backup_desk import BackupDesk
from .own_process import OwnProcess
from .provider import Named, Provider

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
POLL_S = 25.0
AT_ONCE = 4  # a plan need not wait for a long save
CLOSE_S = 5.0
MAX_SESSIONS, MAX_NAME = 1000, 80
_JSON = {"Content-Type": "application/json"}
log = logging.getLogger("torpor.attach")

Work = dict[str, Any]


class Attachment:
    """A process that does what it is asked over the daemon, until it is closed. Made by `keeper.attach`."""

    def __init__(self, desk: BackupDesk, name: str | None, ended: Callable[[Attachment], None]) -> None:
        self._desk, self._name, self._ended = desk, name or process_name(), ended
        self._path = f"/v1/attached/{ULID()}"
        self._process = OwnProcess("this attachment")
        self._process.claim()
        self._closing, self._connected = threading.Event(), threading.Event()
        self._lock, self._busy = threading.Lock(), dict[str, threading.Thread]()
        self._turns = threading.Semaphore(AT_ONCE)
        self._announced: tuple[str, ...] | None = None
        atexit.register(self.close)  # a thread that frees tensors must end before the interpreter
        self._thread = threading.Thread(target=self._loop, name="torpor-attached", daemon=True)
        self._thread.start()

    @property
    def _api(self) -> Api:
        return self._desk.keeper.api

    @property
    def connected(self) -> bool:
        """Whether the daemon knows of this process now."""
        return self._connected.is_set()

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait until the daemon knows of this process."""
        return self._connected.wait(timeout_s)

    def close(self) -> None:
        """Detach; what is being done is finished first, as far as that takes a few seconds."""
        if self._process.is_elsewhere() or self._closing.is_set():
            return
        self._closing.set()
        with suppress(TorporError):  # who is gone need not be told
            self._api.call("DELETE", self._path, timeout=CLOSE_S)
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_S)
        with self._lock:
            working = list(self._busy.values())
        for thread in working:
            if thread is not threading.current_thread():
                thread.join(CLOSE_S)
        atexit.unregister(self.close)
        self._ended(self)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _loop(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._closing.is_set():
            try:
                self._round()
            except Exception as error:  # the daemon is away or another one, or the provider failed
                if not isinstance(error, TorporError):
                    log.exception("the provider failed")
                self._connected.clear()
                self._announced = None
                self._closing.wait(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            else:
                pause_s = FIRST_PAUSE_S

    def _round(self) -> None:
        """Say what is new, wait for work, and begin it."""
        names = _names(self._desk.provider)
        if names != self._announced:
            self._api.call("PUT", self._path, json=self._about(names))
            self._announced = names
            self._connected.set()
        with self._lock:
            busy = ",".join(self._busy)
        found = self._api.json("GET", f"{self._path}/work", params={"wait_s": POLL_S, "busy": busy})
        for work in found.get("work", ()):
            self._begin(work)

    def _about(self, names: Sequence[str]) -> dict[str, Any]:
        provider = self._desk.provider
        model = str(provider.model_name())[:200] if isinstance(provider, Named) else None
        return {"name": self._name[:MAX_NAME], "pid": os.getpid(), "model": model, "sessions": list(names)}

    def _begin(self, work: Work) -> None:
        with self._lock:
            if work["id"] in self._busy or self._closing.is_set():
                return
            thread = threading.Thread(target=self._work, args=(work,), name="torpor-work", daemon=True)
            self._busy[work["id"]] = thread
            thread.start()

    def _work(self, work: Work) -> None:
        try:
            with self._turns:
                outcome = self._outcome(work)
            self._tell(work["id"], outcome)
        finally:
            with self._lock:
                self._busy.pop(work["id"], None)

    def _outcome(self, work: Work) -> bytes:
        try:
            return orjson.dumps({"result": self._do(work)})
        except TorporError as error:
            return _problem(error)
        except Exception as error:  # of the provider: whoever asks is told, and the thread lives on
            log.exception("the provider failed")
            return _problem(TorporError(f"the process failed: {type(error).__name__}", hint="Its own log says more."))

    def _do(self, work: Work) -> dict[str, Any]:
        ref = work.get("backup_id") or work.get("session_id")
        if work["kind"] == "save":
            return self._desk.create(work.get("session_id"), small=bool(work.get("small")))
        if ref is None:
            raise SessionNotFound("neither a backup nor a session is named")
        return self._desk.restore(ref) if work["kind"] == "restore" else self._desk.plan(ref)

    def _tell(self, work_id: str, outcome: bytes) -> None:
        """Answer; as long as the daemon is only away for a moment, again. Whoever waited may have gone."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                self._api.call("POST", f"{self._path}/work/{work_id}", content=outcome, headers=_JSON)
                return
            except Unavailable:
                if self._closing.wait(pause_s):
                    return
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            except TooLarge as error:  # whoever waits is told that instead
                outcome = _problem(error)
            except TorporError:
                return


def _problem(error: TorporError) -> bytes:
    return orjson.dumps({"problem": to_problem(error)})


def _names(provider: Provider) -> tuple[str, ...]:
    """Return the sessions that can be named. A provider that fails is one that has none just now."""
    found = []
    for name in list(provider.sessions())[:MAX_SESSIONS]:
        with suppress(TorporError):
            found.append(parse_session_id(name))
    return tuple(found)


def process_name() -> str:
    """Return what this process is called for people."""
    return os.path.basename(sys.argv[0]) or "python"
