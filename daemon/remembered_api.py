"""The routes of values that may be forgotten."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from ..db.remembered import Remembered
from ..state.errors import BadInput, NotFound, TooLarge
from ..state.fingerprint import Fingerprint
from ..state.rates import KINDS, rate_key
from ..state.remembered import MAX_VALUE_BYTES, parse_key, parse_kind


def add_remembered(app: FastAPI, remembered: Remembered, clock: Callable[[], float]) -> None:
    """Add the routes to the application."""

    @app.get("/v1/remembered/{kind}/{key}")
    def get_remembered(kind: str, key: str) -> Response:
        """Return a remembered value as JSON."""
        value = remembered.get(parse_kind(kind), parse_key(key), now=clock())
        if value is None:
            raise NotFound(f"nothing is remembered as {kind}/{key}", hint="It will be found out again.")
        return Response(value, media_type="application/json")

    @app.put("/v1/remembered/{kind}/{key}", status_code=204)
    async def put_remembered(kind: str, key: str, request: Request) -> Response:
        """Remember a JSON value; the least recently used of its kind may be forgotten for it."""
        checked, name, body = parse_kind(kind), parse_key(key), bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_VALUE_BYTES:
                raise TooLarge(f"a value of more than {MAX_VALUE_BYTES} bytes", hint="")
        try:
            text = orjson.dumps(orjson.loads(body)).decode()
        except orjson.JSONDecodeError as error:
            raise BadInput(f"the value is not JSON: {error}") from error
        await run_in_threadpool(remembered.put, checked, name, text, now=clock())
        return Response(status_code=204)


def rates_beside(manifest: bytes, remembered: Remembered, now: float) -> bytes:
    """Return as JSON, by key, what was measured with the model that a manifest names: null where that is nothing."""
    parts = orjson.loads(manifest).get("fingerprint") or {}
    model = Fingerprint(weights=parts.get("weights"), vision_weights=parts.get("vision_weights"))
    found = {key: remembered.get("rate", key, now=now) for key in (rate_key(kind, model) for kind in KINDS)}
    return orjson.dumps({key: None if text is None else orjson.Fragment(text) for key, text in found.items()})
