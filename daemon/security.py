"""What every request must pass, in this order: shape, Host, Origin, token, scope, API version, body.

Plain ASGI, in front of all routes; what is refused here has cost nothing and reached nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..state.access import Access, Allowance, parse_origin
from ..state.api import API_VERSION, DIGEST_HEADER
from ..state.errors import (
    BadInput,
    HostNotAllowed,
    ScopeDenied,
    TooLarge,
    TooManyAttempts,
    TorporError,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
    VersionMismatch,
)
from ..state.problems import MEDIA_TYPE, problem_at
from .request_head import Head, read_head
from .scopes import BEACONS, CODED, OPEN, RouteScopes
from .tokens import Tokens

log = logging.getLogger("torpor.security")

MAX_BODY_BYTES = 64 << 20  # of a manifest; blobs have a limit of their own
MAX_BLOB_BYTES = 1 << 30
MAX_IMPORT_BYTES = 1 << 37  # of a file: a bundle of a context of a million tokens
MAX_JSON_BYTES = 16 << 20  # of a question: 160,000 digests
MAX_OPEN_BYTES = 4 << 10  # of somebody who has no token
MAX_BEACON_BYTES = 64 << 10  # which is what browsers hold for a page that unloads
MAX_HELD_BYTES = 256 << 20  # of bodies in memory, of all requests together; tokens with scopes share half of it
STILL = "torpor.still"  # where in a scope it lies whether the token opens anything by now
WRONG_TOKENS, REFILL_S = 60, 1.0  # at once, and then one in so many seconds; a good token is never held back by it
_MEDIA_TYPES = ("", "application/json", "application/octet-stream")  # never those that pages send without asking
_METHODS = b"GET, POST, PUT, DELETE"  # of pages
_HEADERS = b"authorization, content-type, torpor-api-version, torpor-save, torpor-timing, range"


class Gate:
    """ASGI middleware that answers a refused request with a problem and hands the others on."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens,
        hosts: frozenset[str],
        files: Collection[str] = (),
        scopes: RouteScopes | None = None,
        steady: Callable[[], float] = time.monotonic,
        held_bytes: int = MAX_HELD_BYTES,
    ) -> None:
        """`hosts` are the names for TCP; over the Unix socket it is `localhost`. `files` are open to everybody."""
        self._app, self._tokens, self._hosts, self._files = app, tokens, hosts, frozenset(files)
        self._scopes = scopes or RouteScopes()
        self._wrong = Allowance(WRONG_TOKENS, REFILL_S, steady)
        self._most, self._held = held_bytes, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] != "http":
            return
        page: str | None = None
        try:
            head = read_head(scope)
            self._check_host(head)
            if head.path in self._files and head.method in ("GET", "HEAD"):  # the same for everybody, and no secret
                _check_body(head, 0)
                await self._app(scope, receive, send)
                return
            head = _at_home(head)
            page = self._check_page(head)
            if page is not None and head.preflight:
                await _answer_preflight(send, page, private_network=head.private_network)
                return
            limit, access = self._check(head)
        except TorporError as error:
            await send_problem(_readable_by(page, send), error, scope["path"])
            return
        scope["torpor.access"], scope[STILL] = access, partial(self._still, head)
        with self._holding(head, access is not None and access.owner) as hold:
            await self._app(scope, _limited(receive, limit, hold), _readable_by(page, send))

    @contextmanager
    def _holding(self, head: Head, owner: bool) -> Iterator[Callable[[int], None]]:
        """Count what of bodies is in memory; blobs and files go to the disk piece by piece.

        Raises: Unavailable, in the count. Nobody with a token of some scopes takes the owner's part.
        """
        most, mine = self._most if owner else self._most // 2, 0
        streamed = _body_limit(head.method, head.path) in (MAX_BLOB_BYTES, MAX_IMPORT_BYTES)

        def hold(size_bytes: int) -> None:
            nonlocal mine
            if streamed:
                return
            if self._held + size_bytes > most:
                raise Unavailable("too much is being sent at once", hint="Try again in a moment.")
            self._held, mine = self._held + size_bytes, mine + size_bytes

        try:
            yield hold
        finally:
            self._held -= mine

    def _check_host(self, head: Head) -> None:
        """Refuse names that are not ours: a page whose name resolves to this machine sends its own."""
        if head.host not in (("localhost",) if head.local_socket else self._hosts):
            raise HostNotAllowed(f"Host {head.host[:80]!r} is not allowed")

    def _check_page(self, head: Head) -> str | None:
        """Return the origin of a page that the user has approved, or that asks for it; None for other programs."""
        if head.origin is None:
            if head.site not in ("none", "same-origin"):
                raise HostNotAllowed("requests from web pages that do not say who they are, are not allowed")
            return None
        asks = (head.method, head.path) in OPEN or (head.preflight and ("POST", head.path) in OPEN)
        if not asks and not self._tokens.approved(head.origin):
            raise HostNotAllowed(f"requests from web pages of {head.origin[:80]!r} are not allowed")
        try:
            return parse_origin(head.origin)
        except BadInput as error:
            raise HostNotAllowed(error.detail, hint=error.hint) from None

    def _check(self, head: Head) -> tuple[int, Access | None]:
        """Check token, scope, version and body; return how many bytes the body may have, and what the token opens."""
        route, access, limit = (head.method, head.path), None, MAX_OPEN_BYTES
        beacon = _is_beacon(head)
        if beacon:
            limit = MAX_BEACON_BYTES
        elif route not in CODED and (route not in OPEN or head.origin is None):
            access = self._authenticate(head)
            self._check_scope(head, access)
            limit = _body_limit(head.method, head.path)
        if head.version is not None and head.version != str(API_VERSION):
            raise VersionMismatch(
                f"the client speaks API version {head.version[:20]}, this daemon version {API_VERSION}"
            )
        _check_body(head, limit, text=beacon)
        return limit, access

    def _authenticate(self, head: Head) -> Access:
        if head.authorization is None:
            raise Unauthorized("the bearer token is missing")
        bearer = head.authorization.partition(b" ")[0].lower() == b"bearer"
        access = self._tokens.check(_token_of(head.authorization)) if bearer else None
        if access is None:
            if not self._wrong.take():
                raise TooManyAttempts("there were too many wrong tokens in a short time")
            log.warning("a wrong token was refused")
            raise Unauthorized("the bearer token is wrong")
        return access

    def _still(self, head: Head) -> bool:
        """Tell whether the token of a request opens anything by now: some answers last longer than it."""
        return head.authorization is None or self._tokens.check(_token_of(head.authorization)) is not None

    def _check_scope(self, head: Head, access: Access) -> None:
        if access.origin != head.origin:
            raise ScopeDenied("the token belongs to another origin, or to none")
        for any_of in self._scopes.needed(head.method, head.path):
            if not access.may(any_of):
                wanted = " or ".join(sorted(any_of))
                raise ScopeDenied(f"the token of {access.name} has not the scope {wanted}")


