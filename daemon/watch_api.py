"""The routes of watched folders."""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict

from .answers import json_answer
from .watches import Watches


class Folder(BaseModel):
    """A folder of the daemon's machine, as an absolute path."""

    model_config = ConfigDict(extra="forbid", strict=True)
    folder: str


def add_watches(app: FastAPI, watches: Watches) -> None:
    """Add the routes to the application."""

    @app.get("/v1/watches")
    def list_watches() -> Response:
        """List the watched folders, and what could not be imported."""
        return json_answer({"watches": watches.describe()})

    @app.post("/v1/watches", status_code=201)
    def add_watch(wanted: Folder) -> Response:
        """Watch a folder from now on; a second time changes nothing."""
        return json_answer(watches.add(wanted.folder), 201)

    @app.delete("/v1/watches")
    def remove_watch(folder: str) -> Response:
        """Stop to watch a folder; its files and their backups stay."""
        return json_answer(watches.remove(folder))

    @app.post("/v1/watches/rescan")
    def rescan() -> Response:
        """Look at all folders now, and try files that failed again."""
        watches.rescan()
        return json_answer({"watches": watches.describe()})
