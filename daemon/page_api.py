"""The backup routes of an inference server, served by the daemon: for pages that speak with it directly.

What needs the model is asked of the inference process that is attached; what a page says in text alone is saved and
given back by the daemon itself. Every answer says `success`; one that is no success is a problem besides.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from ..codec import manifest_file
from ..codec.source_media import source
from ..state.access import Access, parse_origin
from ..state.backup import Backup
from ..state.errors import BadInput, ScopeDenied, Unauthorized
from ..state.ids import parse_backup_id, parse_session_id
from ..state.manifest import MAX_COUNT
from ..state.page_items import read_item
from .answers import private_answer
from .beacons import MAX_AT_ONCE, Beacons
from .blob_reads import BlobReads
from .fetch_api import resolve
from .page_points import points, text_of
from .page_saves import PageSaves
from .parts import Parts
from .plan_api import PlanDesk
from .sessions_api import media_response

MAX_POINTS = 100


class Create(BaseModel):
    """What to back up: a session, or with null all that are held; `state` is what a page says by itself."""

    model_config = ConfigDict(extra="forbid", strict=True)
    session_id: str | None
    small: bool = False
    state: dict[str, Any] | None = None


class Count(BaseModel):
    """How many tokens for beacons a page wants."""

    model_config = ConfigDict(extra="forbid", strict=True)
    count: int = Field(1, ge=1, le=MAX_AT_ONCE)


class Pages:
    """What the routes work with."""

    def __init__(self, parts: Parts, beacons: Beacons) -> None:
        self.catalog, self.back, self.processes, self.beacons = parts.catalog, parts.back, parts.attached, beacons
        self.reads = BlobReads(parts.catalog, parts.back)
        self.saves, self.plans = PageSaves(parts.catalog, self.reads, parts.room), PlanDesk(parts)

    async def find(self, ref: str) -> Backup:
        """Return a backup by its id, or the newest of a session, from the bucket if need be."""
        return await resolve(self.catalog, self.back, ref, ask=True)


def add_pages(app: FastAPI, pages: Pages) -> None:
    """Add the routes."""
    _add_saves(app, pages)
    _add_restores(app, pages)


def _add_saves(app: FastAPI, pages: Pages) -> None:
    @app.post("/api/backup/create", status_code=201)
    async def create(wanted: Create, request: Request) -> Response:
        """Back up a session: by the attached process, or with `state` what the page says of it."""
        if wanted.session_id is None and _is_page(request):
            raise ScopeDenied("a page backs up its own sessions", hint="Name the session.")
        if wanted.state is None:
            session_id = None if wanted.session_id is None else parse_session_id(wanted.session_id)
            return private_answer(await pages.processes.ask("save", session_id=session_id, small=wanted.small), 201)
        item = read_item(wanted.state)
        if item.session_id != wanted.session_id:
            raise BadInput("the state is one of another session")
        saved = await run_in_threadpool(pages.saves.save, item)
        return private_answer({"success": True} | asdict(saved), 201)

    @app.post("/api/backup/drain")
    async def drain(request: Request) -> Response:
        """Save what a page could not send earlier. Without a header for its token, one lies in the body (`token`)."""
        body = _read_body(await request.body())
        if request.scope.get("torpor.access") is None:
            _let_in(pages.beacons, request, body.get("token"))
        pending = body.get("pending")
        if not isinstance(pending, list):
            raise BadInput("`pending` is not a list")
        return private_answer(await run_in_threadpool(pages.saves.drain, pending))

    @app.post("/api/backup/tokens")
    def tokens(wanted: Count, request: Request) -> Response:
        """Give a page tokens for beacons, each for one drain and some hours."""
        access = request.scope.get("torpor.access")
        return private_answer(
            {"tokens": pages.beacons.give(access, wanted.count) if isinstance(access, Access) else []}
        )


def _add_restores(app: FastAPI, pages: Pages) -> None:
    @app.get("/api/backup/restore/{ref}")
    @app.post("/api/backup/restore/{ref}")
    async def restore(ref: str, text: bool = False) -> Response:
        """Wake a backup (or the newest of a session) in the attached process; with `text`, only say what it holds."""
        found = await pages.find(ref)
        if not text:
            exactly = None if ref == found.session_id else found.id  # its newest: one that is awake may go on as it is
            return private_answer(await pages.processes.ask("restore", session_id=found.session_id, backup_id=exactly))
        seen = await run_in_threadpool(pages.saves.look, found)
        plan = {"mode": "text-only", "notes": [], "tokens_reused": 0, "tokens_prefill": 0, "seconds": None}
        return private_answer({"success": True, "mode": "text-only"} | text_of(seen) | {"plan": plan})

    @app.get("/api/backup/plan/{ref}")
    async def plan(ref: str) -> Response:
        """Tell what a restore would bring back: of the attached process, else as it was saved, under the same model."""
        return private_answer(await pages.plans.tell(await pages.find(ref)))

    @app.get("/api/backup/points/{session_id}")
    def list_points(session_id: str, limit: int = Query(20, ge=1, le=MAX_POINTS)) -> Response:
        """List the points that a session can go back to, newest first."""
        found = pages.catalog.index.list_backups(session_id=parse_session_id(session_id), limit=limit)
        return private_answer({"points": points(pages.saves, found)})

    @app.get("/api/backup/media/{backup_id}/{index}")
    def media(backup_id: str, index: Annotated[int, Path(ge=0, lt=MAX_COUNT)]) -> Response:
        """Return the bytes of an image."""
        manifest = manifest_file.load(pages.catalog.manifest_json(parse_backup_id(backup_id)))
        return media_response(source(manifest, index), pages.reads.one)


def _is_page(request: Request) -> bool:
    access = request.scope.get("torpor.access")
    return isinstance(access, Access) and access.origin is not None


def _read_body(raw: bytes) -> dict[str, Any]:
    """Read a drain's body: JSON, whatever type it was sent as. Raises: BadInput."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise BadInput("the body is not JSON") from None
    if not isinstance(body, dict):
        raise BadInput("the body is not an object")
    return body


def _let_in(beacons: Beacons, request: Request, token: Any) -> None:
    """Check the right of a beacon, whose origin the gate has approved. Raises: as `Beacons.take`."""
    origin = request.headers.get("origin")
    if origin is None or not isinstance(token, str):
        raise Unauthorized("the beacon carries no token")
    beacons.take(parse_origin(origin), token)
