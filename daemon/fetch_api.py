"""The routes of what comes back from the bucket: fetch a backup, wait for a blob, see what the bucket holds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

import orjson
from fastapi import FastAPI, Query, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict

from ..state.backup import Backup
from ..state.errors import BackupNotFound, SessionNotFound, SyncOff, TorporError
from ..state.ids import parse_backup_id, parse_digest, parse_session_id
from ..state.problems import to_problem
from ..state.remote import RemoteObject
from ..sync.fetch import Download
from .catalog import BackupBlobs, Catalog
from .fetches import Fetches, outcome
from .remote_backups import RemoteBackups

MAX_WAIT_S = 45.0  # of one request: below a client's patience


class Objects(Protocol):
    """What of the bucket is known."""

    def objects(self, digests: Sequence[str]) -> Any:
        """Return an object for each digest that has one."""
        ...


class BackFromBucket:
    """What the routes need while S3 is on."""

    def __init__(
        self,
        fetches: Fetches,
        backups: RemoteBackups,
        objects: Objects,
        away: Callable[[], TorporError | None] = lambda: None,
    ) -> None:
        """Take the parts. `away` says why the bucket cannot be used now, as far as others know."""
        self.fetches, self.backups, self.objects, self._away = fetches, backups, objects, away

    def trouble(self) -> TorporError | None:
        """Return why nothing can be fetched for the moment, as far as anybody knows."""
        return self.fetches.down() or self._away()


def resolve(catalog: Catalog, back: BackFromBucket | None, ref: str, *, ask: bool) -> Backup:
    """Return a backup of this machine, or one that only the bucket has, which is adopted.

    Raises: BackupNotFound, SessionNotFound, InvalidId, AmbiguousId, and what the bucket fails with.
    """
    try:
        return catalog.resolve(ref)
    except (BackupNotFound, SessionNotFound) as error:
        unknown = error
    found = None if back is None else back.backups.find(ref, ask=ask)
    if found is None:
        raise unknown
    return found


def places_of(catalog: Catalog, back: BackFromBucket | None, backup_id: str) -> BackupBlobs:
    """Tell where each blob of a backup lies, here or in the bucket. Raises: BackupNotFound, ManifestDamaged."""
    found = catalog.blobs_of(backup_id)
    missing = [blob.digest for blob in found.blobs if not blob.present]
    if back is None or not missing:
        return found
    there = back.objects.objects(missing)
    return replace(found, blobs=tuple(replace(blob, in_bucket=blob.digest in there) for blob in found.blobs))


class Wanted(BaseModel):
    """Blobs to fetch, in this order; without them, all of the backup that are not here."""

    model_config = ConfigDict(extra="forbid")
    digests: list[str] | None = None


class Asked(BaseModel):
    """Blobs to ask about."""

    model_config = ConfigDict(extra="forbid")
    digests: list[str]


def add_fetches(app: FastAPI, back: BackFromBucket | None) -> None:
    """Add the routes. With S3 off they say so."""
    _add_batches(app, back)
    _add_blobs(app, back)
    _add_listing(app, back)


def _on(back: BackFromBucket | None) -> BackFromBucket:
    if back is None:
        raise SyncOff("there is no bucket to fetch from")
    return back


def _add_batches(app: FastAPI, back: BackFromBucket | None) -> None:
    @app.post("/v1/backups/{backup_id}/fetch", status_code=202)
    def start_fetch(backup_id: str, wanted: Wanted) -> Response:
        """Begin to bring blobs of a backup here; the answer names the fetch."""
        fetches = _on(back).fetches
        batch = fetches.start(parse_backup_id(backup_id), wanted.digests)
        return _json(fetches.batch(batch.id), 202)

    @app.get("/v1/fetches/{fetch_id}")
    def get_fetch(fetch_id: str) -> Response:
        """Tell how far a fetch is."""
        return _json(_on(back).fetches.batch(fetch_id))

    @app.delete("/v1/fetches/{fetch_id}")
    def end_fetch(fetch_id: str) -> Response:
        """End a fetch; what has arrived stays."""
        return _json(_on(back).fetches.cancel(fetch_id))


def _add_blobs(app: FastAPI, back: BackFromBucket | None) -> None:
    @app.post("/v1/blobs/{digest}/fetch")
    async def fetch_blob(digest: str, wait_s: float = Query(20.0, ge=0, le=MAX_WAIT_S)) -> Response:
        """Bring a blob here, or heal it, and answer when it is there (200) or the time is over (202: ask again)."""
        download = await run_in_threadpool(_on(back).fetches.one, parse_digest(digest))
        if await _settled(download, wait_s):
            outcome(download)
            return _json({"digest": digest, "size_bytes": download.ref.size_bytes})
        body = {"digest": digest, "size_bytes": download.ref.size_bytes, "arrived_bytes": download.arrived_bytes}
        return _json(body, 202)

    @app.post("/v1/blobs/remote")
    def remote_blobs(asked: Asked) -> Response:
        """Tell which of some blobs the bucket has, and why they cannot be fetched now, where that is known."""
        on = _on(back)
        found: dict[str, RemoteObject] = on.objects.objects([parse_digest(digest) for digest in asked.digests])
        return _json({"remote": sorted(found), "trouble": _problem(on.trouble())})


async def _settled(download: Download, wait_s: float) -> bool:
    """Wait for a download without holding a thread; several hundred may wait at once."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: object) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(done.set)

    download.result.add_done_callback(tell)
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), wait_s)
    return download.result.done()


def _add_listing(app: FastAPI, back: BackFromBucket | None) -> None:
    @app.get("/v1/remote/backups")
    def remote_backups(refresh: bool = True, session_id: str | None = None) -> Response:
        """List what the bucket holds, of all machines. `reading`: its records are still being read, ask again."""
        on = _on(back)
        looked = on.backups.look() if refresh else on.backups.looked()
        rows = on.backups.listing(None if session_id is None else parse_session_id(session_id))
        damaged = [{"record": name, "problem": to_problem(error)} for name, error in looked.unreadable]
        body = {"backups": rows, "unreadable": damaged, "reading": looked.reading, "trouble": _problem(looked.trouble)}
        return _json(body)

    @app.post("/v1/remote/backups/{backup_id}/adopt", status_code=201)
    def adopt_backup(backup_id: str) -> Response:
        """Make a backup of the bucket one of this machine; its blobs follow when they are needed."""
        return _json(_on(back).backups.adopt(parse_backup_id(backup_id)), 201)


def _problem(error: TorporError | None) -> dict[str, Any] | None:
    return None if error is None else to_problem(error)


def _json(value: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")
