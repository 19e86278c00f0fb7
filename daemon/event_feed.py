"""Events as they come: those behind an id, and a wait for the next one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from ..db.events import events_after, newest_event_id, recent_events
from ..db.index import Index
from ..state.errors import Unauthorized
from .answers import PRIVATE, json_answer
from .changes import Changes
from .security import STILL

LOOK_S = 0.25  # between two looks, however much changes
LONGEST_WAIT_S = 25.0
BEAT_S, LONGEST_BEAT_S, STREAMED_AT_ONCE = 15.0, 600.0, 200
CHANGED_EVERY_S = 1.0  # at most: what is being sent changes the index all the time
_CHANGED = {"level": "info", "kind": "changed", "session_id": None, "backup_id": None, "detail": ""}


class EventFeed:
    """Answers who asks for events. `close` ends all waits.

    Nothing is looked at again and again: whoever waits sleeps until something changes.
    """

    def __init__(self, index: Index, changes: Changes) -> None:
        self._index, self._changes = index, changes
        self._closing = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._moved, self._noted = asyncio.Event(), False
        self._look: tuple[int, asyncio.Future[int]] | None = None  # the newest id, at such a number of changes
        self._looked_at = float("-inf")
        changes.listen(self._note)

    def close(self) -> None:
        """End all waits, so that the server can stop."""
        self._closing.set()
        self._wake()

    def recent(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest events, newest first."""
        with self._index.reading() as connection:
            return recent_events(connection, limit)

    def newest(self) -> int:
        """Return the id of the newest event."""
        with self._index.reading() as connection:
            return newest_event_id(connection)

    def after(self, event_id: int, limit: int) -> tuple[list[dict[str, Any]], int]:
        """Return the events behind one, oldest first, and the id to ask for next.

        Where the index was made anew since, its ids began anew: then all of its events are.
        """
        with self._index.reading() as connection:
            newest = newest_event_id(connection)
            found = events_after(connection, event_id if event_id <= newest else 0, limit)
        return found, found[-1]["id"] if found else min(event_id, newest)

    async def wait_after(
        self, event_id: int, limit: int, wait_s: float, enough: Callable[[], bool] = lambda: False
    ) -> tuple[list[dict[str, Any]], int]:
        """Return as `after`, waiting for the first one, or until `enough`. However many wait, they look together.

        `enough` is asked at each change.
        """
        now = asyncio.get_running_loop().time
        until = now() + wait_s
        while True:
            seen = self._changes.number
            found, after = await run_in_threadpool(self.after, event_id, limit)
            while True:
                left = until - now()
                if found or left <= 0 or self._closing.is_set() or enough():
                    return found, after
                await self._next_change(seen, left)
                if self._changes.number == seen:
                    continue
                seen = self._changes.number
                if await self._newest() not in (0, event_id):
                    break

    async def _next_change(self, seen: int, wait_s: float) -> None:
        """Sleep until there are more changes than `seen`; where many come in a row, for a moment in any case."""
        self._loop = loop = asyncio.get_running_loop()
        moved = self._moved  # first: whoever notes a change from here on wakes it
        if self._changes.number == seen and not self._closing.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(moved.wait(), wait_s)
        if (rest := self._looked_at + LOOK_S - loop.time()) > 0 and self._changes.number != seen:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), rest)

    def _note(self) -> None:
        """Wake who waits; called in any thread."""
        if self._loop is not None and not self._noted:
            self._noted = True
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._noted = False
        self._moved.set()
        self._moved = asyncio.Event()

    async def _newest(self) -> int:
        """Return the id of the newest event; who asks at the same number of changes shares the look."""
        number = self._changes.number
        if self._look is None or self._look[0] != number:
            self._looked_at = asyncio.get_running_loop().time()
            self._look = number, asyncio.ensure_future(run_in_threadpool(self.newest))
        return await asyncio.shield(self._look[1])

    def stream(
        self, after: int, still: Callable[[], bool] = lambda: True, beat_s: float = BEAT_S
    ) -> AsyncIterator[bytes]:
        """Yield server-sent events behind an id, until the daemon stops or `still` says no.

        Between them, that something changed since this was called: backups came or went, were sent, or a page asks for
        access. Such an event is not kept, and has the id of the last one that is.
        """
        return self._streamed(after, still, beat_s, self._changes.number)

    async def _streamed(self, after: int, still: Callable[[], bool], beat_s: float, told: int) -> AsyncIterator[bytes]:
        now = asyncio.get_running_loop().time
        told_at = now()

        yield b"retry: 1000\n\n"
        while not self._closing.is_set():
            seen = self._changes.number
            due_s = beat_s if seen == told else max(told_at + CHANGED_EVERY_S - now(), 0.0)
            more = partial(self._is_more_than, seen, still)
            found, after = await self.wait_after(after, STREAMED_AT_ONCE, due_s, more)
            if not still():  # before anything more is told
                return
            for event in found:
                yield b"id: %d\ndata: %s\n\n" % (event["id"], orjson.dumps(event))
            if self._changes.number != told and now() - told_at >= CHANGED_EVERY_S:
                told, told_at = self._changes.number, now()
                yield b"event: changed\ndata: %s\n\n" % orjson.dumps(_CHANGED | {"id": after, "at": time.time()})
            elif not found and self._changes.number == told:
                yield b": %d\n\n" % after

    def _is_more_than(self, seen: int, still: Callable[[], bool]) -> bool:
        return self._changes.number != seen or not still()


def add_events(app: FastAPI, feed: EventFeed) -> None:
    """Add the route."""

    @app.get("/v1/events")
    async def events(
        request: Request,
        limit: int = Query(50, ge=1, le=1000),
        after: int | None = Query(None, ge=0, le=2**62),
        wait_s: float = Query(0.0, ge=0.0, le=LONGEST_WAIT_S),
    ) -> Response:
        """List the newest events; with `after` those behind an id, oldest first, waiting for one as long as is said."""
        if after is None:
            newest = await run_in_threadpool(feed.recent, limit)
            return json_answer({"events": newest, "after": newest[0]["id"] if newest else 0})
        still: Callable[[], bool] = request.scope[STILL]
        found, next_after = await feed.wait_after(after, limit, wait_s, lambda: not still())
        if not still():  # before anything more is told
            raise Unauthorized("the token was made void meanwhile")
        return json_answer({"events": found, "after": next_after})

    @app.get("/v1/events/stream")
    async def stream(
        request: Request,
        after: int | None = Query(None, ge=0, le=2**62),
        last_event_id: Annotated[int | None, Header(ge=0)] = None,
        beat_s: float = Query(BEAT_S, ge=BEAT_S, le=LONGEST_BEAT_S),
    ) -> Response:
        """Send events as they come (server-sent events), from an id on or from now; a comment shows that it lives.

        It comes so many seconds apart: on a Unix socket nobody needs it often. The stream ends when the token does.
        """
        since, still = last_event_id if last_event_id is not None else after, request.scope[STILL]
        if since is None:  # before the answer begins: a reader asks for all else then, and a failure can be told
            since = await run_in_threadpool(feed.newest)
        beats = feed.stream(since, still, beat_s)
        return StreamingResponse(beats, media_type="text/event-stream", headers=PRIVATE)
