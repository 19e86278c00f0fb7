"""A fork: a new session that begins at any backup. It is a manifest over the same blobs; no blob is copied."""

from __future__ import annotations

from dataclasses import replace

from ulid import ULID

from ..codec import manifest_file
from ..state.backup import Backup
from ..state.errors import BlobNotFound, Conflict, MissingBlobs
from ..state.ids import fork_id, parse_session_id
from ..state.manifest import Manifest
from .api import Api

_ATTEMPTS = 5  # at a free session id, when others fork at the same time
_IN_USE_HINT = "Choose another session id, or leave it out: a free one is found. Nothing was changed."


def fork(api: Api, backup: Backup, manifest: Manifest, session_id: str | None, now: float) -> Backup:
    """Commit a fork of a backup; the daemon refuses it unless it is the first backup of its session.

    Raises: InvalidId, Conflict, BlobNotFound.
    """
    if session_id is not None:
        return _commit(api, manifest, parse_session_id(session_id), now)
    for attempt in range(1, _ATTEMPTS + 1):
        free = fork_id(backup.session_id, lambda name: bool(api.backups(session_id=name, limit=1)))
        try:
            return _commit(api, manifest, free, now)
        except Conflict:
            if attempt == _ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _commit(api: Api, manifest: Manifest, session_id: str, now: float) -> Backup:
    made = replace(
        manifest,
        id=str(ULID.from_timestamp(now)),
        session_id=session_id,
        parent_id=manifest.id,
        created_at=now,
        bytes_written=0,
        group=None,
        imported=False,
    )
    try:
        return api.commit(made.id, manifest_file.dump(made), new_session=True)
    except Conflict as error:
        raise Conflict(error.detail, hint=_IN_USE_HINT) from error
    except MissingBlobs as error:
        raise BlobNotFound(f"backup {manifest.id} cannot be forked: {error.detail}") from error
