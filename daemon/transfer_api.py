"""The routes by which backups leave as files and come in as files."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from ..state.errors import BadInput
from ..state.ids import parse_session_id
from ..state.watching import Signature
from .answers import json_answer, private_answer
from .exports import ExportFormat, ExportResponse, Exports
from .imports import Imports, described
from .parts import Parts
from .security import MAX_IMPORT_BYTES
from .sessions_api import CONTENT
from .upload import receive_file

_INT64 = 1 << 63


class LocalFile(BaseModel):
    """A file of this machine as its owner sees it: where it lies, its size, when it was written to, its inode."""

    model_config = ConfigDict(extra="forbid", strict=True)
    path: str = Field(min_length=2, max_length=4096, pattern="^/")
    size_bytes: int = Field(ge=0, lt=_INT64)
    mtime_ns: int = Field(ge=-_INT64, lt=_INT64)
    inode: int = Field(ge=-_INT64, lt=_INT64)
    session_id: str | None = None


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
        request: Request, name: str = Query("", max_length=255), session_id: str | None = None, hold: bool = False
    ) -> Response:
        """Take a state file (its bytes are the body) and import it; the answer names the import.

        With `hold` it is looked at, and imported or discarded on a second word.
        """
        wanted = None if session_id is None else parse_session_id(session_id)
        imports.check()
        with parts.room.taking(kind="staging") as take:
            path, size = await receive_file(parts.catalog.staging, request, take, MAX_IMPORT_BYTES)
        if not size:
            await run_in_threadpool(path.unlink)
            raise BadInput("the body is empty", hint="Send the bytes of the file.")
        return json_answer(described(imports.add(path, name, wanted, size, hold=hold)), 202)

    @app.post("/v1/imports/local", status_code=202)
    def import_local(wanted: LocalFile) -> Response:
        """Look at a state file where it lies on this machine, and import or discard it on a second word."""
        session_id = None if wanted.session_id is None else parse_session_id(wanted.session_id)
        expected = Signature.of(wanted.size_bytes, wanted.mtime_ns, wanted.inode)
        return private_answer(described(imports.add_named(Path(wanted.path), expected, session_id, hold=True)), 202)

    @app.get("/v1/imports")
    def list_imports(request: Request, limit: int = Query(50, ge=1, le=200)) -> Response:
        """List the newest imports, as far as they are known."""
        shown = request.scope["torpor.access"].may(CONTENT)
        return private_answer({"imports": [described(each, content=shown) for each in imports.newest(limit)]})

    @app.get("/v1/imports/{import_id}")
    def get_import(request: Request, import_id: str) -> Response:
        """Tell how far an import is, and what became of it."""
        return private_answer(described(imports.find(import_id), content=request.scope["torpor.access"].may(CONTENT)))

    @app.post("/v1/imports/{import_id}/accept", status_code=202)
    def accept_import(request: Request, import_id: str) -> Response:
        """Import a file that was looked at and waits; one that was named, on its owner's word alone."""
        access = request.scope["torpor.access"]
        told = imports.accept(import_id, owner=access.owner)
        return private_answer(described(told, content=access.may(CONTENT)), 202)

    @app.delete("/v1/imports/{import_id}")
    def discard_import(request: Request, import_id: str) -> Response:
        """Forget a file that waits; nothing was imported. A file that was named stays where it is."""
        shown = request.scope["torpor.access"].may(CONTENT)
        return private_answer(described(imports.discard(import_id), content=shown))