def _token_of(authorization: bytes) -> bytes:
    return authorization.partition(b" ")[2].strip()


def _at_home(head: Head) -> Head:
    """Take requests of the daemon's own page for what they are: no other page has its origin.

    Host was checked, so a name that somebody else made resolve to this machine is none of ours.
    """
    own = head.origin is not None and not head.local_socket and head.origin.lower() == f"http://{head.host}"
    return replace(head, origin=None, site="same-origin") if own else head


def _is_beacon(head: Head) -> bool:
    """Tell whether a page that unloads sends its last words: no header of its own, and text, which asks nobody."""
    return (
        (head.method, head.path) in BEACONS
        and head.origin is not None
        and head.authorization is None
        and head.media_type == "text/plain"
    )


def _check_body(head: Head, limit: int, *, text: bool = False) -> None:
    if head.encoding not in ("", "identity"):
        raise UnsupportedMedia(f"a body in encoding {head.encoding[:20]!r}")
    if head.media_type not in _MEDIA_TYPES and not text:
        raise UnsupportedMedia(f"a body of type {head.media_type[:40]!r}")
    if not head.length.isdecimal() or len(head.length) > 15 or int(head.length) > limit:
        raise TooLarge(f"a body of {head.length[:20]} bytes (at most {limit})")


def _body_limit(method: str, path: str) -> int:
    if method != "PUT":
        return MAX_IMPORT_BYTES if (method, path) == ("POST", "/v1/imports") else MAX_JSON_BYTES
    return MAX_BLOB_BYTES if path.startswith("/v1/blobs/") else MAX_BODY_BYTES


def _limited(receive: Receive, limit: int, hold: Callable[[int], None]) -> Receive:
    """Count the bytes of a body as they come. Raises: TooLarge, and what `hold` does, in the route that reads it."""
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise TooLarge(f"a body of more than {limit} bytes")
        hold(len(message.get("body", b"")))
        return message

    return counting


def _readable_by(page: str | None, send: Send) -> Send:
    """Let the page of an approved origin read an answer, and nobody else."""
    if page is None:
        return send
    headers = [
        (b"access-control-allow-origin", page.encode()),
        (b"access-control-expose-headers", DIGEST_HEADER.lower().encode() + b", retry-after, content-range"),
        (b"vary", b"origin"),
    ]

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *headers]}
        await send(message)

    return sending


async def _answer_preflight(send: Send, page: str, *, private_network: bool) -> None:
    headers = [
        (b"access-control-allow-origin", page.encode()),
        (b"access-control-allow-methods", _METHODS),
        (b"access-control-allow-headers", _HEADERS),
        (b"access-control-max-age", b"300"),
        (b"vary", b"origin"),
        (b"content-length", b"0"),
    ]
    if private_network:
        headers.append((b"access-control-allow-private-network", b"true"))
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def send_problem(send: Send, error: TorporError, path: str = "") -> None:
    """Answer with an RFC 9457 problem."""
    body = orjson.dumps(problem_at(path, error))
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, TooManyAttempts):
        headers.append((b"retry-after", b"60"))
    await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
