"""What routes answer with: JSON, and JSON that nobody on the way may keep."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

PRIVATE = {"Cache-Control": "no-store"}


def json_answer(value: Any, status: int = 200) -> Response:
    """Return a value as JSON."""
    return Response(orjson.dumps(value), status, media_type="application/json")


def private_answer(value: Any, status: int = 200) -> Response:
    """Return a value as JSON that is for whoever asked alone."""
    return Response(orjson.dumps(value), status, headers=PRIVATE, media_type="application/json")
