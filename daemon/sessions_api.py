"""Sessions as a page shows them: their list with pictures, their history as a drawing, what a backup holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Query, Request, Response
from starlette.responses import StreamingResponse

from ..codec import manifest_file
from ..codec.leaves import ReadBlob
from ..codec.source_media import Source, picture_type, pieces, source
from ..codec.transcript import read_transcript
from ..db.drawing import Details, Drawn, details, draw_session
from ..db.index import Index
from ..db.sessions import SessionRow, list_sessions
from ..state.errors import BadInput
from ..state.glimpse import Glimpse
from ..state.happenings import happened, shared_bytes
from ..state.ids import parse_backup_id, parse_session_id
from ..state.lanes import LaneRow, in_lanes
from .answers import PRIVATE, private_answer
from .blob_reads import BlobReads
from .catalog import Catalog
from .fetch_api import BackFromBucket
from .remote import RemoteSide
from .sync_report import places

MAX_SESSIONS = 500  # a page
MAX_ROWS = 1000  # of a drawing, a page
MAX_MESSAGES = 500  # a page
MAX_QUESTION = 200  # characters
CONTENT = frozenset({"restore"})  # of backups: without it a listing has no text and no picture


class Drawings:
    """Draws histories, and keeps the last one as long as nothing changes: a page asks for it some rows at a time."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._last: tuple[str, int, Drawn, list[LaneRow]] | None = None

    def of(self, session_id: str) -> tuple[Drawn, list[LaneRow]]:
        """Return the history of a session, and all rows of its drawing. Raises: SessionNotFound."""
        last, generation = self._last, self._index.generation
        if last is not None and last[:2] == (session_id, generation):
            return last[2:]
        with self._index.reading() as connection:
            drawn = draw_session(connection, session_id)
        rows = list(in_lanes(drawn.drawing.rows))
        self._last = session_id, generation, drawn, rows
        return drawn, rows


def add_sessions(app: FastAPI, catalog: Catalog, side: RemoteSide, back: BackFromBucket | None) -> None:
    """Add the routes. Nothing is fetched from the bucket but on demand: a list would fetch all that is scrolled by."""
    index, far, drawings = catalog.index, BlobReads(catalog, back), Drawings(catalog.index)

    @app.get("/v1/sessions")
    def sessions(
        request: Request,
        limit: int = Query(50, ge=1, le=MAX_SESSIONS),
        before: str | None = None,
        q: str = Query("", max_length=MAX_QUESTION),
    ) -> Response:
        """List sessions, newest first, each with its newest backup; `q` is in their id or title."""
        at = None if before is None else parse_session_id(before)
        with index.reading() as connection:
            page = list_sessions(connection, limit, at, _plain(q))
        where = places(side, [row.newest.id for row in page.sessions])
        open_to = request.scope["torpor.access"].may(CONTENT)
        rows = [_session(row, where[row.newest.id], open_to) for row in page.sessions]
        follows = page.sessions[-1].session_id if page.more else None
        return private_answer({"sessions": rows, "next": follows, "total": page.total})

    @app.get("/v1/sessions/{session_id}/drawing")
    def drawing(
        request: Request,
        session_id: str,
        offset: int = Query(0, ge=0, le=1 << 31),
        limit: int = Query(200, ge=1, le=MAX_ROWS),
    ) -> Response:
        """Draw the history of a session, newest first, in lanes: some rows of the drawing, each with its backup."""
        drawn, every = drawings.of(parse_session_id(session_id))
        page = every[offset : offset + limit]
        with index.reading() as connection:
            shown = details(connection, session_id, [row.id for row in page if row.place != "gone"])
        where = places(side, [row.id for row in page if row.place == "here"])
        open_to = request.scope["torpor.access"].may(CONTENT)
        end = offset + len(page)
        return private_answer(
            {
                "session_id": session_id,
                "title": drawn.title,
                "backups": drawn.backups,
                "newest": drawn.newest,
                "total": len(every),
                "offset": offset,
                "rows": [_row(row, shown, where.get(row.id), open_to) for row in page],
                "next": end if end < len(every) else None,
            }
        )

    @app.get("/v1/backups/{backup_id}/messages")
    def messages(
        backup_id: str,
        offset: int = Query(0, ge=0, le=1 << 31),
        limit: int = Query(50, ge=1, le=MAX_MESSAGES),
        fetch: bool = False,
    ) -> Response:
        """Return messages of a backup, oldest first; with `fetch` long texts that only the bucket has, too."""
        manifest = manifest_file.load(catalog.manifest_json(parse_backup_id(backup_id)))
        found = read_transcript(manifest, far.one if fetch else catalog.blobs.read, offset, limit)
        end = offset + len(found.messages)
        body = {"backup_id": backup_id, "total": found.total, "offset": offset}
        body |= {"messages": [asdict(each) for each in found.messages], "next": end if end < found.total else None}
        return private_answer(body)

    @app.get("/v1/backups/{backup_id}/media/{number}")
    def media(backup_id: str, number: int, fetch: bool = False) -> Response:
        """Return the bytes of a source image or video; only what is a picture is said to be one.

        With `fetch`, also of one that only the bucket has.
        """
        manifest = manifest_file.load(catalog.manifest_json(parse_backup_id(backup_id)))
        return media_response(source(manifest, number), far.one if fetch else catalog.blobs.read)


