"""The routes of tokens and of pairing. Two of them are open to web pages without a token (daemon/scopes.py)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

from fastapi import FastAPI, Header, Response
from pydantic import BaseModel, ConfigDict, Field

from ..state.access import MAX_LABEL_CHARS, PageScopeName, ScopeName
from ..store.token_list import TokenRecord
from .answers import private_answer
from .pairing import LIVES_S, Pairing, PairRequest, State
from .tokens import Tokens

_Scopes = Annotated[list[ScopeName], Field(min_length=1, max_length=8)]
_PageScopes = Annotated[list[PageScopeName], Field(min_length=1, max_length=8)]
_Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS)]


class NewToken(BaseModel):
    """A token to make: by what name it is listed, what it opens, and whether it is a web page's."""

    model_config = ConfigDict(extra="forbid", strict=True)
    label: _Label
    scopes: _Scopes
    origin: str | None = None


class Ask(BaseModel):
    """What a page asks for."""

    model_config = ConfigDict(extra="forbid", strict=True)
    label: _Label
    scopes: _PageScopes


class Claim(BaseModel):
    """The secret that the page got when it asked."""

    model_config = ConfigDict(extra="forbid", strict=True)
    secret: str = Field(max_length=100)


class Approval(BaseModel):
    """What the page gets of what it asked for; null is all of it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    scopes: _PageScopes | None = None


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token as it is listed. `used_at` is rounded down to the hour."""

    id: str
    label: str
    scopes: list[str]
    origin: str | None
    created_at: float
    used_at: float | None
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class TokenList:
    """The tokens with scopes."""

    tokens: list[TokenInfo]


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A token that was made; its text is said once."""

    token: str
    info: TokenInfo


@dataclass(frozen=True, slots=True)
class PairRequests:
    """The pages that wait for the user."""

    requests: list[PairRequest]


@dataclass(frozen=True, slots=True)
class Asked:
    """The code that the page shows, and the secret that it keeps."""

    code: str
    secret: str
    lives_s: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """How the request stands; the token comes once, with `approved`."""

    state: State
    scopes: list[str]
    token: str | None


def add_tokens(app: FastAPI, tokens: Tokens) -> None:
    """Add the routes of tokens."""

    @app.get("/v1/tokens", response_model=TokenList)
    def list_tokens() -> Response:
        """List the tokens with scopes, oldest first; no secret."""
        return private_answer(TokenList([_info(record) for record in tokens.listed()]))

    @app.post("/v1/tokens", status_code=201, response_model=MadeToken)
    def new_token(wanted: NewToken) -> Response:
        """Make a token with scopes; its text is in the answer and nowhere else."""
        record, token = tokens.new(wanted.label, wanted.scopes, wanted.origin)
        return private_answer(MadeToken(token, _info(record)), 201)

    @app.delete("/v1/tokens/{token_id}", response_model=TokenInfo)
    def revoke_token(token_id: str) -> Response:
        """Make a token void from now on."""
        return private_answer(_info(tokens.revoke(token_id)))


def add_pairing(app: FastAPI, pairing: Pairing) -> None:
    """Add the routes of pairing: two for pages, three for the owner."""

    @app.post("/v1/pair", status_code=201, response_model=Asked)
    def ask(wanted: Ask, origin: Annotated[str, Header()]) -> Response:
        """Ask for a token as a web page: the user compares the code and approves it."""
        request, secret = pairing.ask(origin, wanted.label, wanted.scopes)
        return private_answer(Asked(request.code, secret, LIVES_S), 201)

    @app.post("/v1/pair/claim", response_model=Claimed)
    def claim(wanted: Claim, origin: Annotated[str, Header()]) -> Response:
        """Ask whether the user has approved, and fetch the token, once."""
        request, token = pairing.claim(origin, wanted.secret)
        return private_answer(Claimed(request.state, list(request.scopes), token))

    @app.get("/v1/pair/requests", response_model=PairRequests)
    def list_requests() -> Response:
        """List the web pages that wait for approval."""
        return private_answer(PairRequests(pairing.waiting()))

    @app.post("/v1/pair/requests/{code}/approve", response_model=PairRequest)
    def approve(code: str, wanted: Approval) -> Response:
        """Let the page that shows this code have a token."""
        return private_answer(pairing.approve(code, wanted.scopes))

    @app.post("/v1/pair/requests/{code}/deny", response_model=PairRequest)
    def deny(code: str) -> Response:
        """Refuse the page that shows this code."""
        return private_answer(pairing.deny(code))


def _info(record: TokenRecord) -> TokenInfo:
    values = asdict(record) | {"scopes": list(record.scopes)}
    del values["sha256"]
    return TokenInfo(**values)
