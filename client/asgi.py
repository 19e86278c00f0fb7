"""The backup routes as a raw ASGI application: mount it at `/api/backup` of FastAPI, Starlette or any other.

    app.mount("/api/backup", backup_app(keeper, provider))

It needs no framework. What blocks runs in threads of its own, so that a long save holds nobody up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from ..state.errors import TooLarge
from .backup_routes import Answer, BackupRoutes, defect, problem
from .same_origin import LOOPBACK, MAX_BODY_BYTES, Request

if TYPE_CHECKING:
    from .backup_desk import There
    from .keeper import Keeper
    from .provider import Provider

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

THREADS = 8
_OF_MODEL = ("create", "restore", "plan")  # they may wait for the model; nothing else waits for them
log = logging.getLogger("torpor.routes")


def backup_app(keeper: Keeper | There, provider: Provider, *, allowed_hosts: Collection[str] = LOOPBACK) -> BackupApp:
    """Make the application. `allowed_hosts`: names that pages may be served under, with a port or without."""
    return BackupApp(BackupRoutes(keeper, provider, allowed_hosts))


class BackupApp:
    """An ASGI application over the routes."""

    def __init__(self, routes: BackupRoutes) -> None:
        self.routes = routes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="torpor-routes")
        self._waiting = ThreadPoolExecutor(THREADS, thread_name_prefix="torpor-model")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = _request(scope)
        answer = self.routes.refused(request)
        if answer is None:
            try:
                body = await _body(receive)
            except TooLarge as error:
                answer = problem(error)
            else:
                if body is None:  # the page has gone: what it asked for is not known whole
                    return
                answer = await self._answer(request, body)
        await _send(send, answer, head=request.method == "HEAD")

    async def _answer(self, request: Request, body: bytes) -> Answer:
        loop = asyncio.get_running_loop()
        threads = self._waiting if request.path.partition("/")[0] in _OF_MODEL else self._threads
        try:
            return await loop.run_in_executor(threads, self.routes.answer, request, body)
        except Exception as error:  # of the provider
            log.exception("a backup route failed")
            return defect(error)


def _request(scope: Scope) -> Request:
    path, root = scope["path"], scope.get("root_path", "")
    if root and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        headers[key] = f"{headers[key]}, {value.decode('latin-1')}" if key in headers else value.decode("latin-1")
    query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))
    return Request(scope["method"], path.strip("/"), query, lambda name: headers.get(name, ""))


async def _body(receive: Receive) -> bytes | None:
    """Read a body; None where it broke off. Raises: TooLarge, whatever its length was said to be."""
    parts, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise TooLarge(f"a body of more than {MAX_BODY_BYTES} bytes")
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def _send(send: Send, answer: Answer, *, head: bool) -> None:
    headers = [("Content-Type", answer.media_type), ("Content-Length", str(len(answer.body))), *answer.headers]
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": raw})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})
