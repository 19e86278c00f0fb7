"""The routes of what comes back from the bucket: fetch a backup, wait for a blob, see what the bucket holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from fastapi import FastAPI, Query, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict

from ..state.backup import Backup
from ..state.errors import BackupNotFound, SessionNotFound, SyncOff, TorporError
from ..state.ids import parse_backup_id, parse_digest, parse_session_id
from ..state.problems import to_problem
from ..state.remote import RemoteObject
from .answers import json_answer
from .asks import Asks, settled
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

    def __init__(self, fetches: Fetches, backups: RemoteBackups, objects: Objects, asks: Asks) -> None:
        self.fetches, self.backups, self.objects, self.asks = fetches, backups, objects, asks

    def close(self) -> None:
        """Let everybody go who waits for the bucket."""
        self.asks.close()
        self.fetches.close()


async def resolve(catalog: Catalog, back: BackFromBucket | None, ref: str, *, ask: bool) -> Backup:
    """Return a backup of this machine, or one that only the bucket has, which is adopted.

    Raises: BackupNotFound, SessionNotFound, InvalidId, AmbiguousId, and what the bucket fails with.
    """
    try:
        return await run_in_threadpool(catalog.resolve, ref)
    except (BackupNotFound, SessionNotFound) as error:
        unknown = error
    found = None if back is None else await back.asks.run(partial(back.backups.find, ref, ask=ask))
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

    model_config = ConfigDict(extra="forbid", strict=True)
    digests: list[str] | None = None


class Asked(BaseModel):
    """Blobs to ask about."""

    model_config = ConfigDict(extra="forbid", strict=True)
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
        return json_answer(fetches.batch(batch.id), 202)

    @app.get("/v1/fetches/{fetch_id}")
    def get_fetch(fetch_id: str) -> Response:
        """Tell how far a fetch is."""
        return json_answer(_on(back).fetches.batch(fetch_id))

    @app.delete("/v1/fetches/{fetch_id}")
    def end_fetch(fetch_id: str) -> Response:
        """End a fetch; what has arrived stays."""
        return json_answer(_on(back).fetches.cancel(fetch_id))


def _add_blobs(app: FastAPI, back: BackFromBucket | None) -> None:
    @app.post("/v1/blobs/{digest}/fetch")
    async def fetch_blob(digest: str, wait_s: float = Query(20.0, ge=0, le=MAX_WAIT_S)) -> Response:
        """Bring a blob here, or heal it, and answer when it is there (200) or the time is over (202: ask again)."""
        download = await run_in_threadpool(_on(back).fetches.one, parse_digest(digest))
        if await settled(download.result, wait_s):
            outcome(download)
            return json_answer({"digest": digest, "size_bytes": download.ref.size_bytes})
        body = {"digest": digest, "size_bytes": download.ref.size_bytes, "arrived_bytes": download.arrived_bytes}
        return json_answer(body, 202)

    @app.post("/v1/blobs/remote")
    def remote_blobs(asked: Asked) -> Response:
        """Tell which of some blobs the bucket has, and why they cannot be fetched now, where that is known."""
        on = _on(back)
        found: dict[str, RemoteObject] = on.objects.objects([parse_digest(digest) for digest in asked.digests])
        return json_answer({"remote": sorted(found), "trouble": _problem(on.backups.away())})


def _add_listing(app: FastAPI, back: BackFromBucket | None) -> None:
    @app.get("/v1/remote/backups")
    async def remote_backups(refresh: bool = True, session_id: str | None = None) -> Response:
        """List what the bucket holds, of all machines. `reading`: its records are still being read, ask again."""
        on = _on(back)
        wanted = None if session_id is None else parse_session_id(session_id)
        looked = await on.asks.run(on.backups.look) if refresh else on.backups.looked()
        rows = await run_in_threadpool(on.backups.listing, wanted)
        damaged = [{"record": name, "problem": to_problem(error)} for name, error in looked.unreadable]
        body = {"backups": rows, "unreadable": damaged, "reading": looked.reading, "trouble": _problem(looked.trouble)}
        return json_answer(body)

    @app.post("/v1/remote/backups/{backup_id}/adopt", status_code=201)
    async def adopt_backup(backup_id: str) -> Response:
        """Make a backup of the bucket one of this machine; its blobs follow when they are needed."""
        on = _on(back)
        return json_answer(await on.asks.run(partial(on.backups.adopt, parse_backup_id(backup_id))), 201)


def _problem(error: TorporError | None) -> dict[str, Any] | None:
    return None if error is None else to_problem(error)
