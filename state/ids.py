"""Ids and digests. Only these functions make one from outside input; paths are built from nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NewType

from .errors import BadInput, InvalidId

SessionId = NewType("SessionId", str)
BackupId = NewType("BackupId", str)
Digest = NewType("Digest", str)

SESSION_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}$"
BACKUP_PATTERN = "^[0-7][0-9A-HJKMNP-TV-Z]{25}$"  # ULID, Crockford base 32
DIGEST_PATTERN = "^[0-9a-f]{64}$"

# The end of a backup id, which is random: its beginning is the time, and backups of one minute share it.
SHORT_ID_CHARS = 8
_SHORT_ID = re.compile(r"[0-9A-HJKMNP-TV-Z]{6,25}\Z")
MAX_TITLE_CHARS = 200
_JOINERS = "\u200c\u200d"  # part of Persian words and of emoji

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


def is_short_id(text: str) -> bool:
    """Tell whether a text may be the end of a backup id: six characters of it or more."""
    return _SHORT_ID.match(text) is not None


def short_id(backup_id: str) -> str:
    """Return the short form of a backup id, which commands take in its place."""
    return backup_id[-SHORT_ID_CHARS:]


def fork_id(session_id: str, used: Callable[[str], bool]) -> SessionId:
    """Return a free session id for a fork: `name-fork`, `name-fork-2`, ...; a fork of a fork counts on.

    With gaps in the numbers any free one is returned; the questions grow with the logarithm of the forks.
    """
    base = re.sub(r"-fork(-[0-9]{1,9})?\Z", "", session_id)[:100]

    def name(number: int) -> SessionId:
        return parse_session_id(f"{base}-fork" + (f"-{number}" if number > 1 else ""))

    high = 1
    while used(name(high)):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if used(name(middle)) else (low, middle)
    return name(high)


def parse_title(text: str | None) -> str | None:
    """Check a session's title, one line of text; an empty one is none. Raises: BadInput."""
    title = (text or "").strip()
    if len(title) > MAX_TITLE_CHARS:
        raise BadInput(f"a title of {len(title)} characters", hint=f"A title has at most {MAX_TITLE_CHARS} characters.")
    if not all(char.isprintable() or char in _JOINERS for char in title):
        raise BadInput(f"{title[:80]!r} is not a title", hint="A title is one line without control characters.")
    return title or None


def is_digest(text: str) -> bool:
    """Tell whether a text has the form of a digest."""
    return _DIGEST.match(text) is not None


def parse_digest(text: str) -> Digest:
    """Check a BLAKE3 digest, 64 lower-case hex digits. Raises: BadInput."""
    if not _DIGEST.match(text):
        raise BadInput(f"{text[:80]!r} is not a BLAKE3 digest", hint="A digest is 64 lower-case hex digits.")
    return Digest(text)
