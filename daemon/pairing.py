"""Pairing: a web page asks for a token, shows a code, and gets the token once the user has approved that code.

Requests live in memory alone and for ten minutes; the token is made when the page fetches it, and kept as a hash.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..state.access import PAGE_SCOPES, Allowance, parse_label, parse_origin, parse_scopes
from ..state.errors import BadInput, Conflict, NotFound, TooManyAttempts, Unauthorized
from .tokens import Tokens

log = logging.getLogger("torpor.pairing")
MAX_WAITING, LIVES_S = 8, 600.0
ASKS, ASK_REFILL_S = 10, 15.0
WRONG_SECRETS, SECRET_REFILL_S = 20, 5.0
_OLD_HINT = "Let the page ask again; a request lives ten minutes. `torpor pair list` shows who waits."

State = Literal["pending", "approved", "denied"]


@dataclass(frozen=True, slots=True)
class PairRequest:
    """What a page asks for. The code is for the user's eyes; only the page knows the secret. Times in seconds."""

    code: str
    origin: str
    label: str
    scopes: tuple[str, ...]
    asked_at: float
    state: State = "pending"


@dataclass(slots=True)
class _Waiting:
    request: PairRequest
    secret_sha256: str
    until: float


class Pairing:
    """Holds what pages ask for. Safe to call from several threads."""

    def __init__(self, tokens: Tokens, clock: Callable[[], float], steady: Callable[[], float]) -> None:
        self._tokens, self._clock, self._steady = tokens, clock, steady
        self._lock, self._waiting = threading.Lock(), list[_Waiting]()
        self._asks = Allowance(ASKS, ASK_REFILL_S, steady)
        self._wrong = Allowance(WRONG_SECRETS, SECRET_REFILL_S, steady)
        self._told: Callable[[], None] = lambda: None

    def tell(self, told: Callable[[], None]) -> None:
        """Call a function behind each change of who waits, in the thread that made it."""
        self._told = told

    def ask(self, origin: str, label: str, scopes: Sequence[str]) -> tuple[PairRequest, str]:
        """Note what a page asks for; return it with the secret to fetch the token by.

        A page that asks again gives its former request up. Raises: BadInput, TooManyAttempts.
        """
        checked = (parse_origin(origin), parse_label(label), tuple(sorted(parse_scopes(scopes, PAGE_SCOPES))))
        with self._lock:
            if not self._asks.take():
                raise TooManyAttempts("web pages asked for too many tokens", hint="Try again in a minute.")
            self._waiting = [w for w in self._alive() if w.request.origin != origin or w.request.state == "approved"]
            if len(self._waiting) >= MAX_WAITING:
                raise TooManyAttempts(
                    f"{MAX_WAITING} web pages wait for approval", hint="`torpor pair list` shows them."
                )
            secret = secrets.token_urlsafe(32)
            request = PairRequest(self._free_code(), *checked, self._clock())
            self._waiting.append(_Waiting(request, _sha256(secret), self._steady() + LIVES_S))
        self._told()
        log.info("%s asks for a token (%s)", origin, ", ".join(request.scopes))
        return request, secret

    def waiting(self) -> list[PairRequest]:
        """Return the requests that wait for the user, or for the page to fetch its token; oldest first."""
        with self._lock:
            return [each.request for each in self._alive() if each.request.state != "denied"]

    def approve(self, code: str, scopes: Sequence[str] | None = None) -> PairRequest:
        """Let a page have its token, or one with fewer scopes. Raises: NotFound, BadInput, Conflict."""
        with self._lock:
            each = self._find(code)
            if each.request.state != "pending":
                raise Conflict(f"the request {each.request.code} is {each.request.state} already")
            given = each.request.scopes if scopes is None else tuple(sorted(parse_scopes(scopes)))
            if more := sorted(set(given) - set(each.request.scopes)):
                raise BadInput(f"the page did not ask for {more[0]}", hint="Approve what it asks for, or less.")
            each.request = replace(each.request, scopes=given, state="approved")
            each.until = self._steady() + LIVES_S
        self._told()
        return each.request

    def deny(self, code: str) -> PairRequest:
        """Refuse a page; an approval whose token was not fetched yet is taken back. Raises: NotFound."""
        with self._lock:
            each = self._find(code)
            each.request = replace(each.request, state="denied")
        self._told()
        return each.request

    def claim(self, origin: str, secret: str) -> tuple[PairRequest, str | None]:
        """Return how the request of a page stands, and its token the first time after the approval.

        Raises: Unauthorized (an unknown, old, or used secret, or another page's), TooManyAttempts.
        """
        with self._lock:
            wanted = _sha256(secret)
            each = next((w for w in self._alive() if w.secret_sha256 == wanted and w.request.origin == origin), None)
            if each is None:
                if not self._wrong.take():
                    raise TooManyAttempts("there were too many wrong secrets", hint="Try again in a minute.")
                raise Unauthorized("no request has this secret", hint=_OLD_HINT)
            if each.request.state == "pending":
                return each.request, None
            if each.request.state == "denied":
                self._waiting.remove(each)
                return each.request, None
            _, token = self._tokens.new(each.request.label, list(each.request.scopes), origin)
            self._waiting.remove(each)
        self._told()
        return each.request, token

    def _alive(self) -> list[_Waiting]:
        now = self._steady()
        self._waiting = [each for each in self._waiting if each.until > now]
        return self._waiting

    def _find(self, code: str) -> _Waiting:
        digits = "".join(filter(str.isdecimal, code))
        for each in self._alive():
            if each.request.code.replace("-", "") == digits:
                return each
        raise NotFound(f"no web page waits with code {code[:20]!r}", hint=_OLD_HINT)

    def _free_code(self) -> str:
        used = {each.request.code for each in self._waiting}
        while True:
            number = secrets.randbelow(1_000_000)
            code = f"{number // 1000:03}-{number % 1000:03}"
            if code not in used:
                return code


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
