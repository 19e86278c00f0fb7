"""The way into the dashboard: a link that opens once and for a minute, and becomes a token of that page.

The code stands behind the `#` of the link, which browsers send to nobody and put into no log.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ..state.access import DASHBOARD_SCOPES, Allowance
from ..state.errors import Conflict, TooManyAttempts, Unauthorized
from .answers import private_answer
from .tokens import Tokens

LINK_LIVES_S = 60.0
SIGNED_IN_S = 12 * 3600.0
MAX_LINKS = 20
WRONG_CODES, REFILL_S = 20, 3.0


class Code(BaseModel):
    """What stands behind the `#` of a login link."""

    model_config = ConfigDict(extra="forbid", strict=True)
    code: str = Field(min_length=1, max_length=100)


@dataclass(frozen=True, slots=True)
class Link:
    """A login link, for so many seconds and one use."""

    url: str
    lives_s: float


@dataclass(frozen=True, slots=True)
class SignedIn:
    """The token of a dashboard page, and until when it opens."""

    token: str
    scopes: list[str]
    expires_at: float


class Logins:
    """Makes links and takes their codes, each once. Safe to call from several threads."""

    def __init__(self, tokens: Tokens, url: str, steady: Callable[[], float]) -> None:
        self._tokens, self._url, self._steady = tokens, url, steady
        self._lock, self._codes = threading.Lock(), dict[bytes, float]()
        self._wrong = Allowance(WRONG_CODES, REFILL_S, steady)

    def link(self) -> Link:
        """Make a link. Raises: Conflict where too many are open."""
        code = secrets.token_urlsafe(32)
        with self._lock:
            self._forget_old()
            if len(self._codes) >= MAX_LINKS:
                raise Conflict(f"{MAX_LINKS} login links are open", hint="Use one of them, or wait a minute.")
            self._codes[_digest(code)] = self._steady() + LINK_LIVES_S
        return Link(f"{self._url}/#login={code}", LINK_LIVES_S)

    def sign_in(self, code: str) -> SignedIn:
        """Take a code and make the page's token. Raises: Unauthorized, TooManyAttempts, Conflict, StoreFull."""
        wanted = _digest(code)
        with self._lock:
            self._forget_old()
            found = next((known for known in self._codes if hmac.compare_digest(known, wanted)), None)
            if found is None:
                if not self._wrong.take():
                    raise TooManyAttempts("there were too many wrong login codes in a short time")
                raise Unauthorized("the login link was used, or is too old", hint="Get a new one: `torpor open`.")
            del self._codes[found]
        record, token = self._tokens.new("dashboard", DASHBOARD_SCOPES, lives_s=SIGNED_IN_S)
        assert record.expires_at is not None
        return SignedIn(token, list(record.scopes), record.expires_at)

    def _forget_old(self) -> None:
        now = self._steady()
        self._codes = {code: until for code, until in self._codes.items() if until > now}


def add_logins(app: FastAPI, logins: Logins, tokens: Tokens) -> None:
    """Add the routes."""

    @app.post("/v1/login/links", status_code=201, response_model=Link)
    def new_link() -> Response:
        """Make a link that opens the dashboard once."""
        return private_answer(logins.link(), 201)

    @app.post("/v1/login", status_code=201, response_model=SignedIn)
    def sign_in(wanted: Code) -> Response:
        """Exchange the code of a link for a token of the dashboard."""
        return private_answer(logins.sign_in(wanted.code), 201)

    @app.delete("/v1/login", status_code=204)
    def sign_out(request: Request) -> Response:
        """Make the token void that this request carries; the owner's stays."""
        tokens.forget(request.headers.get("authorization", "").partition(" ")[2].strip().encode())
        return Response(status_code=204)


def _digest(code: str) -> bytes:
    return hashlib.sha256(code.encode()).digest()
