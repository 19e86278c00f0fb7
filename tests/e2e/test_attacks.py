"""The attacks that a daemon on localhost must withstand, by name, against one real daemon. None may get in.

What a browser, a client library or a proxy would mend on the way is written by hand, byte by byte.
"""

from __future__ import annotations

import gzip
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from support.caches import CacheSession
from support.daemon import Daemon
from torpor.daemon.scopes import CODED, OPEN, ROUTES
from torpor.daemon.tokens import Tokens
from torpor.state.access import SCOPES
from torpor.state.errors import UnsafeHome
from torpor.store.home import Home

PATIENCE_S = 1.0
BACKUP_ID = "01M81P35719XNDZ4R57NMV6DYZ"
PAGE = "http://localhost:3000"
OUTSIDE = b"what lies outside of the store"


@dataclass
class Target:
    """A daemon with a backup, tokens of every kind, and links that somebody has planted in its store."""

    daemon: Daemon
    backup_id: str
    outside: Path
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        return int(self.daemon.url.rsplit(":", 1)[1])

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def head(
        self, target: str = "/v1/status", *lines: str, method: str = "GET", host: str | None = "", token: str = ""
    ) -> bytes:
        """A request's head; `host` None leaves Host out, `token` "" none is sent, and "owner" is the owner's."""
        rows = [f"{method} {target} HTTP/1.1", *lines, "Connection: close"]
        if host is not None:
            rows.append(f"Host: {host or self.host}")
        if token:
            rows.append(f"Authorization: Bearer {self.tokens.get(token, token)}")
        return "\r\n".join(rows).encode("latin-1") + b"\r\n\r\n"

    def raw(self, *pieces: bytes, patience_s: float = 10.0) -> bytes:
        """Send bytes and return all that comes back until the daemon closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience_s) as sock:
            try:
                for piece in pieces:
                    sock.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the answer may be there all the same
            got = b""
            try:
                while chunk := sock.recv(65536):
                    got += chunk
            except ConnectionResetError:
                pass
            return got

    def owner(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.daemon.request(method, path, token=self.tokens["owner"], **options)


def status_of(answer: bytes) -> int:
    """The status of a raw answer; 0 when the connection was closed without one."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


def plant(daemon_home: Path, outside: Path) -> None:
    """Put links to a file and a folder outside into the store, as a program that may write there could."""
    store = daemon_home / "store"
    (store / "blobs" / "00" / ("0" * 64)).symlink_to(outside / "file")
    (store / "manifests" / f"{BACKUP_ID}.qwnbak").symlink_to(outside / "file")
    (store / "staging" / "w1-aaaaaaaaaaaa").symlink_to(outside)
    os.mkfifo(store / "blobs" / "11" / ("1" * 64))


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        home, outside = Path(folder) / "home", Path(folder) / "outside"
        outside.mkdir()
        (outside / "file").write_bytes(OUTSIDE)
        (outside / "lock").write_bytes(b"")
        os.utime(outside, (1, 1))
        Home(home).create()
        plant(home, outside)
        with Daemon(home, settings={"TORPOR_CLIENT_TIMEOUT_S": str(PATIENCE_S)}) as daemon:
            session = CacheSession()
            session.grow(100, 1)
            with daemon.keeper() as keeper:
                backup_id = keeper.save("s", session).wait(60).id
            made = Target(daemon, backup_id, outside, {"owner": daemon.token})
            for scope in SCOPES:
                made.tokens[scope] = new_token(made, [scope])
            made.tokens["page"] = new_token(made, ["read"], PAGE)
            revoked = made.owner("POST", "/v1/tokens", json={"label": "gone", "scopes": list(SCOPES)}).json()
            assert made.owner("DELETE", f"/v1/tokens/{revoked['info']['id']}").status_code == 200
            made.tokens["revoked"] = revoked["token"]
            yield made


def new_token(target: Target, scopes: list[str], origin: str | None = None) -> str:
    body = {"label": "test", "scopes": scopes, "origin": origin}
    answer = target.owner("POST", "/v1/tokens", json=body)
    assert answer.status_code == 201
    return str(answer.json()["token"])


