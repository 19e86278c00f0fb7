"""The HTTP API as a FastAPI application over a catalog."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import orjson
from fastapi import FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException as StarletteHTTPException

from ..codec.manifest_file import digest_of
from ..state.api import API_VERSION, BODY_DIGEST_HEADER, DIGEST_HEADER, SAVE_HEADER
from ..state.backup import Backup
from ..state.errors import BadInput, NotFound, TorporError
from ..state.ids import parse_backup_id, parse_digest, parse_session_id
from ..state.manifest import BlobRef
from ..state.problems import MEDIA_TYPE, problem_at
from .activity_api import add_activity
from .answers import json_answer
from .attached_api import add_attached
from .beacons import Beacons
from .catalog import Catalog
from .doctor_api import add_doctor
from .fetch_api import add_fetches, places_of, resolve
from .garbage import discard
from .groups import add_groups
from .key_api import add_keys
from .login_api import Logins, add_logins
from .metrics import Metrics
from .metrics_api import counted
from .observing import Observing
from .open_file import OpenFileResponse
from .openapi import describe
from .page_api import Pages, add_pages
from .pair_api import add_pairing, add_tokens
from .parts import Parts
from .plan_api import add_plans
from .prefixes import add_prefixes
from .purge import Purge
from .remembered_api import add_remembered, rates_beside
from .remote import RemoteSide
from .removals import Removals
from .retention_api import add_retention
from .room import Room
from .room_api import add_room, storage_report
from .search_api import add_search
from .sessions_api import add_sessions
from .settings_api import add_settings
from .storage_api import add_storage
from .summary import power_report, summary_report
from .sync_api import add_sync
from .sync_report import places, short_report
from .transfer_api import add_transfer
from .upload import receive_blob, receive_manifests
from .verify_api import add_verify
from .watch_api import add_watches

MAX_TIMELINE = 5000  # backups a page
APPROVES = frozenset({"approve"})
_BACKUP_FIELDS = tuple(each.name for each in fields(Backup))


@dataclass(frozen=True, slots=True)
class About:
    """What the daemon says of itself."""

    version: str
    home: str
    store: str
    log: str
    started_at: float
    url: str
    max_recoverable_tokens: int


class BackupChange(BaseModel):
    """A change of a backup."""

    model_config = ConfigDict(extra="forbid", strict=True)
    pinned: bool


class SessionChange(BaseModel):
    """A change of a session; an empty title is none."""

    model_config = ConfigDict(extra="forbid", strict=True)
    title: str | None


class Digests(BaseModel):
    """Blobs to ask for, by digest and size in bytes."""

    model_config = ConfigDict(extra="forbid", strict=True)
    blobs: dict[str, int]


def create_app(parts: Parts, about: About, observing: Observing, clock: Callable[[], float]) -> FastAPI:
    """Build the application with every route. Security lies in front of it (daemon/security.py)."""
    app = FastAPI(title="Torpor", version=about.version, docs_url=None, redoc_url=None)
    app.add_exception_handler(TorporError, on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(StarletteHTTPException, _on_http)
    app.add_exception_handler(Exception, on_error)
    catalog, side = parts.catalog, parts.side
    _add_status(app, parts, about, clock)
    _add_backups(app, parts, observing.metrics)
    _add_sessions(app, catalog)
    _add_blobs(app, catalog, parts.room)
    add_room(app, parts.room)
    add_groups(app, catalog, observing.metrics)
    add_prefixes(app, catalog)
    add_watches(app, parts.watches)
    add_remembered(app, side.remembered, clock)
    add_fetches(app, parts.back)
    add_settings(app, parts.settings, parts.home)
    add_sync(app, side)
    add_keys(app, side.key_desk())
    add_tokens(app, parts.tokens)
    add_attached(app, parts.attached)
    add_logins(app, Logins(parts.tokens, about.url, time.monotonic), parts.tokens)
    add_pairing(app, parts.pairing)
    add_sessions(app, catalog, side, parts.back)
    add_search(app, catalog, parts.search)
    add_pages(app, Pages(parts, Beacons(lambda origin: parts.tokens.page_may(origin, "save"), time.monotonic)))
    add_retention(app, catalog, parts.retention, lambda: side.name_in_bucket, parts.garbage)
    add_verify(app, catalog, parts.care.verifier, parts.care.scrub)
    add_storage(app, parts)
    add_activity(app, catalog.index, clock)
    add_doctor(app, parts, about.version, clock)
    add_plans(app, parts)
    add_transfer(app, parts)
    observing.add_routes(app)
    describe(app)
    return app


async def on_error(request: Request, error: Exception) -> Response:
    """Answer with an RFC 9457 problem."""
    if not isinstance(error, TorporError):
        error = TorporError(f"a defect of ours: {type(error).__name__}")  # its text may hold anything; the log has it
    return Response(orjson.dumps(problem_at(request.url.path, error)), error.http_status, media_type=MEDIA_TYPE)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # Somebody may have put a secret where a name belongs.
    where = "body" if request.url.path.startswith("/v1/key") else ".".join(str(part) for part in first["loc"])
    return await on_error(request, BadInput(f"{where}: {first['msg']}"))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    if isinstance(error.__cause__, TorporError):  # raised while a body was read
        return await on_error(request, error.__cause__)
    if error.status_code in (404, 405):
        problem = problem_at(request.url.path, NotFound(f"no route {request.method} {request.url.path[:120]}"))
    else:
        return await on_error(request, BadInput(str(error.detail)))
    problem["status"] = error.status_code
    return Response(orjson.dumps(problem), error.status_code, dict(error.headers or {}), media_type=MEDIA_TYPE)


def _add_status(app: FastAPI, parts: Parts, about: About, clock: Callable[[], float]) -> None:
    @app.get("/v1/status")
    def status(request: Request) -> Response:
        """Tell what the daemon holds and how it is. Which pages ask for access is told to those who may approve."""
        approves = request.scope["torpor.access"].may(APPROVES)
        disk, summary = os.statvfs(about.store), summary_report(parts, clock(), with_asking=approves)
        body = {
            "api_version": API_VERSION,
            "version": about.version,
            "pid": os.getpid(),
            "url": about.url,
            "home": about.home,
            "store": about.store,
            "log": about.log,
            "started_at": about.started_at,
            "max_recoverable_tokens": about.max_recoverable_tokens,
            "uptime_s": max(clock() - about.started_at, 0.0),
            "disk_free_bytes": disk.f_bavail * disk.f_frsize,
            **asdict(parts.catalog.index.totals()),
            "storage": storage_report(parts.room),
            "watches": parts.watches.describe(),
            "remote": short_report(parts.side),
            "power": power_report(parts, summary["waiting_for_power"]),
            "summary": summary,
        }
        return json_answer(body)


def _add_backups(app: FastAPI, parts: Parts, metrics: Metrics) -> None:
    catalog, side, back = parts.catalog, parts.side, parts.back
    purger, removals = Purge(parts.home, catalog, side, parts.room), Removals(catalog, side)

    @app.get("/v1/backups")
    def list_backups(
        session_id: str | None = None, limit: int = Query(50, ge=1, le=10_000), before: str | None = None
    ) -> Response:
        """List backups, newest first."""
        rows = catalog.index.list_backups(
            session_id=None if session_id is None else parse_session_id(session_id),
            limit=limit,
            before=None if before is None else parse_backup_id(before),
        )
        where = places(side, [row.id for row in rows])
        return json_answer({"backups": [_backup(row) | {"remote": where[row.id]} for row in rows]})

    @app.get("/v1/backups/{ref}")
    async def get_backup(ref: str, ask: bool = True) -> Response:
        """Return one backup, by its id, as the newest of a session, or by the end of its id.

        One that only the bucket has is adopted; with `ask` the bucket is looked at for it.
        """
        found = await resolve(catalog, back, ref, ask=ask)
        where = await run_in_threadpool(places, side, [found.id])
        return json_answer(_backup(found) | {"remote": where[found.id]})

    @app.get("/v1/backups/{backup_id}/manifest")
    def get_manifest(backup_id: str) -> Response:
        """Return a manifest as canonical JSON."""
        raw = catalog.manifest_json(backup_id)
        digest = catalog.index.backup(backup_id).manifest_digest
        return Response(raw, media_type="application/json", headers={DIGEST_HEADER: digest})

    @app.get("/v1/backups/{ref}/opened")
    async def open_backup(ref: str, rates: bool = False) -> Response:
        """Return one backup, found as by its row, and its manifest: who restores asks one question.

        With `rates`, also what was measured here with the model that it was saved from, by key.
        """
        found = await resolve(catalog, back, ref, ask=True)
        return await run_in_threadpool(_opened, catalog, side, found, rates)

    @app.get("/v1/backups/{backup_id}/blobs")
    def get_blobs(backup_id: str) -> Response:
        """Tell where each blob of a backup lies, and which other backups share it."""
        return json_answer(places_of(catalog, back, backup_id))

    @app.put("/v1/backups/{backup_id}", status_code=201)
    async def put_backup(backup_id: str, request: Request, new_session: bool = False) -> Response:
        """Commit a manifest, with `new_session` as the first of its session; the same a second time changes nothing."""
        raw = await receive_manifests(request)
        if backup_id in removals and await run_in_threadpool(removals.holds, backup_id, raw):
            return json_answer(_backup(await run_in_threadpool(removals.undo, backup_id)), 201)
        with counted(metrics, request):
            record = await run_in_threadpool(catalog.commit, backup_id, raw, new_session=new_session)
        return json_answer(_backup(record), 201)

    @app.patch("/v1/backups/{backup_id}")
    def patch_backup(backup_id: str, change: BackupChange) -> Response:
        """Pin or unpin a backup."""
        return json_answer(_backup(catalog.set_pinned(backup_id, change.pinned)))

    @app.delete("/v1/backups/{backup_id}", status_code=204)
    def delete_backup(backup_id: str, purge: bool = False) -> Response:
        """Remove a backup from this machine; with `purge` so that nothing stays, in the bucket neither."""
        if purge:
            removals.forget(backup_id)
            return json_answer(asdict(purger.run(parse_backup_id(backup_id))))
        removals.remove(backup_id)
        return Response(status_code=204)

    @app.post("/v1/backups/{backup_id}/undo-removal", status_code=201)
    def undo_removal(backup_id: str) -> Response:
        """Bring back a backup that was removed in the last quarter of an hour, with all that was said of it."""
        return json_answer(_backup(removals.undo(backup_id)), 201)


def _add_sessions(app: FastAPI, catalog: Catalog) -> None:
    @app.get("/v1/sessions/{session_id}/timeline")
    def timeline(session_id: str, limit: int = Query(50, ge=1, le=MAX_TIMELINE), before: str | None = None) -> Response:
        """List backups of a session, newest first, with what they come from and what was forked from them."""
        found = catalog.index.timeline(
            parse_session_id(session_id), limit=limit, before=None if before is None else parse_backup_id(before)
        )
        return json_answer(found)

    @app.patch("/v1/sessions/{session_id}")
    def patch_session(session_id: str, change: SessionChange) -> Response:
        """Give a session a title."""
        return json_answer(_backup(catalog.set_title(session_id, change.title)))


def _backup(record: Backup) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _BACKUP_FIELDS}  # `asdict` copies what nobody changes


def _opened(catalog: Catalog, side: RemoteSide, found: Backup, with_rates: bool) -> Response:
    row = orjson.dumps(_backup(found) | {"remote": places(side, [found.id])[found.id]})
    raw = catalog.manifest_of(found)
    rates = b',"rates":%b' % rates_beside(raw, side.remembered, catalog.now()) if with_rates else b""
    body = b'{"backup":%b,"manifest":%b%b}' % (row, raw, rates)
    return Response(body, media_type="application/json", headers={BODY_DIGEST_HEADER: digest_of(body)})


def _add_blobs(app: FastAPI, catalog: Catalog, room: Room) -> None:
    @app.post("/v1/blobs/missing")
    def missing(digests: Digests) -> Response:
        """Return which of some blobs the store lacks."""
        refs = [BlobRef(parse_digest(digest), size) for digest, size in digests.blobs.items()]
        return json_answer({"missing": catalog.blobs.missing(refs)})

    @app.post("/v1/blobs/discard")
    def discard_blobs(digests: Digests) -> Response:
        """Remove those of some blobs that no backup needs, at once: a save that failed gives its room back."""
        return json_answer({"removed": discard(catalog, (parse_digest(digest) for digest in digests.blobs))})

    @app.put("/v1/blobs/{digest}", status_code=201)
    async def put_blob(digest: str, request: Request) -> Response:
        """Store a blob; its bytes must have the digest. `Torpor-Save` names the save whose room it takes."""
        save_id = request.headers.get(SAVE_HEADER)
        with room.taking(None if save_id is None else parse_backup_id(save_id)) as take:
            stored = await receive_blob(catalog.blobs, catalog.staging, parse_digest(digest), request, take)
        return json_answer(stored, 201)

    @app.get("/v1/blobs/{digest}")
    def get_blob(digest: str) -> Response:
        """Return a blob's bytes (ranges are served)."""
        return OpenFileResponse(catalog.blobs.open(digest), media_type="application/octet-stream")