def media_response(found: Source, read: ReadBlob) -> Response:
    """Answer with the bytes of a medium, a blob at a time. Raises: BlobNotFound, BlobDamaged."""
    parts = pieces(found, read)
    first = next(parts, memoryview(b""))
    kind = picture_type(first)
    # Opened by itself it is a document of this origin: one that may do nothing.
    sealed = {"Content-Security-Policy": "default-src 'none'; sandbox"}
    headers = {**PRIVATE, **sealed, "Content-Length": str(found.medium.size_bytes)}
    if kind is None:
        headers["Content-Disposition"] = "attachment"

    def body() -> Iterator[memoryview]:
        yield first
        yield from parts

    return StreamingResponse(body(), headers=headers, media_type=kind or "application/octet-stream")


def _plain(text: str) -> str:
    if "\0" in text:
        raise BadInput("a question with a zero in it")
    return text.strip()


def _session(row: SessionRow, remote: Any, open_to: bool) -> dict[str, Any]:
    found = {
        "session_id": row.session_id,
        "title": row.title,
        "backups": row.backups,
        "bytes_total": row.written_bytes,
        "oldest_at": row.oldest_at,
        "newest": asdict(row.newest) | {"remote": remote},
        "forked_from": None if row.forked_from is None else asdict(row.forked_from),
        "forks": row.forks,
    }
    return found | _shown(row.newest.id, row.glimpse, open_to)


def _shown(backup_id: str, glimpse: Glimpse | None, open_to: bool) -> dict[str, Any]:
    """Return what a list shows of a backup's content. Counts are none of it."""
    counts = {
        "messages": None if glimpse is None else glimpse.messages,
        "media": None if glimpse is None else glimpse.media,
    }
    if glimpse is None or not open_to:
        return {**counts, "preview": None, "images": []}
    images = [{"backup_id": backup_id, **asdict(each)} for each in glimpse.images]
    return {**counts, "preview": glimpse.text, "images": images}


def _messages_added(shown: Details, backup_id: str, parent_id: str) -> int | None:
    now, before = shown.glimpses.get(backup_id), shown.glimpses.get(parent_id)
    return None if now is None or before is None else now.messages - before.messages


def _row(row: LaneRow, shown: Details, remote: Any, open_to: bool) -> dict[str, Any]:
    found, backup = asdict(row), shown.backups.get(row.id)
    if backup is None:  # gone, or gone since it was drawn
        return found | {"place": "gone", "backup": None}
    if row.place == "elsewhere":
        return found | {"backup": asdict(backup)}
    parent = None if row.circular or backup.parent_id is None else shown.backups.get(backup.parent_id)
    return {
        **found,
        "backup": asdict(backup) | {"remote": remote},
        "tokens_added": backup.tokens - parent.tokens if parent is not None else None,
        "shared_bytes": shared_bytes(backup),
        "messages_added": _messages_added(shown, backup.id, parent.id) if parent is not None else None,
        # What grew is said in numbers; an edit within the conversation takes both manifests (`torpor log`).
        "events": [asdict(event) for event in happened(backup, parent, None) if event.kind in ("fork", "switch")],
        "forks": [asdict(fork) for fork in shown.forks.get(row.id, ())],
        **_shown(row.id, shown.glimpses.get(row.id), open_to),
    }