def listing(target: Target) -> tuple[Any, list[str]]:
    """What an intruder could have changed."""
    rows = target.owner("GET", "/v1/backups").json()
    return rows, sorted(str(p) for p in (target.daemon.home / "store").rglob("*"))


def put(target: Target, *lines: str, path: str = f"/v1/backups/{BACKUP_ID}") -> bytes:
    return target.head(path, *lines, method="PUT", token="owner")


def post(target: Target, *lines: str, path: str = "/v1/blobs/missing", **options: Any) -> bytes:
    return target.head(path, *lines, method="POST", **options)


JSON = "Content-Type: application/json"
PAIR_BODY = b'{"label": "x", "scopes": ["read"]}'


def keys(count: int) -> bytes:
    return b'{"blobs": {' + b",".join(b'"%d": 1' % n for n in range(count)) + b"}}"


def lengthy(target: Target, body: bytes, length: int, **options: Any) -> list[bytes]:
    return [post(target, JSON, f"Content-Length: {length}", **options), body]


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def login(target: Target, body: bytes, kind: str = "application/json", *lines: str) -> bytes:
    return post(target, f"Content-Type: {kind}", f"Content-Length: {len(body)}", *lines, path="/v1/login")


DRAIN, TEXT = b'{"pending":[]}', "text/plain;charset=UTF-8"


def in_body(target: Target) -> bytes:
    return orjson.dumps({"pending": [], "token": target.tokens["page"]})


def beacon(
    target: Target,
    body: bytes,
    origin: str | None = PAGE,
    path: str = "/api/backup/drain",
    kind: str = TEXT,
    **more: Any,
) -> bytes:
    lines = [f"Content-Type: {kind}", f"Content-Length: {len(body)}", *([f"Origin: {origin}"] if origin else [])]
    return post(target, *lines, path=path, **more)


