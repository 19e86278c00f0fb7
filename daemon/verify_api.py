"""The routes of verification and scrub."""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict

from .answers import json_answer
from .catalog import Catalog
from .scrub import Scrub
from .verify import Verifier


class Verify(BaseModel):
    """What to verify: a backup by its id, the end of it or its session; everything without one."""

    model_config = ConfigDict(extra="forbid", strict=True)
    ref: str | None = None


def add_verify(app: FastAPI, catalog: Catalog, verifier: Verifier, scrub: Scrub) -> None:
    """Add the routes to the application."""

    @app.post("/v1/verify", status_code=202)
    def start_verification(wanted: Verify) -> Response:
        """Begin to read a backup, or everything, and put right what is damaged."""
        backup_id = None if wanted.ref is None else catalog.resolve(wanted.ref).id
        return json_answer(verifier.start(backup_id).describe(), 202)

    @app.get("/v1/verify/{run_id}")
    def get_verification(run_id: str) -> Response:
        """Tell how far a verification is, and what it found."""
        return json_answer(verifier.run(run_id).describe())

    @app.delete("/v1/verify/{run_id}")
    def end_verification(run_id: str) -> Response:
        """End a verification."""
        run = verifier.run(run_id)
        run.cancel.set()
        return json_answer(run.describe())

    @app.get("/v1/scrub")
    def get_scrub() -> Response:
        """Tell how the scrub is."""
        return json_answer(scrub.describe())

    @app.post("/v1/scrub", status_code=202)
    def begin_scrub() -> Response:
        """Have the scrub begin a pass, or go on, now; at its own rate."""
        began = scrub.begin()
        return json_answer(scrub.describe() | {"began": began}, 202)
