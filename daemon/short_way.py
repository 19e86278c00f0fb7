"""The short way of a question: what each save and each restore asks is answered by its route's function at once.

FastAPI and its middlewares take longer for such a question than the gate and the function together, and longest where
messages come seconds apart: all of it has gone cold by then. The routes are FastAPI's all the same: it describes them,
and whatever has a query, which it reads and checks, goes to it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import signature

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..state.errors import TorporError
from .metrics import Metrics

# Their functions are `async`, take nothing but the path's names and the request, and return an answer that is whole.
SHORT = frozenset({("PUT", "/v1/backups/{backup_id}"), ("GET", "/v1/backups/{ref}/opened")})

Trouble = Callable[[Request, Exception], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _Route:
    pattern: re.Pattern[str]
    path: str
    answer: Callable[..., Awaitable[Response]]
    takes_request: bool


class ShortWay:
    """ASGI middleware that answers some routes of an application; errors become answers by `trouble`."""

    def __init__(
        self, app: FastAPI, metrics: Metrics, trouble: Trouble, steady: Callable[[], float] = time.perf_counter
    ) -> None:
        self._app: ASGIApp = app
        self._metrics, self._trouble, self._steady = metrics, trouble, steady
        self._routes = _short_routes(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and not scope["query_string"]:
            for route in self._routes.get(scope["method"], ()):
                if (found := route.pattern.match(scope["path"])) is not None:
                    await self._answer(route, found.groupdict(), scope, receive, send)
                    return
        await self._app(scope, receive, send)

    async def _answer(self, route: _Route, names: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by a route's function. What is a defect is raised again behind its answer: the log has it."""
        began, status = self._steady(), 500
        defect: Exception | None = None
        request = Request(scope, receive)
        try:
            try:
                answer = await (
                    route.answer(request=request, **names) if route.takes_request else route.answer(**names)
                )
            except Exception as error:
                answer = await self._trouble(request, error)
                defect = None if isinstance(error, TorporError) else error
            status = answer.status_code
            await answer(scope, receive, send)
        finally:
            self._metrics.answered(scope["method"], route.path, status, self._steady() - began)
        if defect is not None:
            raise defect


def _short_routes(app: FastAPI) -> dict[str, list[_Route]]:
    found: dict[str, list[_Route]] = {}
    for route in app.routes:
        if isinstance(route, APIRoute):
            for method in route.methods or ():
                if (method, route.path) in SHORT:
                    takes_request = "request" in signature(route.endpoint).parameters
                    short = _Route(route.path_regex, route.path, route.endpoint, takes_request)
                    found.setdefault(method, []).append(short)
    return found