# name -> what is sent, and the statuses that refuse it (0: the connection was closed without a word)
ATTACKS: dict[str, tuple[Callable[[Target], list[bytes]], set[int]]] = {
    # tokens
    "no token": (lambda t: [t.head()], {401}),
    "empty token": (lambda t: [t.head("/v1/status", "Authorization: Bearer ")], {401}),
    "wrong token": (lambda t: [t.head(token="x" * 43)], {401}),
    "token cut short": (lambda t: [t.head(token=t.tokens["owner"][:-1])], {401}),
    "token with more behind it": (lambda t: [t.head(token=t.tokens["owner"] + "x")], {401}),
    "token of another scope": (lambda t: [t.head(token="metrics")], {403}),
    "token of a page without its page": (lambda t: [t.head(token="page")], {403}),
    "token of a page at another page": (lambda t: [t.head("/v1/status", "Origin: https://evil.example", token="page")], {403}),
    "the owner's token in a page": (lambda t: [t.head("/v1/status", f"Origin: {PAGE}", token="owner")], {403}),
    "revoked token": (lambda t: [t.head(token="revoked")], {401}),
    "hash of a token": (lambda t: [t.head(token=stored_hash(t))], {401}),
    "token in the query": (lambda t: [t.head(f"/v1/status?token={t.tokens['owner']}&access_token={t.tokens['owner']}")], {401}),
    "token in a cookie": (lambda t: [t.head("/v1/status", f"Cookie: token={t.tokens['owner']}")], {401}),
    "token by Basic": (lambda t: [t.head("/v1/status", f"Authorization: Basic {t.tokens['owner']}")], {401}),
    "two tokens": (lambda t: [t.head("/v1/status", "Authorization: Bearer x", token="owner")], {422}),
    "a method override": (lambda t: [t.head(f"/v1/backups/{t.backup_id}", "X-HTTP-Method-Override: DELETE", method="POST", token="save")], {403}),
    "a token with `save` removes": (lambda t: [t.head(f"/v1/backups/{t.backup_id}", method="DELETE", token="save")], {403}),
    "a token with `manage` makes tokens": (lambda t: [post(t, JSON, "Content-Length: 2", path="/v1/tokens", token="manage"), b"{}"], {403}),
    "a token with `read` reads content": (lambda t: [t.head(f"/v1/backups/{t.backup_id}/manifest", token="read")], {403}),
    # Host
    "Host foreign": (lambda t: [t.head(host="evil.example", token="owner")], {403}),
    "Host with another port": (lambda t: [t.head(host="127.0.0.1:1", token="owner")], {403}),
    "Host without port": (lambda t: [t.head(host="localhost", token="owner")], {403}),
    "Host absent": (lambda t: [t.head(host=None, token="owner")], {400, 403}),
    "Host absent, HTTP/1.0": (lambda t: [t.head(host=None, token="owner").replace(b"HTTP/1.1", b"HTTP/1.0")], {403}),
    "Host twice": (lambda t: [t.head("/v1/status", f"Host: {t.host}", token="owner")], {400, 422}),
    "absolute-form target": (lambda t: [t.head(f"http://{t.host}/v1/status", token="owner")], {403}),
    "absolute-form target of a stranger": (lambda t: [t.head("http://evil.example/v1/status", token="owner")], {403}),
    "authority-form target": (lambda t: [t.head("evil.example:443", method="CONNECT", token="owner")], {400, 403}),
    "Host 0.0.0.0": (lambda t: [t.head(host=f"0.0.0.0:{t.port}", token="owner")], {403}),
    "Host an IPv6 literal": (lambda t: [t.head(host=f"[::1]:{t.port}", token="owner")], {403}),
    "Host an IPv4-mapped literal": (lambda t: [t.head(host=f"[::ffff:127.0.0.1]:{t.port}", token="owner")], {403}),
    "Host a short form of 127.0.0.1": (lambda t: [t.head(host=f"127.1:{t.port}", token="owner")], {403}),
    "Host a name that resolves to loopback": (lambda t: [t.head(host=f"localtest.me:{t.port}", token="owner")], {403}),
    "Host with a final dot": (lambda t: [t.head(host=f"localhost.:{t.port}", token="owner")], {403}),
    "Host that begins like ours": (lambda t: [t.head(host=f"{t.host}.evil.example", token="owner")], {403}),
    "X-Forwarded-Host": (lambda t: [t.head("/v1/status", f"X-Forwarded-Host: {t.host}", host="evil.example", token="owner")], {403}),
    # pages
    "Origin foreign": (lambda t: [t.head("/v1/status", "Origin: https://evil.example", token="owner")], {403}),
    "Origin null": (lambda t: [t.head("/v1/status", "Origin: null", token="owner")], {403}),
    "Origin that begins like an approved one": (lambda t: [t.head("/v1/status", f"Origin: {PAGE}0", token="page")], {403}),
    "Origin in capitals": (lambda t: [t.head("/v1/status", f"Origin: {PAGE.upper()}", token="page")], {403}),
    "form POST": (lambda t: [post(t, "Content-Type: application/x-www-form-urlencoded", "Content-Length: 3", token="owner"), b"a=1"], {415}),
    "text/plain beacon": (lambda t: [post(t, "Content-Type: text/plain;charset=UTF-8", "Content-Length: 2", token="owner"), b"{}"], {415}),
    "multipart": (lambda t: [post(t, "Content-Type: multipart/form-data; boundary=x", "Content-Length: 2", token="owner"), b"{}"], {415}),
    "beacon to pairing": (lambda t: [post(t, "Content-Type: text/plain", f"Origin: {PAGE}", f"Content-Length: {len(PAIR_BODY)}", path="/v1/pair"), PAIR_BODY], {415}),
    "pairing by null": (lambda t: [post(t, JSON, "Origin: null", f"Content-Length: {len(PAIR_BODY)}", path="/v1/pair"), PAIR_BODY], {403}),
    "pairing without an origin": (lambda t: [post(t, JSON, f"Content-Length: {len(PAIR_BODY)}", path="/v1/pair"), PAIR_BODY], {401}),
    "approving oneself": (lambda t: [post(t, JSON, f"Origin: {PAGE}", "Content-Length: 2", path="/v1/pair/requests/000-000/approve", token="page"), b"{}"], {403}),
    "Sec-Fetch-Site cross-site": (lambda t: [t.head("/v1/status", "Sec-Fetch-Site: cross-site", token="owner")], {403}),
    "Sec-Fetch-Site same-site": (lambda t: [t.head("/v1/status", "Sec-Fetch-Site: same-site", token="owner")], {403}),
    "preflight of a foreign origin": (lambda t: [t.head("/v1/status", "Origin: https://evil.example", "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: authorization", method="OPTIONS")], {403}),
    "WebSocket": (lambda t: [t.head("/v1/status", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: eA==", "Sec-WebSocket-Version: 13", "Origin: https://evil.example")], {403}),
    # the dashboard: files that are open, its own origin, login links, the scope approve
    "a file of the page under a foreign Host": (lambda t: [t.head("/", host="evil.example")], {403}),
    "../ out of the files of the page": (lambda t: [t.head("/dashboard/../../../token")], {401, 404}),
    "../ out of the files, percent-encoded": (lambda t: [t.head("/vendor/..%2f..%2f..%2ftoken")], {401, 404}),
    "a source file of the package": (lambda t: [t.head("/client/../__init__.py")], {401, 404}),
    "POST to a file of the page": (lambda t: [post(t, JSON, "Content-Length: 2", path="/"), b"{}"], {401}),
    "a file of the page with a body": (lambda t: [t.head("/", "Content-Length: 5"), b"hello"], {413}),
    "its own origin without a token": (lambda t: [t.head("/v1/status", f"Origin: {t.daemon.url}", "Sec-Fetch-Site: same-origin")], {401}),
    "its own origin on another port": (lambda t: [t.head("/v1/status", f"Origin: http://127.0.0.1:{t.port + 1}", token="owner")], {403}),
    "its own origin by https": (lambda t: [t.head("/v1/status", f"Origin: https://{t.host}", token="owner")], {403}),
    "its own origin by another name": (lambda t: [t.head("/v1/status", f"Origin: http://localhost:{t.port}", token="owner")], {403}),
    "its own origin by a name that was rebound": (lambda t: [t.head("/v1/status", f"Origin: http://evil.example:{t.port}", host=f"evil.example:{t.port}", token="owner")], {403}),
    "its own origin with a user": (lambda t: [t.head("/v1/status", f"Origin: http://x@{t.host}", token="owner")], {403}),
    "a wrong login code": (lambda t: [login(t, b'{"code": "x"}'), b'{"code": "x"}'], {401}),
    "a login code as text": (lambda t: [login(t, b'{"code": "x"}', "text/plain"), b'{"code": "x"}'], {415}),
    "a login code of a foreign page": (lambda t: [login(t, b'{"code": "x"}', "application/json", "Origin: https://evil.example"), b'{"code": "x"}'], {403}),
    "a login code of an approved page": (lambda t: [login(t, b'{"code": "x"}', "application/json", f"Origin: {PAGE}"), b'{"code": "x"}'], {401}),
    "a login code of 1 MB": (lambda t: [login(t, bytes(1 << 20)), bytes(1 << 20)], {413}),
    "a login link by a token with `approve`": (lambda t: [post(t, "Content-Length: 0", path="/v1/login/links", token="approve")], {403}),
    "a token with `approve` makes tokens": (lambda t: [post(t, JSON, "Content-Length: 2", path="/v1/tokens", token="approve"), b"{}"], {403}),
    "a token with `manage` approves": (lambda t: [post(t, JSON, "Content-Length: 2", path="/v1/pair/requests/000-000/approve", token="manage"), b"{}"], {403}),
    "a page approves by its own token": (lambda t: [t.head("/v1/pair/requests", f"Origin: {PAGE}", token="page")], {403}),
    "events as they come, without a token": (lambda t: [t.head("/v1/events/stream")], {401}),
    "events as they come, token in the query": (lambda t: [t.head(f"/v1/events/stream?token={t.tokens['owner']}")], {401}),
    "events as they come, for a foreign page": (lambda t: [t.head("/v1/events/stream", "Origin: https://evil.example", token="owner")], {403}),
    "events as they come, by another scope": (lambda t: [t.head("/v1/events/stream", token="metrics")], {403}),
    # pages that save
    "a beacon without a token": (lambda t: [beacon(t, DRAIN), DRAIN], {401}),
    "a beacon with a token that was made up": (lambda t: [beacon(t, DRAIN[:-1] + b',"token":"x"}'), DRAIN[:-1] + b',"token":"x"}'], {401}),
    "a beacon with the token of the API": (lambda t: [beacon(t, in_body(t)), in_body(t)], {401}),
    "a beacon of a foreign page": (lambda t: [beacon(t, DRAIN, "https://evil.example"), DRAIN], {403}),
    "a beacon of no page": (lambda t: [beacon(t, DRAIN, None), DRAIN], {401}),
    "a beacon of a sandboxed frame": (lambda t: [beacon(t, DRAIN, "null"), DRAIN], {403}),
    "a beacon of 64 KiB and more": (lambda t: [beacon(t, bytes(65_537)), bytes(65_537)], {413}),
    "a beacon to another route": (lambda t: [beacon(t, DRAIN, path="/api/backup/create"), DRAIN], {401}),
    "a beacon to another spelling": (lambda t: [beacon(t, DRAIN, path="/api/backup/drain/"), DRAIN], {401}),
    "a beacon as a form": (lambda t: [beacon(t, DRAIN, kind="application/x-www-form-urlencoded"), DRAIN], {401, 415}),
    "text with a token in the header": (lambda t: [beacon(t, DRAIN, None, token="owner"), DRAIN], {415}),
    "a drain by a token without `save`": (lambda t: [post(t, JSON, f"Content-Length: {len(DRAIN)}", path="/api/backup/drain", token="restore"), DRAIN], {403}),
    "a page that may only read gets tokens for beacons": (lambda t: [post(t, JSON, "Content-Length: 2", f"Origin: {PAGE}", path="/api/backup/tokens", token="page"), b"{}"], {403}),
    "a token with `save` reads what pages saved": (lambda t: [t.head("/api/backup/restore/s?text=1", token="save")], {403}),
    "a token with `read` reads what pages saved": (lambda t: [t.head("/api/backup/points/s", token="read")], {403}),
    "a token with `read` reads images": (lambda t: [t.head(f"/api/backup/media/{t.backup_id}/0", token="read")], {403}),
    "../ in the name of a session": (lambda t: [t.head("/api/backup/restore/..%2f..%2ftoken?text=1", token="owner")], {404, 422}),
    "a page poses as an inference process": (lambda t: [t.head(f"/v1/attached/{BACKUP_ID}", JSON, "Content-Length: 2", f"Origin: {PAGE}", method="PUT", token="page"), b"{}"], {403}),
    "a token with `save` poses as an inference process": (lambda t: [t.head(f"/v1/attached/{BACKUP_ID}/work?wait_s=0", token="save")], {403}),
    # ids and paths
    "../ in an id": (lambda t: [t.head("/v1/backups/../../../../etc/passwd", token="owner")], {404, 422}),
    "../ percent-encoded": (lambda t: [t.head("/v1/backups/..%2f..%2f..%2fetc%2fpasswd", token="owner")], {404, 422}),
    "../ percent-encoded twice": (lambda t: [t.head("/v1/backups/%252e%252e%252f", token="owner")], {404, 422}),
    "NUL in an id": (lambda t: [t.head("/v1/backups/a%00b", token="owner")], {422}),
    "percent-encoded bytes that are no UTF-8": (lambda t: [t.head("/v1/backups/%ff%fe", token="owner")], {404, 422}),
    "line break in an id": (lambda t: [t.head(f"/v1/backups/{BACKUP_ID}%0d%0aX:%20y/manifest", token="owner")], {404, 422}),
    "blob digest with a slash": (lambda t: [t.head("/v1/blobs/00/" + "0" * 61, token="owner")], {404}),
    "blob digest with an encoded slash": (lambda t: [t.head("/v1/blobs/..%2f..%2ftoken", token="owner")], {404, 422}),
    "scopes by another spelling of a path": (lambda t: [t.head(f"/v1/backups/{t.backup_id}/%6danifest", token="read")], {403}),
    "a link as blob": (lambda t: [t.head("/v1/blobs/" + "0" * 64, token="owner")], {404, 500}),
    "a link as manifest": (lambda t: [t.head(f"/v1/backups/{BACKUP_ID}/manifest", token="owner")], {404, 500}),
    # sizes and shapes
    "Content-Length beyond the body": (lambda t: lengthy(t, b"{}", 100, token="owner"), {0}),
    "Content-Length short of the body": (lambda t: lengthy(t, b'{"blobs": {}}' + t.head(token="owner"), 2, token="owner"), {422}),
    "Content-Length negative": (lambda t: [post(t, "Content-Length: -1", token="owner")], {400}),
    "Content-Length of 5,000 digits": (lambda t: [post(t, "Content-Length: " + "9" * 5000, token="owner")], {400}),
    "Content-Length twice": (lambda t: [post(t, "Content-Length: 2", "Content-Length: 100", token="owner"), b"{}"], {400}),
    "Content-Length and chunks": (lambda t: [post(t, JSON, "Content-Length: 4", "Transfer-Encoding: chunked", token="owner"), chunks(b"{}")], {400, 422}),
    "chunks of a size that is no number": (lambda t: [post(t, JSON, "Transfer-Encoding: chunked", token="owner"), b"zz\r\n{}\r\n"], {0, 400, 422}),
    "chunked bomb": (lambda t: [post(t, JSON, "Transfer-Encoding: chunked", token="owner"), *[chunks(bytes(1 << 20))[:-5]] * 20], {413}),
    "compressed bomb": (lambda t: [put(t, "Content-Encoding: gzip", f"Content-Length: {len(BOMB)}"), BOMB], {415}),
    "1 GB of JSON": (lambda t: [post(t, JSON, f"Content-Length: {10**9}", token="owner"), b'{"blobs": {'], {413}),
    "100,000 keys that are none": (lambda t: [post(t, JSON, f"Content-Length: {len(KEYS)}", token="owner"), KEYS], {422}),
    "JSON 100,000 deep": (lambda t: [post(t, JSON, "Content-Length: 100000", token="owner"), b"[" * 100_000], {422}),
    "a number of 100,000 digits": (lambda t: [post(t, JSON, "Content-Length: 100022", token="owner"), b'{"blobs": {"' + b"0" * 5 + b'": ' + b"9" * 100_000 + b"}}"], {422}),
    "10,000 headers": (lambda t: [t.head("/v1/status", *(f"X-{n}: y" for n in range(10_000)), token="owner")], {400, 413}),
    "a header of 1 MB": (lambda t: [t.head("/v1/status", "X: " + "y" * (1 << 20), token="owner")], {0, 400, 413}),
    "a target of 60 KB": (lambda t: [t.head("/v1/status?" + "y" * 60_000, token="owner")], {0, 400, 413}),
    "header folding": (lambda t: [t.head("/v1/status", "X: y\r\n Origin: x", token="x")], {400, 401}),
    "a bare line feed": (lambda t: [t.head(token="x").replace(b"\r\n", b"\n")], {400, 401}),
    "no HTTP at all": (lambda t: [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)], {400}),
    "a second request behind a refused body": (lambda t: [post(t, JSON, f"Content-Length: {10**9}"), t.head(token="owner").replace(b"Connection: close\r\n", b"")], {401}),
    "slow head": (lambda t: [b"GET /v1/status HTTP/1.1\r\nHost: "], {0}),
    "nothing at all": (lambda t: [], {0}),
    "slow body": (lambda t: [post(t, JSON, "Content-Length: 1000", token="owner"), b"{"], {0}),
    "slow chunks": (lambda t: [post(t, JSON, "Transfer-Encoding: chunked", token="owner"), b"1\r\n{\r\n"], {0}),
}  # fmt: skip
BOMB = gzip.compress(bytes(50 << 20), 9)
KEYS = keys(100_000)
SLOW = [name for name in ATTACKS if name.startswith(("slow", "nothing")) or name == "Content-Length beyond the body"]


def stored_hash(target: Target) -> str:
    return str(orjson.loads((target.daemon.home / "tokens.json").read_bytes())["tokens"][0]["sha256"])


@pytest.fixture(scope="module")
def slow_answers(target: Target) -> dict[str, tuple[bytes, float]]:
    """The slow attacks, all at once; with when the daemon had enough of each."""
    from concurrent.futures import ThreadPoolExecutor

    def attack(name: str) -> tuple[bytes, float]:
        began = time.monotonic()
        answer = target.raw(*ATTACKS[name][0](target), patience_s=8 * PATIENCE_S)
        return answer, time.monotonic() - began

    with ThreadPoolExecutor(len(SLOW)) as pool:
        return dict(zip(SLOW, pool.map(attack, SLOW), strict=True))


def refused(target: Target, name: str, answer: bytes) -> None:
    """One answer, whole: a problem that says nothing, for no page to read."""
    assert status_of(answer) in ATTACKS[name][1], answer[:300]
    assert answer.count(b"HTTP/1.1 ") <= 1 or name == "Content-Length short of the body"
    low = answer.lower()
    assert b"access-control-allow-origin: https://evil" not in low
    assert b"access-control-allow-origin: *" not in low
    for secret in (*target.tokens.values(), OUTSIDE.decode(), "root:x:0"):
        assert secret.encode() not in answer
    assert b"traceback" not in low


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in SLOW])
def test_nobody_gets_in(target: Target, name: str) -> None:
    began = time.monotonic()
    refused(target, name, target.raw(*ATTACKS[name][0](target)))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("name", SLOW)
