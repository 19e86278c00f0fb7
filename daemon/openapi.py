"""The OpenAPI document: what FastAPI cannot know of routes that answer by themselves. It lies behind the token.

Every answer that is not of 2xx is a problem (RFC 9457), whichever route it comes from.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from ..state.backup import Backup, Group
from ..state.errors import error_classes
from ..state.glimpse import PICTURES
from ..state.ids import BACKUP_PATTERN, DIGEST_PATTERN, SESSION_PATTERN
from ..state.problems import MEDIA_TYPE
from .catalog import BackupBlobs
from .prefixes import Prefix
from .scopes import CODED, OPEN, ROUTES

Schema = dict[str, Any]
_STR, _INT, _NUM, _BOOL = ({"type": name} for name in ("string", "integer", "number", "boolean"))
_ANY_OBJECT: Schema = {"type": "object"}
_BINARY: Schema = {"type": "string", "format": "binary"}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_PROBLEM = _object(type=_STR, title=_STR, status=_INT, detail=_STR, code=_STR, hint=_STR, retryable=_BOOL)
_PROBLEM["properties"]["digests"] = _list(_STR)
_PROBLEM["properties"]["code"] = {"type": "string", "enum": sorted(error_classes())}
_SUMMARY = _object(level=_STR, kind=_STR, sessions=_INT, waiting=_INT, sentence=_STR)
_STATUS = _object(api_version=_INT, version=_STR, pid=_INT, url=_STR, home=_STR, store=_STR, log=_STR, started_at=_NUM)
_STATUS["properties"]["power"] = _object(on_battery=_BOOL, always=_BOOL, waiting=_list(_STR))
_STATUS["properties"]["summary"] = _SUMMARY
_WATCH = _object(folder=_STR, source=_STR, mode=_STR, files=_INT, waiting=_INT, failing_count=_INT)
_BATCH = _object(id=_STR, backup_id=_STR)
_BLOB = _object(digest=_STR, size_bytes=_INT)
_SYNC = _object(on=_BOOL, state=_STR)
_STORAGE = _object(used_bytes=_INT, hard_bytes=_INT, classes=_list(_object(name=_STR, size_bytes=_INT)))
_IMPORT = _object(id=_STR, name=_STR, state=_STR, size_bytes=_INT, held=_BOOL)
_CHECK = _object(name=_STR, status=_STR, detail=_STR, hint=_STR, fixable=_BOOL)
_DOCTOR = _object(state=_STR, done=_INT, total=_INT, checks=_list(_CHECK))
_PHRASE = _object(code=_STR, text=_STR, values=_ANY_OBJECT)
_PLAN = _object(mode=_STR, exact=_BOOL, sentence=_STR, words=_list(_STR), phrases=_list(_PHRASE))
_PROCESS = _object(name=_STR, pid=_INT, model={}, sessions=_list(_STR), attached_at=_NUM, working=_INT)
_DRAINED = _object(id=_STR, backup_id=_STR, kind=_STR)
_REFUSED = _object(code=_STR, detail=_STR, hint=_STR, retryable=_BOOL)
_POINT = _object(backup_id=_STR, created_at=_NUM, tokens=_INT, layers=_list(_STR), pinned=_BOOL, preview=_STR)

# What a route answers when all is well; the status is the one that its decorator says.
_ANSWERS: dict[str, Schema] = {
    "GET /v1/status": _STATUS,
    "GET /v1/events": _object(events=_list(_object(kind=_STR, at=_NUM))),
    "GET /v1/backups": _object(backups=_list(_ref("Backup"))),
    "GET /v1/backups/{ref}": _ref("Backup"),
    "GET /v1/backups/{backup_id}/manifest": _ANY_OBJECT,
    "GET /v1/backups/{ref}/opened": _object(backup=_ref("Backup"), manifest=_ANY_OBJECT),  # and `rates`
    "GET /v1/backups/{backup_id}/blobs": _ref("BackupBlobs"),
    "PUT /v1/backups/{backup_id}": _ref("Backup"),
    "PATCH /v1/backups/{backup_id}": _ref("Backup"),
    "POST /v1/backups/{backup_id}/undo-removal": _ref("Backup"),
    "PATCH /v1/sessions/{session_id}": _ref("Backup"),
    "GET /v1/search": _object(results=_list(_object(session_id=_STR, hits=_INT)), more=_BOOL, waiting=_INT),
    "GET /v1/sessions": _object(
        sessions=_list(_object(session_id=_STR, backups=_INT, newest=_ref("Backup"))), total=_INT
    ),
    "GET /v1/sessions/{session_id}/drawing": _object(total=_INT, rows=_list(_object(id=_STR, place=_STR, lane=_INT))),
    "GET /v1/sessions/{session_id}/timeline": _ANY_OBJECT,
    "GET /v1/backups/{backup_id}/messages": _object(total=_INT, messages=_list(_object(index=_INT, role=_STR))),
    "PUT /v1/sessions/{session_id}/no-sync": _object(session_id=_STR, no_sync=_BOOL),
    "GET /v1/groups": _object(groups=_list(_object(id=_STR, name=_STR, present=_INT))),
    "GET /v1/groups/{ref}": _ref("Group"),
    "PUT /v1/groups/{group_id}": _ref("Group"),
    "POST /v1/prefix": _ref("Prefix"),
    "POST /v1/blobs/missing": _object(missing=_list(_STR)),
    "POST /v1/blobs/discard": _object(removed=_INT),
    "POST /v1/blobs/remote": _object(remote=_list(_STR), trouble={}),
    "PUT /v1/blobs/{digest}": _BLOB,
    "POST /v1/blobs/{digest}/fetch": _BLOB,
    "POST /v1/backups/{backup_id}/fetch": _BATCH,
    "GET /v1/fetches/{fetch_id}": _BATCH,
    "DELETE /v1/fetches/{fetch_id}": _BATCH,
    "GET /v1/remote/backups": _object(backups=_list(_ANY_OBJECT), unreadable=_list(_ANY_OBJECT), reading=_BOOL),
    "POST /v1/remote/backups/{backup_id}/adopt": _ANY_OBJECT,
    "PUT /v1/room/{save_id}": _ANY_OBJECT,
    "POST /v1/verify": _ANY_OBJECT,
    "GET /v1/verify/{run_id}": _ANY_OBJECT,
    "DELETE /v1/verify/{run_id}": _ANY_OBJECT,
    "GET /v1/scrub": _ANY_OBJECT,
    "POST /v1/scrub": _ANY_OBJECT,
    "POST /v1/gc": _ANY_OBJECT,
    "POST /v1/imports": _IMPORT,
    "POST /v1/imports/local": _IMPORT,
    "POST /v1/imports/{import_id}/accept": _IMPORT,
    "DELETE /v1/imports/{import_id}": _IMPORT,
    "GET /v1/imports": _object(imports=_list(_IMPORT)),
    "GET /v1/imports/{import_id}": _IMPORT,
    "GET /v1/storage": _STORAGE,
    "GET /v1/activity": _object(step_s=_INT, points=_list(_object(at=_NUM, backups=_INT, bytes_written=_INT))),
    "GET /v1/doctor": _DOCTOR,
    "POST /v1/doctor": _DOCTOR,
    "POST /v1/doctor/fix": _DOCTOR,
    "GET /v1/backups/{backup_id}/plan": _PLAN,
    "PATCH /v1/backups/{backup_id}/retention": _ref("Backup"),
    "PATCH /v1/sessions/{session_id}/retention": _ANY_OBJECT,
    "GET /v1/watches": _object(watches=_list(_WATCH)),
    "POST /v1/watches": _WATCH,
    "DELETE /v1/watches": _WATCH,
    "POST /v1/watches/rescan": _object(watches=_list(_WATCH)),
    "GET /v1/sync": _SYNC,
    "POST /v1/sync/now": _SYNC,
    "POST /v1/sync/pause": _SYNC,
    "POST /v1/sync/resume": _SYNC,
    "PUT /v1/sync/limits": _SYNC,
    "PUT /v1/sync/policy": _SYNC,
    "POST /v1/sync/retry": _object(retried=_INT),
    "POST /v1/sync/collect": _ANY_OBJECT,
    "GET /v1/attached": _object(processes=_list(_PROCESS)),
    "PUT /v1/attached/{attach_id}": _object(longest_poll_s=_NUM),
    "GET /v1/attached/{attach_id}/work": _object(work=_list(_object(id=_STR, kind=_STR))),
    "POST /api/backup/create": _object(success=_BOOL),
    "POST /api/backup/drain": _object(success=_BOOL, drained=_list(_DRAINED), refused=_list(_REFUSED)),
    "POST /api/backup/tokens": _object(tokens=_list(_STR)),
    "GET /api/backup/restore/{ref}": _object(success=_BOOL, mode=_STR),
    "POST /api/backup/restore/{ref}": _object(success=_BOOL, mode=_STR),
    "GET /api/backup/plan/{ref}": _object(mode=_STR, words=_list(_STR), exact=_BOOL),
    "GET /api/backup/points/{session_id}": _object(points=_list(_POINT)),
    "GET /v1/key": _ANY_OBJECT,
    "POST /v1/key/init": _ANY_OBJECT,
    "POST /v1/key/rotate": _ANY_OBJECT,
    "POST /v1/key/recovery": _object(recovery=_STR),
}
# Second ways of being well.
_FURTHER: dict[str, tuple[str, str, Schema]] = {
    "POST /v1/blobs/{digest}/fetch": ("202", "It is not there yet", _BLOB),
    "DELETE /v1/backups/{backup_id}": ("200", "What was removed, with `purge`", _ANY_OBJECT),
}
# Bodies that routes read by themselves.
_BODIES: dict[str, tuple[str, Schema]] = {
    "PUT /v1/backups/{backup_id}": ("application/json", _ANY_OBJECT),
    "PUT /v1/groups/{group_id}": ("application/json", _object(manifests=_list(_ANY_OBJECT))),
    "PUT /v1/remembered/{kind}/{key}": ("application/json", {}),
    "POST /v1/imports": ("application/octet-stream", _BINARY),
    "PUT /v1/blobs/{digest}": ("application/octet-stream", _BINARY),
    "POST /api/backup/drain": ("application/json", _object(pending=_list({}))),
}
_PATTERNS = {
    "backup_id": BACKUP_PATTERN,
    "save_id": BACKUP_PATTERN,
    "group_id": BACKUP_PATTERN,
    "digest": DIGEST_PATTERN,
    "session_id": SESSION_PATTERN,
}
# What the gate answers, and what any route may; the rest of the error tree is `default`.
_ANYWHERE = ("401", "403", "413", "415", "422", "426", "429")


def describe(app: FastAPI) -> None:
    """Complete the application's document, which is made at the first question for it."""
    plain = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(plain())
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign]


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = _PROBLEM
    for kind in (Backup, Group, BackupBlobs, Prefix):
        made = TypeAdapter(kind).json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        schemas |= made.pop("$defs", {}) | {kind.__name__: made}
    bearer = "The token of the home folder, or one of `torpor token new`."
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer", "description": bearer}}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _complete(operation, f"{method.upper()} {path}")
    return document


