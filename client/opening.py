"""A backup that is opened: its row and its manifest by one question, while whoever asked does something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from ..codec import manifest_file
from ..state.api import BODY_DIGEST_HEADER
from ..state.backup import Backup
from ..state.errors import ManifestDamaged, NotFound
from ..state.manifest import Manifest
from ..state.plan import TargetState
from .api import Api, checked_ref
from .capture import Familiar, RestoreTarget
from .rates import RateBook
from .wire import Answer

Opened = tuple[Backup, Manifest]


def opened(api: Api, ref: str, rates: RateBook | None = None) -> Opened:
    """Return a backup and its manifest; rates that were not read yet come along. Raises: as `Keeper.manifest`."""
    with api.asking(_path(ref, rates)) as answer:
        return _read(api, ref, answer, rates)


def opened_for(api: Api, ref: str, target: RestoreTarget[Any], rates: RateBook) -> tuple[Opened, TargetState]:
    """Open a backup as `opened`, and look at the target it is for: meanwhile, where that takes milliseconds.

    What is wrong with the backup is raised before what is wrong with the target. A target that may have to read all
    weights is not looked at before there is something to restore.
    """
    with api.asking(_path(ref, rates)) as answer:
        if not (isinstance(target, Familiar) and target.is_familiar()):
            found = _read(api, ref, answer, rates)
            return found, target.describe()
        try:
            state = target.describe()
        except Exception:
            _read(api, ref, answer, rates)
            raise
        return _read(api, ref, answer, rates), state


def _path(ref: str, rates: RateBook | None) -> str:
    query = "?rates=true" if rates is not None and rates.is_wanting else ""
    return f"/v1/backups/{checked_ref(ref)}/opened{query}"


def _read(api: Api, ref: str, answer: Callable[[], Answer], rates: RateBook | None) -> Opened:
    try:
        got = answer()
    except NotFound as error:
        if type(error) is not NotFound:  # of a backup or a session
            raise
        return _by_two_questions(api, ref)
    if manifest_file.digest_of(got.content) != got.headers.get(BODY_DIGEST_HEADER):
        raise ManifestDamaged(f"the manifest of backup {ref} changed on its way")
    value = orjson.loads(got.content)
    if rates is not None:
        rates.take(value.get("rates"))
    return Backup.from_dict(value["backup"]), manifest_file.from_value(value["manifest"])


def _by_two_questions(api: Api, ref: str) -> Opened:
    """Ask a daemon that is older than the route."""
    backup = api.backup(ref)
    return backup, manifest_file.load(api.manifest(backup.id))