def test_nobody_holds_on(target: Target, slow_answers: dict[str, tuple[bytes, float]], name: str) -> None:
    answer, after_s = slow_answers[name]
    refused(target, name, answer)
    assert after_s >= PATIENCE_S * 0.9
    assert after_s < PATIENCE_S * 6


def test_they_were_refused_for_their_attack(target: Target) -> None:
    """The same requests without what is wrong with them get in."""
    assert status_of(target.raw(target.head(token="owner"))) == 200
    assert status_of(target.raw(target.head(token="read"))) == 200
    assert (
        status_of(target.raw(target.head("/v1/status", f"Origin: {PAGE}", "Sec-Fetch-Site: cross-site", token="page")))
        == 200
    )
    assert (
        status_of(
            target.raw(
                target.head("/v1/status", f"Origin: {PAGE}", "Access-Control-Request-Method: GET", method="OPTIONS")
            )
        )
        == 204
    )
    assert status_of(target.raw(target.head(f"/v1/backups/{target.backup_id}/manifest", token="restore"))) == 200
    assert status_of(target.raw(*lengthy(target, b'{"blobs": {}}', 13, token="save"))) == 200
    assert status_of(target.raw(target.head("/"))) == 200
    assert status_of(target.raw(target.head("/v1/status", f"Origin: {target.daemon.url}", token="read"))) == 200
    told = orjson.loads(target.owner("POST", "/v1/login/links").content)["url"].partition("#login=")[2]
    code = orjson.dumps({"code": told})
    assert status_of(target.raw(login(target, code), code)) == 201
    assert status_of(target.raw(*lengthy(target, DRAIN, len(DRAIN), path="/api/backup/drain", token="save"))) == 200
    body = keys(0)
    assert status_of(target.raw(post(target, JSON, "Transfer-Encoding: chunked", token="owner"), chunks(body))) == 200


