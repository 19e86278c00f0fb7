"""The head of a request as far as admission depends on it, read once and strictly."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope

from ..state.api import VERSION_HEADER
from ..state.errors import BadInput, HostNotAllowed, TooLarge

MAX_HEADERS, MAX_HEAD_BYTES, MAX_TARGET_BYTES = 100, 32 << 10, 8 << 10
_VERSION = VERSION_HEADER.lower().encode()
# Of these a second one is a contradiction, and two readers may take different ones of them.
_ONCE = frozenset(
    {
        b"host", b"authorization", b"content-length", b"content-type", b"content-encoding", b"transfer-encoding",
        b"origin", b"sec-fetch-site", b"access-control-request-method", b"access-control-request-private-network",
        _VERSION,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Head:
    """What the gate asks of a request. Texts are None, or empty, where the header is not there."""

    method: str
    path: str
    host: str
    local_socket: bool
    origin: str | None
    site: str
    authorization: bytes | None
    version: str | None
    length: str
    encoding: str
    media_type: str
    preflight: bool
    private_network: bool


def read_head(scope: Scope) -> Head:
    """Read a head. Raises: BadInput, TooLarge, HostNotAllowed (a target that is not a path)."""
    path: str = scope["path"]
    if not path.startswith("/"):
        raise HostNotAllowed("the request's target is not a path")
    if "\0" in path:
        raise BadInput("the request's target holds a NUL")
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    target = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    if len(scope["headers"]) > MAX_HEADERS or size > MAX_HEAD_BYTES or target > MAX_TARGET_BYTES:
        raise TooLarge("the head of the request is too large", hint="A body carries what is large.")
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _ONCE and name in headers:
            raise BadInput(f"the header {name.decode()} stands twice")
        headers[name] = value
    if b"content-length" in headers and b"transfer-encoding" in headers:
        raise BadInput("the request has two lengths")

    def text(name: bytes) -> str:
        return headers.get(name, b"").decode("latin-1").strip()

    return Head(
        method=scope["method"],
        path=path,
        host=text(b"host").lower(),
        local_socket=(scope.get("server") or ("", 0))[1] is None,  # the name of a Unix socket is its path alone
        origin=text(b"origin") if b"origin" in headers else None,
        site=text(b"sec-fetch-site") or "none",
        authorization=headers.get(b"authorization"),
        version=text(_VERSION) if _VERSION in headers else None,
        length=text(b"content-length") or "0",
        encoding=text(b"content-encoding").lower(),
        media_type=text(b"content-type").partition(";")[0].strip().lower(),
        preflight=scope["method"] == "OPTIONS" and b"access-control-request-method" in headers,
        private_network=text(b"access-control-request-private-network").lower() == "true",
    )
