"""The routes of the second copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

from ..state.errors import BadInput, SyncOff
from ..state.ids import parse_session_id
from ..state.kv_policy import parse_policy
from .answers import json_answer
from .remote import RemoteSide
from .sync_report import report

LONGEST_PAUSE_S = 366 * 86_400.0


class Pause(BaseModel):
    """How long to pause, in seconds; without it until it is resumed."""

    model_config = ConfigDict(extra="forbid", strict=True)
    seconds: float | None = Field(None, gt=0, le=LONGEST_PAUSE_S)


class Limits(BaseModel):
    """Bytes a second each way; null is without limit, and what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)
    up: float | None = Field(None, ge=1024)
    down: float | None = Field(None, ge=1024)


class Policy(BaseModel):
    """Whether KV caches go up, and how many bytes of them a day; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)
    kv: str | None = None
    daily_bytes: int | None = Field(None, gt=0)


class Retry(BaseModel):
    """Given up items by id; without them all."""

    model_config = ConfigDict(extra="forbid", strict=True)
    ids: list[int] | None = None


class Collect(BaseModel):
    """Whether to say only what a collection would do."""

    model_config = ConfigDict(extra="forbid", strict=True)
    dry_run: bool = False


class NoSync(BaseModel):
    """Whether a session stays on this machine."""

    model_config = ConfigDict(extra="forbid", strict=True)
    no_sync: bool


def add_sync(app: FastAPI, side: RemoteSide) -> None:
    """Add the routes to the application. With S3 off, those that change something say so."""
    _add_state(app, side)
    _add_choices(app, side)

    @app.put("/v1/sessions/{session_id}/no-sync")
    def put_no_sync(session_id: str, wanted: NoSync) -> Response:
        """Keep a session on this machine, or no longer; one of which there is no backup yet, too."""
        side.set_no_sync(parse_session_id(session_id), wanted.no_sync)
        return json_answer({"session_id": session_id, "no_sync": wanted.no_sync, **side.copies(session_id)})


def _add_state(app: FastAPI, side: RemoteSide) -> None:
    @app.get("/v1/sync")
    def get_sync() -> Response:
        """Tell how the second copy is: state and reason, what waits, what was given up, what is kept here and why."""
        return json_answer(report(side))

    @app.post("/v1/sync/now")
    def now() -> Response:
        """Try everything now that waits."""
        return json_answer(report(_on(side, side.now)))

    @app.post("/v1/sync/retry")
    def retry(wanted: Retry) -> Response:
        """Try again what was given up."""
        counts: list[int] = []
        _on(side, lambda: counts.append(side.retry(wanted.ids)))
        return json_answer({"retried": counts[0]})

    @app.post("/v1/sync/collect")
    def collect(wanted: Collect) -> Response:
        """Remove from the bucket what no backup of any machine needs."""
        _on(side, lambda: None)
        return json_answer(asdict(side.collect(dry_run=wanted.dry_run)))


def _add_choices(app: FastAPI, side: RemoteSide) -> None:
    @app.post("/v1/sync/pause")
    def pause(wanted: Pause) -> Response:
        """Send nothing for a time; it outlives a restart."""
        return json_answer(report(_on(side, lambda: side.pause(wanted.seconds))))

    @app.post("/v1/sync/resume")
    def resume() -> Response:
        """Go on."""
        return json_answer(report(_on(side, side.resume)))

    @app.put("/v1/sync/limits")
    def limits(wanted: Limits) -> Response:
        """Limit the bandwidth."""
        changes = {f"{name}_limit": getattr(wanted, name) for name in wanted.model_fields_set}
        return json_answer(report(_on(side, lambda: side.choose(**changes))))

    @app.put("/v1/sync/policy")
    def policy(wanted: Policy) -> Response:
        """Say whether KV caches go up."""
        changes: dict[str, object] = {}
        if wanted.kv is not None:
            changes["kv_policy"] = parse_policy(wanted.kv)
        if "daily_bytes" in wanted.model_fields_set:
            changes["kv_daily_bytes"] = wanted.daily_bytes
        if not changes:
            raise BadInput("neither a policy nor a daily budget was given")
        return json_answer(report(_on(side, lambda: side.choose(**changes))))


def _on(side: RemoteSide, act: Callable[[], object]) -> RemoteSide:
    if not side.on:
        raise SyncOff("there is no second copy: no S3 storage is configured")
    act()
    return side