def test_after_all_of_it_nothing_has_changed(target: Target) -> None:
    rows, files = listing(target)
    assert [row["id"] for row in rows["backups"]] == [target.backup_id]
    assert not [name for name in files if "evil" in name]
    assert sorted(p.name for p in target.outside.iterdir()) == ["file", "lock"]
    assert (target.outside / "file").read_bytes() == OUTSIDE
    status = Path(f"/proc/{target.daemon.listening['pid']}/status").read_text()
    assert int(status.split("VmHWM:")[1].split()[0]) < 250_000
    log = (target.daemon.home / "logs" / "daemon.log").read_text()
    assert "Traceback" not in log
    for secret in target.tokens.values():
        assert secret not in log


@pytest.mark.parametrize("route", [*ROUTES, *sorted(" ".join(pair) for pair in OPEN), "GET /docs", "GET /redoc"])
def test_no_route_opens_without_a_token(target: Target, route: str) -> None:
    method, path = route.split()
    assert status_of(target.raw(target.head(path.replace("{", "").replace("}", ""), method=method))) == 401


def test_every_route_that_the_daemon_serves_has_a_scope(target: Target) -> None:
    described = target.owner("GET", "/openapi.json").json()["paths"]
    served = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    assert served - set(ROUTES) - {" ".join(pair) for pair in OPEN | CODED} == set()


