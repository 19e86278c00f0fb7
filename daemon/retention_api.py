"""The routes of retention: run or foretell it, say how long backups are kept, note that one is restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

from ..state.errors import BadInput
from ..state.ids import parse_backup_id
from .answers import json_answer
from .catalog import Catalog
from .garbage import Garbage
from .keeping import keep_backup, keep_session, note_used
from .retention import Retention

MAX_TTL_S = 1e10  # three hundred years: for ever
Ttl = Annotated[float, Field(gt=0, le=MAX_TTL_S)]


class Run(BaseModel):
    """Whether only to tell what would go, and whether the user says that the clock is right."""

    model_config = ConfigDict(extra="forbid", strict=True)
    dry_run: bool = False
    trust_clock: bool = False


class SessionKept(BaseModel):
    """How long a session's backups are kept, in seconds, and how many outlive that; null for the setting."""

    model_config = ConfigDict(extra="forbid", strict=True)
    ttl_s: Ttl | None = None
    keep_newest: Annotated[int, Field(ge=0, le=1_000_000)] | None = None


class BackupKept(BaseModel):
    """How long a backup is kept from now on, in seconds; null for as long as its session says."""

    model_config = ConfigDict(extra="forbid", strict=True)
    ttl_s: Ttl | None


def add_retention(
    app: FastAPI,
    catalog: Catalog,
    retention: Retention,
    machine: Callable[[], str | None],
    garbage: Garbage,
) -> None:
    """Add the routes."""

    @app.post("/v1/gc")
    def gc(wanted: Run) -> Response:
        """Let go of what is over, make room down to the soft limit, and collect blobs that nobody needs."""
        if wanted.dry_run and wanted.trust_clock:
            raise BadInput("a dry run changes nothing, so it does not believe the clock either")
        report = retention.run(dry_run=wanted.dry_run, believe_clock=wanted.trust_clock)
        return json_answer(asdict(report) | {"collected": asdict(garbage.collect(dry_run=wanted.dry_run))})

    @app.patch("/v1/sessions/{session_id}/retention")
    def patch_session_retention(session_id: str, wanted: SessionKept) -> Response:
        """Say how long a session's backups are kept; what is left out stays as it is."""
        sidecar = catalog.sidecars.read(catalog.index.newest(session_id).session_id)
        given = wanted.model_fields_set
        ttl_s = wanted.ttl_s if "ttl_s" in given else sidecar.ttl_s
        keep_newest = wanted.keep_newest if "keep_newest" in given else sidecar.keep_newest
        newest = keep_session(catalog, session_id, ttl_s=ttl_s, keep_newest=keep_newest)
        body = {"session_id": session_id, "ttl_s": ttl_s, "keep_newest": keep_newest, "default_ttl_s": catalog.ttl_s}
        return json_answer(body | {"newest": asdict(newest)})

    @app.patch("/v1/backups/{backup_id}/retention")
    def patch_backup_retention(backup_id: str, wanted: BackupKept) -> Response:
        """Say how long a backup is kept from now on."""
        return json_answer(asdict(keep_backup(catalog, backup_id, wanted.ttl_s)))

    @app.post("/v1/backups/{backup_id}/used", status_code=204)
    def backup_used(backup_id: str) -> Response:
        """Note that a backup is being restored: nothing of it leaves meanwhile, and it counts as used now."""
        retention.in_use.note([parse_backup_id(backup_id)])
        note_used(catalog, [backup_id], machine())
        return Response(status_code=204)
