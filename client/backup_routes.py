"""The backup routes of an inference server, whatever framework serves them: one answer to each request.

`create`, `restore/ID`, `plan/ID`, `points/SESSION`, `media/ID/N`, `drain` and `tokens`, and the page's own module at
`torpor.js`, all below the base where they are mounted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

import orjson
from blake3 import blake3

from ..state.errors import BadInput, NotFound, TooLarge, TorporError
from ..state.glimpse import PICTURES
from ..state.problems import MEDIA_TYPE, to_problem
from .backup_desk import BackupDesk
from .same_origin import LOOPBACK, MAX_BODY_BYTES, Request, check

if TYPE_CHECKING:
    from .backup_desk import There
    from .keeper import Keeper
    from .provider import Provider

MAX_POINTS = 1000
ENTRY = b'export * from "./client/torpor.js";\n'
_FOLDERS = ("client", "vendor")
_PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
_KEPT = {**_PRIVATE, "Cache-Control": "private, max-age=3600", "Content-Security-Policy": "default-src 'none'; sandbox"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, whole."""

    status: int
    body: bytes
    media_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = tuple(_PRIVATE.items())


class BackupRoutes:
    """Answers requests with a desk. `allowed_hosts` are names with a port, or without one for any."""

    def __init__(self, keeper: Keeper | There, provider: Provider, allowed_hosts: Collection[str] = LOOPBACK) -> None:
        self.desk = BackupDesk(keeper, provider)
        self._hosts = frozenset(name.lower() for name in allowed_hosts)

    def refused(self, request: Request) -> Answer | None:
        """Look at a request before its body is read: return the refusal, or None."""
        try:
            check(request, self._hosts)
        except TorporError as error:
            return problem(error)
        return None

    def answer(self, request: Request, body: bytes = b"") -> Answer:
        """Answer a request that was not refused."""
        try:
            if len(body) > MAX_BODY_BYTES:
                raise TooLarge(f"a body of more than {MAX_BODY_BYTES} bytes")
            return self._answer(request, body)
        except TorporError as error:
            return problem(error)

    def _answer(self, request: Request, body: bytes) -> Answer:
        name, _, rest = request.path.partition("/")
        route = f"{'GET' if request.method == 'HEAD' else request.method} {name}"
        if request.method == "HEAD" and name == "restore":
            raise NotFound("no route HEAD restore")
        if route in _BY_BODY and not rest:
            return _json(*_BY_BODY[route](self.desk, _object(body)))
        if route in _BY_REF and rest:
            return _json(_BY_REF[route](self.desk, rest, request.query))
        if route == "GET media":
            return self._media(rest)
        if route.startswith("GET "):
            return _file(request)
        raise NotFound(f"no route {request.method[:10]} {request.path[:80]}")

    def _media(self, rest: str) -> Answer:
        backup_id, _, index = rest.partition("/")
        if not index.isdecimal() or len(index) > 6:
            raise NotFound("no such picture")
        data, kind = self.desk.media(backup_id, int(index))
        shown = kind if kind in PICTURES else "application/octet-stream"
        headers = _KEPT if kind in PICTURES else {**_KEPT, "Content-Disposition": "attachment"}
        return Answer(200, data, shown, tuple(headers.items()))


def problem(error: TorporError) -> Answer:
    """Return a failure as a problem (RFC 9457)."""
    body = orjson.dumps(to_problem(error) | {"success": False})
    return Answer(error.http_status, body, MEDIA_TYPE)


def defect(error: Exception) -> Answer:
    """Return what nobody thought of; its text may hold anything, and stays here."""
    return problem(TorporError(f"a defect: {type(error).__name__}", hint="The server's log says more."))


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, orjson.dumps(value))


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadInput("the body is not a JSON object")
    return value


def _create(desk: BackupDesk, body: dict[str, Any]) -> tuple[Any, int]:
    session_id, small, state = body.get("session_id", 0), body.get("small", False), body.get("state")
    if not isinstance(session_id, str | None) or not isinstance(small, bool) or not isinstance(state, dict | None):
        raise BadInput("session_id is a text or null, small true or false, state an object")
    return desk.create(session_id, small=small, state=state), 201


def _drain(desk: BackupDesk, body: dict[str, Any]) -> tuple[Any, int]:
    pending = body.get("pending")
    if not isinstance(pending, list):
        raise BadInput("pending is not a list")
    return desk.drain(pending), 200


def _tokens(desk: BackupDesk, body: dict[str, Any]) -> tuple[Any, int]:
    return {"tokens": []}, 200  # a page of this server needs none


def _restore(desk: BackupDesk, ref: str, query: dict[str, str]) -> Any:
    return desk.restore(ref, text_only=query.get("text", "") not in ("", "0", "false"))


def _points(desk: BackupDesk, session_id: str, query: dict[str, str]) -> Any:
    limit = query.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit[:6]) <= MAX_POINTS:
        raise BadInput(f"limit is 1 to {MAX_POINTS}")
    return desk.points(session_id, int(limit[:6]))


_BY_BODY: dict[str, Callable[[BackupDesk, dict[str, Any]], tuple[Any, int]]] = {
    "POST create": _create,
    "POST drain": _drain,
    "POST tokens": _tokens,
}
_BY_REF: dict[str, Callable[[BackupDesk, str, dict[str, str]], Any]] = {
    "GET restore": _restore,
    "POST restore": _restore,
    "GET points": _points,
    "GET plan": lambda desk, ref, query: desk.plan(ref),
}


def _file(request: Request) -> Answer:
    """Serve the page's module. A browser asks each time, by the ETag: another version has other files."""
    data = ENTRY if request.path == "torpor.js" else _modules().get(request.path)
    if data is None:
        raise NotFound(f"no route GET {request.path[:80]}")
    etag = f'"{blake3(data).hexdigest(length=16)}"'
    headers = {**_PRIVATE, "Cache-Control": "no-cache", "ETag": etag}
    same = request.header("if-none-match") == etag
    return Answer(304 if same else 200, b"" if same else data, "text/javascript; charset=utf-8", tuple(headers.items()))


@cache
def _modules() -> dict[str, bytes]:
    """Return the modules of the JavaScript client by their path."""
    root = files("torpor.web")
    return {
        f"{folder}/{path}": file.read_bytes() for folder in _FOLDERS for path, file in _below(root.joinpath(folder), "")
    }


def _below(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    if not folder.is_dir():
        return []
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _below(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".js"):
            found.append((prefix + entry.name, entry))
    return found
