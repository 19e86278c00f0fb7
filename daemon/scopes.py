"""Which token opens which route. A route that is not listed here opens to the owner's token alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from starlette.routing import BaseRoute, Route, compile_path

from ..state.access import OWNER

# Any one of the scopes is enough. `owner` stands for the token of the home folder, which opens everything.
ROUTES: dict[str, str] = {
    "GET /v1/status": "read save restore",
    "GET /v1/events": "read",
    "GET /v1/events/stream": "read",
    "GET /openapi.json": "read",
    "GET /v1/backups": "read restore",
    "GET /v1/backups/{ref}": "read save restore",
    "GET /v1/backups/{backup_id}/manifest": "restore",
    "GET /v1/backups/{ref}/opened": "restore",
    "GET /v1/backups/{backup_id}/blobs": "read restore",
    "PUT /v1/backups/{backup_id}": "save",
    "PATCH /v1/backups/{backup_id}": "manage",
    "DELETE /v1/backups/{backup_id}": "manage",
    "POST /v1/backups/{backup_id}/undo-removal": "manage",
    "POST /v1/backups/{backup_id}/fetch": "restore",
    "GET /v1/fetches/{fetch_id}": "restore",
    "DELETE /v1/fetches/{fetch_id}": "restore",
    "GET /v1/backups/{backup_id}/messages": "restore",
    "GET /v1/backups/{backup_id}/media/{number}": "restore",
    "GET /v1/search": "restore",
    "GET /v1/sessions": "read restore",  # text and pictures in it take `restore`
    "GET /v1/sessions/{session_id}/drawing": "read restore",  # as well
    "GET /v1/sessions/{session_id}/timeline": "read restore",
    "PATCH /v1/sessions/{session_id}": "manage",
    "PUT /v1/sessions/{session_id}/no-sync": "manage",
    "GET /v1/groups": "read restore",
    "GET /v1/groups/{ref}": "read restore",
    "PUT /v1/groups/{group_id}": "save",
    "PUT /v1/room/{save_id}": "save",
    "DELETE /v1/room/{save_id}": "save",
    "POST /v1/restored": "restore",
    "POST /v1/prefix": "save restore",
    "POST /v1/blobs/missing": "save",
    "POST /v1/blobs/discard": "save",
    "POST /v1/blobs/remote": "restore",
    "PUT /v1/blobs/{digest}": "save",
    "GET /v1/blobs/{digest}": "restore",
    "POST /v1/blobs/{digest}/fetch": "restore",
    "GET /v1/remembered/{kind}/{key}": "save restore",
    "PUT /v1/remembered/{kind}/{key}": "save restore",
    "PUT /v1/remembered/digest/{key}": "owner",  # a wrong one would let another model's KV cache through
    "GET /v1/remote/backups": "read restore",
    "POST /v1/remote/backups/{backup_id}/adopt": "restore",
    "GET /v1/watches": "read",
    "POST /v1/watches": "manage",
    "DELETE /v1/watches": "manage",
    "POST /v1/watches/rescan": "manage",
    "GET /v1/settings": "read",
    "GET /v1/sync": "read",
    "POST /v1/sync/now": "manage",
    "POST /v1/sync/retry": "manage",
    "POST /v1/sync/collect": "manage",
    "POST /v1/sync/pause": "manage",
    "POST /v1/sync/resume": "manage",
    "PUT /v1/sync/limits": "manage",
    "PUT /v1/sync/policy": "manage",
    "POST /v1/backups/{backup_id}/used": "restore",
    "PATCH /v1/backups/{backup_id}/retention": "manage",
    "PATCH /v1/sessions/{session_id}/retention": "manage",
    "POST /v1/gc": "manage",
    "GET /v1/backups/{backup_id}/export": "restore",
    "POST /v1/imports": "manage",
    "POST /v1/imports/local": "owner",  # it names a file: no token may have the owner's files read
    "GET /v1/imports": "read",  # what a file holds takes `restore` as well
    "GET /v1/imports/{import_id}": "read",
    "POST /v1/imports/{import_id}/accept": "manage",
    "DELETE /v1/imports/{import_id}": "manage",
    "GET /v1/storage": "read",
    "GET /v1/activity": "read",
    "GET /v1/doctor": "read",
    "POST /v1/doctor": "manage",
    "POST /v1/doctor/fix": "manage",
    "GET /v1/backups/{backup_id}/plan": "read restore",
    "POST /v1/verify": "manage",
    "GET /v1/verify/{run_id}": "read",
    "DELETE /v1/verify/{run_id}": "manage",
    "GET /v1/scrub": "read",
    "POST /v1/scrub": "manage",
    "GET /metrics": "metrics",
    "GET /v1/attached": "read",
    "PUT /v1/attached/{attach_id}": "save restore",  # both; the routes look, and let no page in
    "GET /v1/attached/{attach_id}/work": "save restore",
    "POST /v1/attached/{attach_id}/work/{work_id}": "save restore",
    "DELETE /v1/attached/{attach_id}": "save restore",
    "POST /api/backup/create": "save",
    "POST /api/backup/drain": "save",
    "POST /api/backup/tokens": "save",
    "GET /api/backup/restore/{ref}": "restore",
    "POST /api/backup/restore/{ref}": "restore",
    "GET /api/backup/plan/{ref}": "read restore",
    "GET /api/backup/points/{session_id}": "restore",
    "GET /api/backup/media/{backup_id}/{index}": "restore",
    "GET /v1/key": "owner",
    "POST /v1/key/init": "owner",
    "POST /v1/key/rotate": "owner",
    "POST /v1/key/recovery": "owner",
    "POST /v1/login/links": "owner",
    "DELETE /v1/login": "approve",
    "GET /v1/tokens": "approve",
    "POST /v1/tokens": "owner",
    "DELETE /v1/tokens/{token_id}": "approve",
    "GET /v1/pair/requests": "approve",
    "POST /v1/pair/requests/{code}/approve": "approve",
    "POST /v1/pair/requests/{code}/deny": "approve",
}
# What a page that has no token yet may call: it names its origin, and gets nothing without the user's consent.
OPEN = frozenset({("POST", "/v1/pair"), ("POST", "/v1/pair/claim")})
# What takes its right from the body: the code of a login link. Its route checks it.
CODED = frozenset({("POST", "/v1/login")})
# What a page that unloads may send without headers of its own: a one-use token lies in the body. Its route checks it.
BEACONS = frozenset({("POST", "/api/backup/drain")})


class RouteScopes:
    """Says what a request needs. Where several rows fit one path, it needs each of them."""

    def __init__(self, routes: dict[str, str] = ROUTES) -> None:
        self._rows = []
        for row, scopes in routes.items():
            method, path = row.split()
            self._rows.append((method, compile_path(path)[0], frozenset(scopes.split())))

    def needed(self, method: str, path: str) -> list[frozenset[str]]:
        """Return sets of scopes, of each of which the caller must have one."""
        found = list(self._fitting("GET" if method == "HEAD" else method, path))
        return found or [OWNER]

    def _fitting(self, method: str, path: str) -> Iterator[frozenset[str]]:
        return (scopes for known, pattern, scopes in self._rows if known == method and pattern.match(path))


def unlisted(routes: Iterable[BaseRoute]) -> list[str]:
    """Return the routes that have no row here, by method and path."""
    there = [
        f"{method} {route.path}"
        for route in routes
        if isinstance(route, Route)
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]
    known = set(ROUTES) | {" ".join(pair) for pair in OPEN | CODED}
    return sorted(set(there) - known)