def _complete(operation: dict[str, Any], route: str) -> None:
    opened = tuple(route.split()) in OPEN | CODED
    operation["security"] = [] if opened else [{"bearer": []}]
    scopes = "everybody; what it takes lies in the body" if opened else ROUTES.get(route, "owner").replace(" ", ", ")
    operation["description"] = f"{operation.get('description', '')}\n\nOpen to: {scopes}.".strip()
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path" and parameter["name"] in _PATTERNS:
            parameter["schema"] = {"type": "string", "pattern": _PATTERNS[parameter["name"]]}
    if route in _BODIES:
        kind, schema = _BODIES[route]
        operation["requestBody"] = {"required": True, "content": {kind: {"schema": schema}}}
    _complete_answers(operation["responses"], route)


def _complete_answers(answers: dict[str, Any], route: str) -> None:
    well = next(status for status in answers if status.startswith("2"))
    if route == "GET /v1/blobs/{digest}":
        binary = {"application/octet-stream": {"schema": _BINARY}}
        answers["200"]["content"] = binary
        answers["206"] = {
            "description": "The range that was asked for",
            "content": binary | {"multipart/byteranges": {}},
        }
        answers["416"] = {"description": "No such range", "content": {"text/plain": {"schema": _STR}}}
        answers["400"] = {"description": "Not a range", "content": {"text/plain": {"schema": _STR}}}
    elif route == "GET /v1/backups/{backup_id}/export":
        answers["200"]["content"] = {"application/octet-stream": {"schema": _BINARY}}
    elif route in ("GET /v1/backups/{backup_id}/media/{number}", "GET /api/backup/media/{backup_id}/{index}"):
        answers["200"]["content"] = {kind: {"schema": _BINARY} for kind in ("application/octet-stream", *PICTURES)}
    elif route == "GET /v1/events/stream":
        answers["200"]["content"] = {"text/event-stream": {"schema": _object(data=_STR)}}
    elif route == "GET /metrics":
        answers["200"]["content"] = {"text/plain; version=0.0.4; charset=utf-8": {"schema": _STR}}
    elif route in _ANSWERS:
        answers[well]["content"] = {"application/json": {"schema": _ANSWERS[route]}}
    if route in _FURTHER:
        status, description, schema = _FURTHER[route]
        answers[status] = {"description": description, "content": {"application/json": {"schema": schema}}}
    problem = {"description": "A problem", "content": {MEDIA_TYPE: {"schema": _ref("Problem")}}}
    for status in (*_ANYWHERE, "default"):
        answers[status] = problem
