"""The file `tokens.json`: tokens with scopes, by their hashes alone; what is revoked is gone."""

from __future__ import annotations

import logging
import os
import re
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from ..state.access import parse_label, parse_origin, parse_scopes
from ..state.errors import BadInput, UnsafeHome
from .files import translated, write_private

log = logging.getLogger("torpor.store")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_ID = re.compile(r"[0-9a-z]{8}\Z")


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token of which only the SHA-256 is known. `used_at` is rounded down to the hour; `origin` is a page's.

    One with `expires_at` is void from then on.
    """

    id: str
    sha256: str
    label: str
    scopes: tuple[str, ...]
    origin: str | None
    created_at: float
    used_at: float | None = None
    expires_at: float | None = None


def read_tokens(path: Path) -> list[TokenRecord]:
    """Return the tokens; a file that was not written by us is moved aside, and none of it is valid.

    Raises: UnsafeHome (a link, or somebody else's file), StoreFailed.
    """
    with translated("read", path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return []
        except OSError as error:
            if path.is_symlink():
                raise UnsafeHome(f"{path} is a symbolic link") from error
            raise
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                raise UnsafeHome(f"{path} is not a regular file of yours")
            if status.st_mode & 0o077:
                os.fchmod(fd, 0o600)
            raw = file.read()
    try:
        return [_record(value) for value in orjson.loads(raw)["tokens"]]
    except (orjson.JSONDecodeError, BadInput, KeyError, TypeError, ValueError) as error:
        aside = path.with_name(f"{path.name}.damaged")
        log.error("%s cannot be read (%s); it is %s now, and its tokens are void", path, type(error).__name__, aside)
        with translated("move", path):
            os.replace(path, aside)
        return []


def write_tokens(path: Path, records: list[TokenRecord]) -> None:
    """Replace the file, durably. Raises: StoreFull, StoreFailed."""
    write_private(path, orjson.dumps({"tokens": [asdict(r) for r in records]}, option=orjson.OPT_INDENT_2))


def _record(value: Any) -> TokenRecord:
    found = TokenRecord(**(value | {"scopes": tuple(sorted(parse_scopes(value["scopes"])))}))
    parse_label(found.label)
    if found.origin is not None:
        parse_origin(found.origin)
    if not _SHA256.match(found.sha256) or not _ID.match(found.id):
        raise ValueError("not a token")
    return TokenRecord(**(asdict(found) | {"created_at": float(found.created_at)}))
