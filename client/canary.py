"""A restore with a canary: what was read is tried on the model first, and a miss falls down a mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..state.canary import NOT_ASKED, CanaryResult
from ..state.errors import RestoreRefused
from ..state.plan import MODES, Mode
from .capture import CanaryTarget, RestoreTarget, Woken

BELOW_KV: Mode = "embeddings"  # the best mode that takes no KV over


def read_checked(
    read: Callable[[Mode], Woken],
    target: RestoreTarget[Any],
    *,
    asked: bool,
    at_most: Mode = "full",
    require: Mode | None = None,
) -> tuple[Woken, CanaryResult]:
    """Read a backup by `read(at_most)`; after a miss read it again without its KV. The target is not touched.

    Raises: RestoreRefused when the canary missed and a mode with KV is required, and whatever `read` raises.
    """
    woken = read(at_most)
    result = _check(woken, target) if asked else NOT_ASKED
    if result.missed:
        if require is not None and MODES.index(require) < MODES.index(BELOW_KV):
            raise RestoreRefused(
                f"backup {woken.plan.backup_id}: the {result.note()}; {require} was required",
                hint="Model and cache do not belong together. Without `require`, the cache is rebuilt from the tokens.",
            )
        del woken  # its memory, before the next one is read
        woken = read(BELOW_KV)
        layers = {**woken.plan.layers, "kv_cache": ("rebuild", f"the {result.note()}")}
        woken.plan = replace(woken.plan, layers=layers)
    if asked:
        woken.plan = replace(woken.plan, notes=(*woken.plan.notes, result.note()))
    return woken, result


def _check(woken: Woken, target: RestoreTarget[Any]) -> CanaryResult:
    if woken.kv is None:
        return CanaryResult("not applicable", "no KV cache is taken over")
    if woken.plan.tokens_reused != woken.tokens - 1:
        return CanaryResult("not applicable", "only a part of the KV cache is taken over")
    if not isinstance(target, CanaryTarget):
        return CanaryResult("not applicable", "the target runs no model")
    return target.check(woken)