def test_the_time_of_a_comparison_tells_nothing(target: Target) -> None:
    """A token that is wrong in its last letter takes as long as one that is wrong in its first."""
    token = target.tokens["owner"]
    tokens = Tokens(target.daemon.home / "no-such-file", token, time.time)
    early, late = ("!" + token[1:]).encode(), (token[:-1] + "!").encode()

    def measured(count: int = 3000) -> float:
        times: dict[bytes, list[int]] = {early: [], late: []}
        for number in range(count):
            for guess in (early, late) if number % 2 else (late, early):
                began = time.perf_counter_ns()
                tokens.check(guess)
                times[guess].append(time.perf_counter_ns() - began)
        return abs(statistics.median(times[late]) / statistics.median(times[early]) - 1)

    assert min(measured() for _ in range(3)) < 0.05


def test_wrong_tokens_are_slowed_down_and_the_owner_is_not(target: Target) -> None:
    with httpx.Client(base_url=target.daemon.url, trust_env=False) as client:
        statuses = [client.get("/v1/status", headers={"Authorization": "Bearer wrong"}).status_code for _ in range(80)]
        assert set(statuses) == {401, 429}
        answer = client.get("/v1/status", headers={"Authorization": "Bearer wrong"})
        assert answer.json()["code"] == "too-many-attempts"
        assert int(answer.headers["retry-after"]) > 0
        assert target.owner("GET", "/v1/status").status_code == 200


