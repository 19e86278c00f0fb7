"""The metrics over HTTP: `/metrics` for Prometheus, and what an SDK reports of restores; answers are timed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..state.api import TIMING_HEADER
from ..state.ids import parse_backup_id
from ..state.plan import check_mode
from ..state.timing import Timing, parse_seconds, parse_timing
from .metrics import Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RestoreReport(BaseModel):
    """A restore that ended: its mode, how long it took, and of which backup it was."""

    model_config = ConfigDict(extra="forbid", strict=True)
    mode: str
    seconds: float
    backup_id: str | None = None


class Timed:
    """ASGI middleware that counts and times answers, by the route's pattern."""

    def __init__(self, app: ASGIApp, metrics: Metrics, steady: Callable[[], float] = time.perf_counter) -> None:
        self._app, self._metrics, self._steady = app, metrics, steady

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = self._steady(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.answered(scope["method"], route, status, self._steady() - started)


@contextmanager
def counted(metrics: Metrics, request: Request) -> Iterator[list[int]]:
    """Count the commit that is made inside; it may say of how many backups it was."""
    given, started = request.headers.get(TIMING_HEADER), time.perf_counter()
    timing: Timing | None = None if given is None else parse_timing(given)
    done: list[int] = []
    try:
        yield done
    except Exception as error:
        metrics.refused(error)
        raise
    metrics.committed(sum(done) or 1, time.perf_counter() - started, timing)


def add_metrics(app: FastAPI, metrics: Metrics, note: Callable[[str, str | None], None]) -> None:
    """Add the routes, and time all that are there. `note` learns of each restore."""
    app.add_middleware(Timed, metrics=metrics)
    running: asyncio.Task[bytes] | None = None

    @app.get("/metrics")
    async def page() -> Response:
        """Return the metrics in Prometheus's text format. Who asks while they are looked up gets the same."""
        nonlocal running  # it may take seconds in a large home, and everybody shares the threads
        if running is None or running.done():
            running = asyncio.create_task(run_in_threadpool(metrics.page))
        return Response(await asyncio.shield(running), media_type=CONTENT_TYPE)

    @app.post("/v1/restored", status_code=204)
    def restored(report: RestoreReport) -> Response:
        """Note that something was restored, and how long that took."""
        mode, took_s = check_mode(report.mode), parse_seconds(report.seconds)
        backup_id = None if report.backup_id is None else parse_backup_id(report.backup_id)
        metrics.restored(mode, took_s)
        note(f"{mode} in {took_s:.2f} s", backup_id)
        return Response(status_code=204)
