"""Inference processes that wait for work: who is attached, and what is asked of them over their long polls.

A poll that is open is the sign of life: it ends the moment its process dies. One that hung up has a moment to come
back, one that was answered a little longer; then it is forgotten, and whoever waits for it is told so. Nothing of this
outlives the daemon: a process attaches again by itself.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from ..state.errors import Conflict, NoProcess, NotFound, SessionNotFound, Timeout, TorporError, Unavailable
from ..state.problems import to_problem
from .asks import settled

Kind = Literal["save", "restore", "plan"]
MAX_ATTACHED, MAX_WORK = 64, 64
HUNG_UP_S, SILENT_S = 1.0, 10.0
LONGEST_POLL_S = 25.0
ASK_S = 300.0  # a whole session of hours may have to be written or read
_LOOK_S = 0.5  # how soon the end of a process is noticed by those who wait for it
_STOPS = "the daemon is being stopped"

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class About:
    """What a process says of itself. `pid` is for people; `sessions` are those that it held when it said so."""

    name: str
    pid: int
    model: str | None
    sessions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """One thing to do. A save of no session is one of all."""

    id: str
    kind: Kind
    session_id: str | None
    backup_id: str | None
    small: bool


@dataclass(slots=True)
class _Asked:
    work: Work
    answer: Future[Answer] = field(default_factory=Future)


@dataclass(slots=True)
class _Process:
    about: About
    attached_at: float
    lost_at: float  # on the steady clock; infinite while a poll is open
    poll: Future[None] | None = None
    asked: dict[str, _Asked] = field(default_factory=dict)


class Attachments:
    """The processes that are attached. Safe to call from several threads; `ask` and `take` wait in the event loop."""

    def __init__(self, clock: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._steady = clock, steady
        self._lock, self._processes, self._closed = threading.Lock(), dict[str, _Process](), False
        self._told: Callable[[], None] = lambda: None

    def tell(self, told: Callable[[], None]) -> None:
        """Call a function behind each change of who is attached, in the thread that made it."""
        self._told = told

    def announce(self, attach_id: str, about: About) -> None:
        """Note a process, or what it says anew of itself. Raises: Conflict where too many are attached."""
        with self._lock:
            self._check_open()
            self._forget_lost()
            known = self._processes.get(attach_id)
            if known is not None:
                known.about = about
            elif len(self._processes) >= MAX_ATTACHED:
                raise Conflict(f"{MAX_ATTACHED} processes are attached", hint="End some of them.")
            else:
                self._processes[attach_id] = _Process(about, self._clock(), self._steady() + SILENT_S)
        self._told()

    def leave(self, attach_id: str) -> None:
        """Forget a process that goes. One that is not known has gone already."""
        with self._lock:
            self._forget([attach_id], "the process detached")
        self._told()

    def describe(self) -> list[dict[str, Any]]:
        """Tell who is attached, the newest first. The ids stay between the daemon and each process."""
        with self._lock:
            self._forget_lost()
            return [
                {
                    "name": each.about.name,
                    "pid": each.about.pid,
                    "model": each.about.model,
                    "sessions": list(each.about.sessions),
                    "attached_at": each.attached_at,
                    "working": len(each.asked),
                }
                for each in reversed(self._processes.values())
            ]

    def any(self) -> bool:
        """Tell whether a process is attached."""
        with self._lock:
            self._forget_lost()
            return bool(self._processes)

    async def take(
        self, attach_id: str, busy: Collection[str], wait_s: float, hung_up: Callable[[], Awaitable[object]]
    ) -> list[Work]:
        """Return what a process is to do beside what it is busy with, waiting for the first.

        Work whose answer never reached the process is so handed out again. Raises: NotFound (attach again),
        Unavailable when the daemon stops.
        """
        poll = self._poll(attach_id, busy)
        tasks = [asyncio.ensure_future(settled(poll, wait_s)), asyncio.ensure_future(hung_up())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[1].done():  # whoever shows who is attached learns of it, too
                asyncio.get_running_loop().call_later(HUNG_UP_S + 0.1, self._told)
            return self._polled(attach_id, poll, busy, HUNG_UP_S if tasks[1].done() else SILENT_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _poll(self, attach_id: str, busy: Collection[str]) -> Future[None]:
        with self._lock:
            self._check_open()
            self._forget_lost()
            process = self._known(attach_id)
            _end(process.poll)  # of a connection that broke unseen
            poll = process.poll = Future()
            process.lost_at = float("inf")
            if process.asked.keys() - set(busy):
                _end(poll)
            return poll

    def _polled(self, attach_id: str, poll: Future[None], busy: Collection[str], lost_in_s: float) -> list[Work]:
        with self._lock:
            self._check_open()
            process = self._known(attach_id)
            if process.poll is not poll:
                return []
            process.poll, process.lost_at = None, self._steady() + lost_in_s
            return [asked.work for work_id, asked in process.asked.items() if work_id not in busy]

    def answer(self, attach_id: str, work_id: str, answer: Answer | TorporError) -> None:
        """Take an answer. Raises: NotFound where nobody waits for it any more."""
        with self._lock:
            asked = self._known(attach_id).asked.pop(work_id, None)
        if asked is None:
            raise NotFound("nobody waits for this work", hint="Whoever asked has given up, or asked another daemon.")
        with suppress(InvalidStateError):
            if isinstance(answer, TorporError):
                asked.answer.set_exception(answer)
            else:
                asked.answer.set_result(answer)

    async def ask(
        self,
        kind: Kind,
        *,
        session_id: str | None = None,
        backup_id: str | None = None,
        small: bool = False,
        timeout_s: float = ASK_S,
    ) -> Answer:
        """Let an attached process do something, and return its answer. A save of no session asks all of them.

        The process that holds the session is asked, else the one that attached last.
        Raises: NoProcess (none is attached, none holds the session, it ended meanwhile), Timeout, and whatever it
        failed with.
        """
        until = self._steady() + timeout_s
        work = Work(secrets.token_hex(16), kind, session_id, backup_id, small)
        names = self._in_order(session_id)
        if not names:
            raise NoProcess("no inference process is attached")
        if kind != "save":
            return await self._ask(names[0], work, until)
        if session_id is None:
            return _merged(await asyncio.gather(*(self._try(name, work, until) for name in names)))
        for name in names:
            with suppress(SessionNotFound):
                return await self._ask(name, work, until)
        raise NoProcess(
            f"no attached process holds session {session_id}", hint="Start or restore the session in one of them."
        )

    async def _try(self, attach_id: str, work: Work, until: float) -> Answer:
        try:
            return await self._ask(attach_id, work, until)
        except TorporError as error:
            return {"failed": [{"session_id": None, "problem": to_problem(error)}]}

    async def _ask(self, attach_id: str, work: Work, until: float) -> Answer:
        asked = self._hand(attach_id, work)
        try:
            while not await settled(asked.answer, max(min(_LOOK_S, until - self._steady()), 0.0)):
                with self._lock:
                    self._forget_lost()
                if self._steady() >= until and not asked.answer.done():
                    raise Timeout("the inference process has not answered in time", hint="It may still be at work.")
        finally:
            with self._lock:
                process = self._processes.get(attach_id)
                if process is not None:
                    process.asked.pop(work.id, None)
        return asked.answer.result()

    def _hand(self, attach_id: str, work: Work) -> _Asked:
        with self._lock:
            self._check_open()
            process = self._processes.get(attach_id)
            if process is None:
                raise NoProcess("the inference process has just gone")
            if len(process.asked) >= MAX_WORK:
                raise Unavailable("the inference process has too much to do", hint="Try again in a minute.")
            asked = process.asked[work.id] = _Asked(work)
            _end(process.poll)
            return asked

    def _in_order(self, session_id: str | None) -> list[str]:
        """Return whom to ask, first those that named the session, then those that attached last."""
        with self._lock:
            self._check_open()
            self._forget_lost()
            newest = [*reversed(self._processes)]
            return sorted(newest, key=lambda name: session_id not in self._processes[name].about.sessions)

    def close(self) -> None:
        """Let everybody go who waits."""
        with self._lock:
            self._closed = True
            processes = list(self._processes.values())
            self._processes.clear()
        for process in processes:
            _end(process.poll)
            _fail(process, Unavailable(_STOPS, hint="Try again when it runs."))

    def _known(self, attach_id: str) -> _Process:
        process = self._processes.get(attach_id)
        if process is None:
            raise NotFound("this process is not attached", hint="It attaches again by itself.")
        return process

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable(_STOPS, hint="Try again when it runs.")

    def _forget_lost(self) -> None:
        now = self._steady()
        lost = [name for name, process in self._processes.items() if process.lost_at <= now]
        self._forget(lost, "the inference process ended, or does not answer any more")

    def _forget(self, names: Sequence[str], why: str) -> None:
        for name in names:
            process = self._processes.pop(name, None)
            if process is not None:
                _end(process.poll)
                _fail(process, NoProcess(why, hint="Start it again; what was backed up is there."))


def _end(poll: Future[None] | None) -> None:
    with suppress(InvalidStateError):
        if poll is not None:
            poll.set_result(None)


def _fail(process: _Process, error: TorporError) -> None:
    for asked in process.asked.values():
        with suppress(InvalidStateError):
            asked.answer.set_exception(error)


def _merged(answers: Sequence[Answer]) -> Answer:
    """Join what several processes saved. It is no success when nothing could be saved though something was there."""
    parts = {
        name: [each for answer in answers if isinstance(answer.get(name), list) for each in answer[name]]
        for name in ("backups", "failed")
    }
    return {"success": bool(parts["backups"]) or not parts["failed"], **parts}
