"""Who may call the backup routes of an inference server: its own pages, and programs of the same machine. Pure.

The routes hold the SDK's token, so another page must not reach them. Browsers say where a request comes from
(`Sec-Fetch-Site`, else `Origin`); a page whose name was made to resolve to this machine sends that name as `Host`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..state.errors import HostNotAllowed, TooLarge, UnsupportedMedia

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
MAX_BODY_BYTES = 8 << 20  # of a page's whole text, or of a long queue
_PORTS = {"http": "80", "https": "443"}
_HINT = "Serve the page from the same origin as these routes; other pages are paired with the daemon."


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the routes: `path` is below their base, `header` looks a header up by its name in lower case."""

    method: str
    path: str
    query: dict[str, str]
    header: Callable[[str], str]


def check(request: Request, allowed_hosts: Collection[str]) -> None:
    """Refuse what no page of this server and no program sends. Raises: HostNotAllowed, UnsupportedMedia, TooLarge."""
    host = request.header("host").lower()
    if not _host_allowed(host, allowed_hosts):
        raise HostNotAllowed(
            f"Host {host[:80]!r} is not allowed", hint="Name it in `allowed_hosts` where the routes are made."
        )
    site, origin = request.header("sec-fetch-site").lower(), request.header("origin").lower()
    if site not in ("", "same-origin", "none") or (not site and origin and not same_host(origin, host)):
        raise HostNotAllowed("requests from other web pages are not allowed", hint=_HINT)
    if not site and not origin and _changes(request) and _name(host) not in LOOPBACK and request.method == "GET":
        raise HostNotAllowed("nobody says which page this comes from", hint="Send it as POST, with a JSON body.")
    if request.method == "POST":
        _check_body(request)


def _check_body(request: Request) -> None:
    kind = request.header("content-type").partition(";")[0].strip().lower()
    if kind != "application/json" and not (request.path == "drain" and kind == "text/plain"):
        raise UnsupportedMedia(f"a body of type {kind[:40]!r}")
    if request.header("content-encoding").lower() not in ("", "identity"):
        raise UnsupportedMedia("an encoded body")
    length = request.header("content-length") or "0"
    if not length.isdecimal() or len(length) > 15 or int(length) > MAX_BODY_BYTES:
        raise TooLarge(f"a body of {length[:20]} bytes (at most {MAX_BODY_BYTES})")


def _changes(request: Request) -> bool:
    return request.path.startswith("restore/")


def _host_allowed(host: str, allowed: Collection[str]) -> bool:
    """Tell whether a Host is one of those named, with its port or with any."""
    return host in allowed or _name(host) in allowed


def _name(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def same_host(origin: str, host: str) -> bool:
    """Tell whether an origin is that of the server that a Host names, whichever scheme a proxy speaks."""
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return False
    default = _PORTS.get(parts.scheme)
    if default is None or not parts.hostname or parts.path or parts.query or parts.username is not None:
        return False
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    there = f"{name}:{port or default}"
    return there == (host if _name(host) != host else f"{host}:{default}")
