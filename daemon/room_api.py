"""The routes by which a save asks for room, and what the home takes of the disk, for `/v1/status`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, Field

from ..state.ids import parse_backup_id, parse_session_id
from ..state.manifest import MAX_COUNT
from ..state.quota import unasked_bytes
from .answers import json_answer
from .room import LEASE_S, Room


class Wanted(BaseModel):
    """What a save still has to write, and has written, in bytes; whether it is text and tokens alone; its session."""

    model_config = ConfigDict(extra="forbid", strict=True)
    size_bytes: int = Field(ge=0, le=MAX_COUNT)
    written_bytes: int = Field(0, ge=0, le=MAX_COUNT)
    text: bool = False
    session_id: str | None = None


def add_room(app: FastAPI, room: Room) -> None:
    """Add the routes."""

    @app.put("/v1/room/{save_id}")
    def put_room(save_id: str, wanted: Wanted) -> Response:
        """Promise a save (or a group: by its id) room for what it still has to write; again renews the promise."""
        session_id = None if wanted.session_id is None else parse_session_id(wanted.session_id)
        room.ask(
            parse_backup_id(save_id),
            wanted.size_bytes,
            written_bytes=wanted.written_bytes,
            text=wanted.text,
            session_id=session_id,
        )
        return json_answer({"lease_s": LEASE_S, "unasked_bytes": room.unasked_bytes()})

    @app.delete("/v1/room/{save_id}", status_code=204)
    def delete_room(save_id: str) -> Response:
        """Take back what a save was promised: it failed, or needs no more."""
        room.end(parse_backup_id(save_id))
        return Response(status_code=204)


def storage_report(room: Room) -> dict[str, Any]:
    """Return what the home takes, by class, and its limits. Raises: StoreFailed."""
    figure = room.usage.figure()
    limits, disk = room.state()
    return {
        "used_bytes": figure.total_bytes,
        "classes": figure.classes,
        "measured_ago_s": round(figure.age_s, 3),
        "exact": figure.exact,
        "promised_bytes": disk.promised_bytes,
        "unasked_bytes": unasked_bytes(limits, disk),
        **asdict(limits),
    }
