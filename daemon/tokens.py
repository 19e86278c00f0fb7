"""The tokens that open the API: the owner's, and those with scopes. Only hashes of these are kept, here and on disk."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ..state.access import OWNER, PAGE_SCOPES, SCOPES, Access, parse_label, parse_origin, parse_scopes
from ..state.errors import Conflict, NotFound
from ..store.token_list import TokenRecord, read_tokens, write_tokens

log = logging.getLogger("torpor.tokens")
MAX_TOKENS = 200
PREFIX = "torpor_"  # so that a token that got into a repository or a paste is found by those who look for such
HOUR_S = 3600.0
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class Tokens:
    """Knows and keeps tokens. Safe to call from several threads."""

    def __init__(self, path: Path, owner: str, clock: Callable[[], float]) -> None:
        self._path, self._clock, self._lock = path, clock, threading.Lock()
        self._owner = _sha256(owner.encode()).encode()
        self._by_hash = {record.sha256: record for record in read_tokens(path)}
        self._origins = _origins_of(self._by_hash)
        self._used = False
        self._told: Callable[[], None] = lambda: None

    def tell(self, told: Callable[[], None]) -> None:
        """Call a function behind each change of who may what, in the thread that made it."""
        self._told = told

    def check(self, token: bytes) -> Access | None:
        """Return what a token opens; None for one that is unknown.

        What is compared are hashes, so that neither the time of a comparison nor of a look-up tells of the token.
        """
        found = _sha256(token)
        if hmac.compare_digest(found.encode(), self._owner):
            return Access("owner", OWNER)
        record = self._by_hash.get(found)
        if record is None or self._is_over(record):
            return None
        self._note_use(record)
        return Access(record.label, frozenset(record.scopes), record.origin)

    def _is_over(self, record: TokenRecord) -> bool:
        return record.expires_at is not None and record.expires_at <= self._clock()

    def _note_use(self, record: TokenRecord) -> None:
        hour = self._clock() // HOUR_S * HOUR_S
        if record.used_at == hour:
            return
        with self._lock:
            if record.sha256 in self._by_hash:
                self._by_hash[record.sha256] = replace(record, used_at=hour)
                self._used = True

    def approved(self, origin: str) -> bool:
        """Tell whether pages of an origin hold a token."""
        return origin in self._origins

    def page_may(self, origin: str, scope: str) -> bool:
        """Tell whether pages of an origin hold a token of a scope."""
        return any(record.origin == origin and scope in record.scopes for record in self.listed())

    def listed(self) -> list[TokenRecord]:
        """Return all tokens, oldest first."""
        return [record for record in _in_order(self._by_hash) if not self._is_over(record)]

    def new(
        self, label: str, scopes: Sequence[str], origin: str | None = None, *, lives_s: float | None = None
    ) -> tuple[TokenRecord, str]:
        """Make a token, durably; the text that is returned is kept nowhere.

        That of a page has scopes of pages. With `lives_s` it is void after that time.
        Raises: BadInput, Conflict, StoreFull, StoreFailed.
        """
        token = PREFIX + secrets.token_urlsafe(32)
        record = TokenRecord(
            id="".join(secrets.choice(_ALPHABET) for _ in range(8)),
            sha256=_sha256(token.encode()),
            label=parse_label(label),
            scopes=tuple(sorted(parse_scopes(scopes, SCOPES if origin is None else PAGE_SCOPES))),
            origin=None if origin is None else parse_origin(origin),
            created_at=self._clock(),
            expires_at=None if lives_s is None else self._clock() + lives_s,
        )
        with self._lock:
            known = {key: each for key, each in self._by_hash.items() if not self._is_over(each)}
            if len(known) >= MAX_TOKENS:
                raise Conflict(f"there are {MAX_TOKENS} tokens", hint="Revoke some: `torpor token list`.")
            write_tokens(self._path, _in_order({**known, record.sha256: record}))
            self._use({**known, record.sha256: record})
        self._told()
        log.info("token %s (%s) was made for %s", record.id, ", ".join(record.scopes), record.origin or record.label)
        return record, token

    def revoke(self, token_id: str) -> TokenRecord:
        """Make a token void at once, and durably on return.

        Raises: NotFound; StoreFull and StoreFailed, and then it is void until the next start, and `flush` tries again.
        """
        with self._lock:
            found = next((record for record in self._by_hash.values() if record.id == token_id), None)
            if found is None:
                raise NotFound(f"there is no token {token_id[:40]}", hint="`torpor token list` lists them.")
            self._use({key: record for key, record in self._by_hash.items() if key != found.sha256})
            self._used = True
            self._told()  # whatever becomes of the file: it is void
            self._write()
        log.info("token %s of %s was revoked", found.id, found.origin or found.label)
        return found

    def forget(self, token: bytes) -> None:
        """Make a token void that somebody signs out with. The owner's stays. Raises: StoreFull, StoreFailed."""
        record = self._by_hash.get(_sha256(token))
        if record is not None:
            self.revoke(record.id)

    def flush(self) -> None:
        """Write down when tokens were used last, and what could not be before. Raises: StoreFull, StoreFailed."""
        with self._lock:
            if self._used:
                self._write()

    def _write(self) -> None:
        write_tokens(self._path, _in_order(self._by_hash))
        self._used = False

    def _use(self, records: dict[str, TokenRecord]) -> None:
        self._by_hash, self._origins = records, _origins_of(records)


def _in_order(records: dict[str, TokenRecord]) -> list[TokenRecord]:
    return sorted(records.values(), key=lambda record: (record.created_at, record.id))


def _origins_of(records: dict[str, TokenRecord]) -> frozenset[str]:
    return frozenset(record.origin for record in records.values() if record.origin is not None)


def _sha256(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()
