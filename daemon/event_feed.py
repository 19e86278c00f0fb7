"""Events as they come: those behind an id, and a wait for the next one. The index is looked at only while one waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from ..db.events import events_after, newest_event_id, recent_events
from ..db.index import Index
from ..state.errors import Unauthorized
from .answers import PRIVATE, json_answer
from .security import STILL

LOOK_S = 0.25  # between two looks while somebody waits
LONGEST_WAIT_S = 25.0
BEAT_S, STREAMED_AT_ONCE = 15.0, 200
CHANGED_EVERY_S = 1.0  # at most: what is being sent changes the index all the time
_CHANGED = {"level": "info", "kind": "changed", "session_id": None, "backup_id": None, "detail": ""}


class EventFeed:
    """Answers who asks for events. `close` ends all waits."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._closing = asyncio.Event()
        self._newest, self._looked_at = 0, float("-inf")  # of the look that serves all who wait

    def close(self) -> None:
        """End all waits, so that the server can stop."""
        self._closing.set()

    def recent(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest events, newest first."""
        with self._index.reading() as connection:
            return recent_events(connection, limit)

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
        """Return as `after`, waiting for the first one, or until `enough`. However many wait, they look together."""
        now = asyncio.get_running_loop().time
        until = now() + wait_s
        while True:
            found, after = await run_in_threadpool(self.after, event_id, limit)
            while True:
                left = until - now()
                if found or left <= 0 or self._closing.is_set() or enough():
                    return found, after
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), min(LOOK_S, left))
                if await self._look() not in (0, event_id):
                    break

    async def _look(self) -> int:
        """Return the id of the newest event, as it was at most a moment ago."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= LOOK_S / 2:
            self._looked_at = now
            self._newest = await run_in_threadpool(self._newest_id)
        return self._newest

    async def stream(self, after: int | None, still: Callable[[], bool] = lambda: True) -> AsyncIterator[bytes]:
        """Yield server-sent events behind an id, or from now on, until the daemon stops or `still` says no.

        Between them, that something of the index changed: backups came or went, or were sent. Such an event is not
        kept, and has the id of the last one that is.
        """
        if after is None:
            after = await run_in_threadpool(self._newest_id)
        now = asyncio.get_running_loop().time
        told, told_at = self._index.generation, now()

        def changed() -> bool:
            return self._index.generation != told and now() - told_at >= CHANGED_EVERY_S

        yield b"retry: 1000\n\n"
        while not self._closing.is_set():
            found, after = await self.wait_after(after, STREAMED_AT_ONCE, BEAT_S, lambda: changed() or not still())
            if not still():  # before anything more is told
                return
            for event in found:
                yield b"id: %d\ndata: %s\n\n" % (event["id"], orjson.dumps(event))
            if changed():
                told, told_at = self._index.generation, now()
                yield b"event: changed\ndata: %s\n\n" % orjson.dumps(_CHANGED | {"id": after, "at": time.time()})
            elif not found:
                yield b": %d\n\n" % after

    def _newest_id(self) -> int:
        with self._index.reading() as connection:
            return newest_event_id(connection)


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
    ) -> Response:
        """Send events as they come (server-sent events), from an id on or from now; a comment shows that it lives.

        It ends when the token does.
        """
        since, still = last_event_id if last_event_id is not None else after, request.scope[STILL]
        return StreamingResponse(feed.stream(since, still), media_type="text/event-stream", headers=PRIVATE)
