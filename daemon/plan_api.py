"""The route that tells what a restore would do, in words, before anybody restores."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Query, Response
from fastapi.concurrency import run_in_threadpool

from ..state.backup import Backup
from ..state.errors import Unavailable
from ..state.ids import parse_backup_id
from ..state.plan_words import images_in, tell
from .answers import json_answer
from .fetch_api import BackFromBucket
from .parts import Parts
from .plans import Plans

log = logging.getLogger("torpor.plans")
ASK_S = 5.0  # a process that is busy for longer is not waited for


class PlanDesk:
    """Tells plans: those of the process that has the model, where one is attached and answers."""

    def __init__(self, parts: Parts) -> None:
        back = parts.back
        self._attached = parts.attached
        self._plans = Plans(
            parts.catalog,
            parts.side.remembered,
            lambda digests: _in_bucket(back, digests),
            parts.settings.max_recoverable_tokens,
        )

    async def tell(self, backup: Backup, *, ask: bool = True) -> dict[str, Any]:
        """Return the plan of a backup as JSON. Raises: BackupNotFound, and what the process that was asked raised."""
        if ask and self._attached.any():
            try:
                return await self._attached.ask(
                    "plan", session_id=backup.session_id, backup_id=backup.id, timeout_s=ASK_S
                )
            except Unavailable as error:
                log.info("the plan is that of the saved model: %s", error.detail)
        return await run_in_threadpool(self._as_saved, backup.id)

    def _as_saved(self, backup_id: str) -> dict[str, Any]:
        plan, manifest = self._plans.as_saved(backup_id)
        return tell(plan, images=0 if manifest is None else images_in(manifest), exact=False)


def add_plans(app: FastAPI, parts: Parts) -> None:
    """Add the route."""
    desk = PlanDesk(parts)

    @app.get("/v1/backups/{backup_id}/plan")
    async def get_plan(backup_id: str, ask: bool = Query(True)) -> Response:
        """Tell what a restore would bring back, what it would compute again, and about how long that takes.

        `exact` when the attached process that has the model was asked; else, or without `ask`, it is the plan for the
        model that the backup was saved from.
        """
        backup = await run_in_threadpool(parts.catalog.index.backup, parse_backup_id(backup_id))
        return json_answer(await desk.tell(backup, ask=ask))


def _in_bucket(back: BackFromBucket | None, digests: Any) -> set[str]:
    return set() if back is None else set(back.objects.objects(sorted(digests)))
