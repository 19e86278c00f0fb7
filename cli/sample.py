"""A small session that is saved, woken and compared: the proof that backups work here, with no model and no torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..client import Keeper
from ..state.errors import FileDamaged
from ..state.problems import from_problem

SESSION = "torpor-sample"
TITLE = "A sample, made by torpor init"
SENT_WITHIN_S, POLL_S = 20.0, 0.1

STATE: dict[str, Any] = {
    "metadata": {"model_name": "none: a sample", "made_by": "torpor init"},
    "text_context": {
        "conversation": [
            {"role": "user", "content": "Will you still know this tomorrow?"},
            {"role": "assistant", "content": "Every byte of it: that is what was tried just now."},
        ],
        "thinking": "Saved, read back and compared.",
    },
    "vision_cache": {"embedding": bytes(range(256)) * 256},
    "config_snapshot": {"temperature": 0.7, "max_new_tokens": 64},
}


@dataclass(frozen=True, slots=True)
class Sample:
    """What came of it. `in_bucket`: None without a second copy, else whether the bucket has it by now, or why not."""

    backup_id: str
    saved_anew: bool
    bytes_total: int
    seconds: float
    in_bucket: bool | None
    waits_for: str | None


def prove(keeper: Keeper, *, sleep: Callable[[float], None] = time.sleep) -> Sample:
    """Save the sample if there is none yet, wake it, compare it, have its bytes read from the disk.

    With a second copy, wait a little until the bucket has it. Raises: FileDamaged when what comes back is not what was
    saved; whatever a save and a restore raise.
    """
    began = time.monotonic()
    backup_id, saved_anew = _newest(keeper), False
    if backup_id is None or not _is_same(keeper, backup_id):
        backup_id, saved_anew = _save(keeper), True
        if not _is_same(keeper, backup_id):
            raise FileDamaged(f"{backup_id} came back other than it was saved", hint="Run `torpor doctor`.")
    _verify(keeper, backup_id, sleep)
    seconds = time.monotonic() - began
    in_bucket, waits_for = _sent(keeper, backup_id, sleep)
    return Sample(backup_id, saved_anew, keeper.api.backup(backup_id).bytes_total, seconds, in_bucket, waits_for)


def _newest(keeper: Keeper) -> str | None:
    """Return the sample of an earlier run, if it is whole here."""
    found = keeper.api.backups(session_id=SESSION, limit=1)
    whole = [each for each in found if not each.absent_bytes and each.dropped_at is None]
    return whole[0].id if whole else None


def _save(keeper: Keeper) -> str:
    from ..adapters.plain import PlainSession

    backup_id = keeper.save(SESSION, PlainSession(STATE)).wait().id
    keeper.api.rename(SESSION, TITLE)
    return backup_id


def _is_same(keeper: Keeper, backup_id: str) -> bool:
    from ..adapters.plain import PlainTarget

    return bool(keeper.restore(backup_id, PlainTarget()).session.state == STATE)


def _verify(keeper: Keeper, backup_id: str, sleep: Callable[[float], None]) -> None:
    run = keeper.api.json("POST", "/v1/verify", json={"ref": backup_id})
    while run["state"] == "running":
        sleep(POLL_S)
        run = keeper.api.json("GET", f"/v1/verify/{run['id']}")
    if run["problem"] is not None:
        raise from_problem(run["problem"])
    if run["damaged"]:
        raise FileDamaged(f"the disk gives back other bytes than were written ({backup_id})", hint="`torpor doctor`.")


def _sent(keeper: Keeper, backup_id: str, sleep: Callable[[float], None]) -> tuple[bool | None, str | None]:
    """Tell whether the bucket has the sample, waiting a little for it; and what it waits for."""
    until = time.monotonic() + SENT_WITHIN_S
    while True:
        place = keeper.api.json("GET", f"/v1/backups/{backup_id}")["remote"]
        if place is None:
            return None, None
        if place["checked"] and place["stages"] and not place["waiting"]:
            return True, None
        sync = keeper.api.json("GET", "/v1/sync")
        if time.monotonic() > until or sync["state"] not in ("idle", "busy"):
            return False, sync["reason"] or f"the second copy is {sync['state']}"
        sleep(POLL_S)
