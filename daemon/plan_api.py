"""The route that tells what a restore would do, in words, before anybody restores."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI, Response

from ..state.plan_words import described, images_in
from .fetch_api import BackFromBucket
from .parts import Parts
from .plans import Plans


def add_plans(app: FastAPI, parts: Parts) -> None:
    """Add the route."""
    back = parts.back
    plans = Plans(
        parts.catalog,
        parts.side.remembered,
        lambda digests: _in_bucket(back, digests),
        parts.settings.max_recoverable_tokens,
    )

    @app.get("/v1/backups/{backup_id}/plan")
    def get_plan(backup_id: str) -> Response:
        """Tell what a restore would bring back, what it would compute again, and about how long that takes.

        `exact` when the process that has the model was asked; else it is the plan for the model that it was saved from.
        """
        plan, manifest = plans.as_saved(backup_id)
        images = 0 if manifest is None else images_in(manifest)
        return _json(described(plan, images=images, exact=False))


def _in_bucket(back: BackFromBucket | None, digests: Any) -> set[str]:
    return set() if back is None else set(back.objects.objects(sorted(digests)))


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
