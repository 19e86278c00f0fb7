"""The doctor's look at settings and at the second copy."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from ..state.errors import TorporError
from ..sync.network import can_connect
from .checkup import Check, Patient
from .endpoint import address_of
from .remote_settings import RemoteSettings, load_remote_settings
from .settings import load_settings

WELL = ("idle", "busy", "paused")
PATIENTLY = ("offline", "throttled")  # heals by itself


def check_settings(patient: Patient) -> Iterator[Check]:
    """Look whether the settings can be read."""
    try:
        load_settings()
        load_remote_settings(patient.environment, patient.working, patient.home.root)
    except TorporError as error:
        yield Check("settings", "error", error.detail, error.hint)
        return
    yield Check("settings", "ok", "config.toml, .env and the environment can be read")


def check_second_copy(patient: Patient) -> Iterator[Check]:
    """Look how the second copy is: what the daemon says of it, or whether the storage answers."""
    if patient.ask is not None:
        yield from judge_sync(patient, patient.ask("/v1/sync", None))
        return
    settings = load_remote_settings(patient.environment, patient.working, patient.home.root)
    for warning in settings.warnings:
        yield Check("second copy", "warning", warning, "`torpor sync status` says it too.")
    yield from _reach(settings)


def judge_sync(patient: Patient, found: dict[str, Any]) -> Iterator[Check]:
    """Say what the daemon's report on the second copy means."""
    for warning in found["warnings"]:
        yield Check("second copy", "warning", warning, "`torpor sync status` says it too.")
    if not found["on"]:
        yield Check("second copy", "ok", "off: no S3 storage is configured")
        return
    place = f"{found['bucket']} at {found['endpoint'] or 'AWS'}"
    state, reason = found["state"], found["reason"] or ""
    if state in WELL:
        yield Check("second copy", "ok", f"{place}: {state}; {found['waiting_count']} items wait{_quirks(found)}")
    else:
        status: Any = "warning" if state in PATIENTLY else "error"
        yield Check(
            "second copy", status, f"{place}: {state}; {reason}", found["hint"] or "`torpor sync now` tries again."
        )
    if found["dead_count"]:
        detail = f"{found['dead_count']} items were given up: {found['dead'][0]['error']}"
        hint = "`torpor sync status` lists them, `torpor sync retry --all` tries them again."
        yield Check("given up", "error", detail, hint, partial(_retry, patient))
    if found["encrypted"] is False:
        yield Check("encryption", "ok", f"off: {found['readable']}")


def _quirks(found: dict[str, Any]) -> str:
    odd = [name.replace("_", " ") for name, value in found["quirks"].items() if value is False]
    return f"; the storage lacks {', '.join(odd)}" if odd else ""


def _retry(patient: Patient) -> str:
    assert patient.ask is not None
    return f"trying {patient.ask('/v1/sync/retry', {'ids': None})['retried']} again"


def _reach(settings: RemoteSettings) -> Iterator[Check]:
    """Try the storage itself: whether anybody listens, and whether these credentials may list the bucket."""
    if settings.s3 is None:
        yield Check("second copy", "ok", "off: no S3 storage is configured")
        return
    options = settings.s3.options()
    address = address_of(options)
    if address is not None and not can_connect(*address):
        detail = f"nobody answers at {address[0]}:{address[1]}"
        yield Check("second copy", "warning", detail, "Check the network and S3_ENDPOINT; what is saved waits here.")
        return
    from ..sync.repository import read_info
    from ..sync.s3 import S3Bucket

    bucket = S3Bucket(options)
    try:
        info = read_info(bucket)
    except TorporError as error:
        yield Check("second copy", "error", error.detail, error.hint)
        return
    finally:
        bucket.close()
    said = "holds no backups yet" if info is None else f"holds repository {info.repo_id[:8]}…"
    yield Check("second copy", "ok", f"{settings.s3.bucket} {said}; no daemon runs to send anything")


LOOKS = [check_settings, check_second_copy]