def test_many_connections_do_not_keep_the_owner_out(target: Target) -> None:
    idle = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(300)]
    try:
        assert target.owner("GET", "/v1/status").status_code == 200
    finally:
        for sock in idle:
            sock.close()


def test_a_link_as_home_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").symlink_to(tmp_path)
    with pytest.raises(UnsafeHome):
        Home(tmp_path / "home").create()


@pytest.mark.parametrize(
    "name",
    ["token", "index.sqlite", "tokens.json", "store", "store/blobs/ab", "store/staging", "logs", "logs/daemon.log"],
)
def test_a_link_in_the_home_is_refused(tmp_path: Path, name: str) -> None:
    home, outside = Home(tmp_path / "home"), tmp_path / "outside"
    home.create()
    outside.mkdir()
    planted = home.root / name
    if planted.is_dir():
        import shutil

        shutil.rmtree(planted)
    planted.symlink_to(outside)
    with pytest.raises(UnsafeHome):
        home.create()
    assert list(outside.iterdir()) == []


def test_nobody_speaks_for_a_proxy(target: Target) -> None:
    lines = ("X-Forwarded-Proto: https", "X-Forwarded-For: 203.0.113.9")
    answer = target.raw(target.head("/v1/status/", *lines, token="owner"))
    assert f"location: http://{target.host}/v1/status\r\n".encode() in answer.lower()


def test_a_crash_leaves_no_secret_in_a_core(target: Target) -> None:
    pid = target.owner("GET", "/v1/status").json()["pid"]
    limits = Path(f"/proc/{pid}/limits").read_text()
    (row,) = (line.split() for line in limits.splitlines() if line.startswith("Max core file size"))
    assert row[4] == "0"
