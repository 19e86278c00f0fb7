"""The routes by which backups leave as files and come in as files."""

from __future__ import annotations

from fastapi import FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from ..state.errors import BadInput
from ..state.ids import parse_session_id
from .answers import json_answer
from .exports import ExportFormat, ExportResponse, Exports
from .imports import Imports, described
from .parts import Parts
from .security import MAX_IMPORT_BYTES
from .upload import receive_file


def add_transfer(app: FastAPI, parts: Parts) -> None:
    """Add the routes."""
    exports = Exports(parts.catalog, parts.retention.in_use.note)

    @app.get("/v1/backups/{backup_id}/export")
    async def export(backup_id: str, format: ExportFormat = "bundle") -> Response:  # noqa: A002  (a name of the API)
        """Send a backup as one file: a bundle of everything, or v1 without the KV cache; checked as it is read."""
        exports.take_slot()
        try:
            made = await run_in_threadpool(exports.make, backup_id, format)
            return ExportResponse(made, exports.free_slot)
        except BaseException:
            exports.free_slot()
            raise

    _add_imports(app, parts, parts.imports)


def _add_imports(app: FastAPI, parts: Parts, imports: Imports) -> None:
    @app.post("/v1/imports", status_code=202)
    async def begin_import(
        request: Request, name: str = Query("", max_length=255), session_id: str | None = None
    ) -> Response:
        """Take a state file (its bytes are the body) and import it; the answer names the import."""
        wanted = None if session_id is None else parse_session_id(session_id)
        imports.check()
        with parts.room.taking(kind="staging") as take:
            path, size = await receive_file(parts.catalog.staging, request, take, MAX_IMPORT_BYTES)
        if not size:
            await run_in_threadpool(path.unlink)
            raise BadInput("the body is empty", hint="Send the bytes of the file.")
        return json_answer(described(imports.add(path, name, wanted, size)), 202)

    @app.get("/v1/imports")
    def list_imports(limit: int = Query(50, ge=1, le=200)) -> Response:
        """List the newest imports, as far as they are known."""
        return json_answer({"imports": [described(each) for each in imports.newest(limit)]})

    @app.get("/v1/imports/{import_id}")
    def get_import(import_id: str) -> Response:
        """Tell how far an import is, and what became of it."""
        return json_answer(described(imports.find(import_id)))
