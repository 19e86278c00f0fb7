"""One-use tokens that a page puts into its last words: a beacon can carry no header, so its right lies in its body.

They live in memory, for some hours, and open one drain of the page that they were given to, as long as that may save.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable

from ..state.access import Access, Allowance
from ..state.errors import ScopeDenied, TooManyAttempts, Unauthorized

LIVES_S = 8 * 3600.0
MAX_AT_ONCE = 8  # tokens of one request
MAX_OF_ORIGIN = 64  # the oldest go
MAX_ORIGINS = 100
WRONG_TOKENS, REFILL_S = 20, 3.0


class Beacons:
    """Gives tokens and takes each once. Safe to call from several threads."""

    def __init__(self, may_save: Callable[[str], bool], steady: Callable[[], float]) -> None:
        """`may_save` tells whether pages of an origin hold a token that saves; `steady` is a clock in seconds."""
        self._may_save, self._steady, self._lock = may_save, steady, threading.Lock()
        self._given: OrderedDict[str, OrderedDict[bytes, float]] = OrderedDict()  # origin -> digest -> until when
        self._wrong = Allowance(WRONG_TOKENS, REFILL_S, steady)

    def give(self, access: Access, count: int) -> list[str]:
        """Make tokens for a page; nobody else needs any."""
        if access.origin is None:
            return []
        made = [secrets.token_urlsafe(24) for _ in range(min(count, MAX_AT_ONCE))]
        with self._lock:
            mine = self._given.setdefault(access.origin, OrderedDict())
            self._given.move_to_end(access.origin)
            until = self._steady() + LIVES_S
            mine.update((_digest(token), until) for token in made)
            while len(mine) > MAX_OF_ORIGIN:
                mine.popitem(last=False)
            while len(self._given) > MAX_ORIGINS:
                self._given.popitem(last=False)
        return made

    def take(self, origin: str, token: str) -> None:
        """Take a token of a page, for ever. Raises: Unauthorized, TooManyAttempts, ScopeDenied."""
        with self._lock:
            until = self._given.get(origin, OrderedDict[bytes, float]()).pop(_digest(token), 0.0)
            if until <= self._steady():
                if not self._wrong.take():
                    raise TooManyAttempts("there were too many wrong tokens of beacons in a short time")
                raise Unauthorized(
                    "the token of this beacon was used, is too old, or is another page's",
                    hint="The page sends it again when it is open the next time.",
                )
        if not self._may_save(origin):
            raise ScopeDenied("the page may not save any more")


def _digest(token: str) -> bytes:
    """Look tokens up by their digest, so that how long it takes says nothing of those that are there."""
    return hashlib.sha256(token.encode(errors="replace")).digest()
