"""What every request must pass: Host, Origin, API version, token, size. Plain ASGI, in front of all routes."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..state.api import API_VERSION, VERSION_HEADER
from ..state.errors import BadInput, HostNotAllowed, TooLarge, TorporError, Unauthorized, VersionMismatch
from ..state.problems import MEDIA_TYPE, to_problem

MAX_BODY_BYTES = 64 << 20  # of a manifest; blobs have a limit of their own
MAX_BLOB_BYTES = 1 << 30
MAX_JSON_BYTES = 16 << 20  # of a question: 160,000 digests


class Gate:
    """ASGI middleware that answers a refused request with a problem and hands the others on."""

    def __init__(self, app: ASGIApp, *, token: str, allowed_hosts: Callable[[], Iterable[str]]) -> None:
        self._app, self._allowed_hosts = app, allowed_hosts
        self._expected = b"Bearer " + token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            limit = self._check(scope)
        except TorporError as error:
            await send_problem(send, error)
            return
        await self._app(scope, _limited(receive, limit), send)

    def _check(self, scope: Scope) -> int:
        """Check the head of a request; return how many bytes its body may have."""
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in (b"host", b"authorization", b"content-length", b"origin") and name in headers:
                raise BadInput(f"the header {name.decode()} stands twice")
            headers[name] = value
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if host not in set(self._allowed_hosts()):
            raise HostNotAllowed(f"Host {host[:80]!r} is not allowed")
        if b"origin" in headers or headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
            raise HostNotAllowed("requests from web pages are not allowed")
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            raise Unauthorized("the bearer token is missing or wrong")
        wanted = headers.get(VERSION_HEADER.lower().encode())
        if wanted is not None and wanted != str(API_VERSION).encode():
            raise VersionMismatch(
                f"the client speaks API version {wanted.decode('latin-1')[:20]}, this daemon version {API_VERSION}"
            )
        length = headers.get(b"content-length", b"0")
        limit = _body_limit(scope["method"], scope["path"])
        if not length.isdigit() or int(length) > limit:
            raise TooLarge(f"a body of {length.decode('latin-1')[:20]} bytes (at most {limit})")
        return limit


def _body_limit(method: str, path: str) -> int:
    if method != "PUT":
        return MAX_JSON_BYTES
    return MAX_BLOB_BYTES if path.startswith("/v1/blobs/") else MAX_BODY_BYTES


def _limited(receive: Receive, limit: int) -> Receive:
    """Count the bytes of a body that comes without a length. Raises: TooLarge, in the route that reads it."""
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise TooLarge(f"a body of more than {limit} bytes")
        return message

    return counting


async def send_problem(send: Send, error: TorporError) -> None:
    """Answer with an RFC 9457 problem."""
    body = orjson.dumps(to_problem(error))
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
