"""Search over titles and messages."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Query, Response

from ..db.search import Found, search
from ..state.errors import IndexDamaged, Unavailable
from ..state.words import MAX_QUESTION_CHARS, pieces
from .answers import private_answer
from .catalog import Catalog
from .search_care import SearchCare

MAX_RESULTS = 100  # sessions
MATCHES_SHOWN = 3  # of a session


def add_search(app: FastAPI, catalog: Catalog, care: SearchCare) -> None:
    """Add the route."""

    @app.get("/v1/search")
    def find(
        q: str = Query(min_length=1, max_length=MAX_QUESTION_CHARS), limit: int = Query(20, ge=1, le=MAX_RESULTS)
    ) -> Response:
        """Find sessions by words of their title or of a message in their newest backup, best first.

        All words stand in one message, the last one as a beginning; words between quotes are a phrase.
        """
        try:
            with catalog.index.reading() as connection:
                found, more = search(connection, q, limit, MATCHES_SHOWN)
        except IndexDamaged:
            care.is_broken()
            raise Unavailable("the search is being made anew", hint="Ask again in a minute.") from None
        body = {"results": [_result(each) for each in found], "more": more, "waiting": care.waiting()}
        return private_answer(body)


def _result(found: Found) -> dict[str, Any]:
    matches = [
        {"index": each.position, "role": each.role, "snippet": [asdict(piece) for piece in pieces(each.excerpt)]}
        for each in found.matches
    ]
    return {
        "session_id": found.session_id,
        "title": found.title,
        "backup_id": found.backup_id,
        "created_at": found.created_at,
        "hits": found.hits,
        "matches": matches,
    }
