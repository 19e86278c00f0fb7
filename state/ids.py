"""Ids and digests. Only these functions make one from outside input; paths are built from nothing else."""

from __future__ import annotations

import re
from typing import NewType

from .errors import BadInput, InvalidId

SessionId = NewType("SessionId", str)
BackupId = NewType("BackupId", str)
Digest = NewType("Digest", str)

SESSION_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}$"
BACKUP_PATTERN = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$"  # ULID, Crockford base 32
DIGEST_PATTERN = "^[0-9a-f]{64}$"

_SESSION = re.compile(SESSION_PATTERN.replace("$", r"\Z"))
_BACKUP = re.compile(BACKUP_PATTERN.replace("$", r"\Z"))
_DIGEST = re.compile(DIGEST_PATTERN.replace("$", r"\Z"))


def parse_session_id(text: str) -> SessionId:
    """Check a session id. Raises: InvalidId."""
    if not _SESSION.match(text) or ".." in text:
        raise InvalidId(f"{text[:80]!r} is not a session id")
    return SessionId(text)


def parse_backup_id(text: str) -> BackupId:
    """Check a backup id, an upper-case ULID. Raises: InvalidId."""
    if not _BACKUP.match(text):
        raise InvalidId(f"{text[:80]!r} is not a backup id")
    return BackupId(text)


def is_backup_id(text: str) -> bool:
    """Tell whether a text has the form of a backup id."""
    return _BACKUP.match(text) is not None


def is_digest(text: str) -> bool:
    """Tell whether a text has the form of a digest."""
    return _DIGEST.match(text) is not None


def parse_digest(text: str) -> Digest:
    """Check a BLAKE3 digest, 64 lower-case hex digits. Raises: BadInput."""
    if not _DIGEST.match(text):
        raise BadInput(f"{text[:80]!r} is not a BLAKE3 digest", hint="A digest is 64 lower-case hex digits.")
    return Digest(text)
