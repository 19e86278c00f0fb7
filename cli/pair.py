"""`torpor pair` and `torpor token`: who else may call the daemon, and for what."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated, Any

import typer

from ..client import connect
from ..state.access import SCOPES
from ..state.errors import BadInput, NotFound
from .output import age, console, show, table

app = typer.Typer(help="Let a web page use the daemon, or no longer.", no_args_is_help=True)
tokens = typer.Typer(help="Make tokens for programs: for Prometheus, a container, a page.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Code = Annotated[str, typer.Argument(help="The code that the page shows, e.g. 482-193.")]
Scopes = Annotated[
    list[str] | None,
    typer.Option("--scope", help=f"{', '.join(SCOPES)}; may be given several times, or separated by commas."),
]


@app.command("list")
def list_pages(as_json: Json = False) -> None:
    """List the pages that wait for your approval, and those that have it."""
    with connect() as keeper:
        waiting = keeper.api.json("GET", "/v1/pair/requests")["requests"]
        approved = [each for each in keeper.api.json("GET", "/v1/tokens")["tokens"] if each["origin"]]
    if not as_json and not waiting and not approved:
        console.print("No page asks, and none is approved.")
        return
    show({"waiting": waiting, "approved": approved}, as_json, lambda: _pages(waiting, approved))


def _pages(waiting: list[dict[str, Any]], approved: list[dict[str, Any]]) -> Any:
    rows = table("!code", "page", "name", "may", "")
    now = time.time()
    for each in waiting:
        state = f"asked {age(each['asked_at'], now)}" if each["state"] == "pending" else "approved; has not come for it"
        rows.add_row(each["code"], each["origin"], each["label"], ", ".join(each["scopes"]), state)
    for each in approved:
        rows.add_row("", each["origin"], each["label"], ", ".join(each["scopes"]), f"token {each['id']}, {_used(each)}")
    return rows


@app.command()
def approve(code: Code, scope: Scopes = None, as_json: Json = False) -> None:
    """Let the page that shows this code use the daemon. Look that it is the page you think it is."""
    with connect() as keeper:
        found = keeper.api.json("POST", f"/v1/pair/requests/{_digits(code)}/approve", json={"scopes": _split(scope)})
    show(found, as_json, lambda: f"{found['origin']} may {', '.join(found['scopes'])} from now on")


@app.command()
def deny(code: Code, as_json: Json = False) -> None:
    """Refuse the page that shows this code."""
    with connect() as keeper:
        found = keeper.api.json("POST", f"/v1/pair/requests/{_digits(code)}/deny")
    show(found, as_json, lambda: f"{found['origin']} is refused")


@app.command("revoke")
def revoke_pages(
    page: Annotated[str, typer.Argument(help="The origin of a page, or the id of one of its tokens.")],
    as_json: Json = False,
) -> None:
    """Make every token of a page void, at once, and refuse what it asks for."""
    name = page.rstrip("/")
    with connect() as keeper:
        waiting = keeper.api.json("GET", "/v1/pair/requests")["requests"]
        codes = [each["code"] for each in waiting if each["origin"] == name]
        for code in codes:
            with suppress(NotFound):  # it fetched its token meanwhile, or gave up: what it has goes below
                keeper.api.call("POST", f"/v1/pair/requests/{_digits(code)}/deny")
        listed = keeper.api.json("GET", "/v1/tokens")["tokens"]
        ids = [each["id"] for each in listed if each["origin"] and name in (each["origin"], each["id"])]
        if not ids and not codes:
            raise BadInput(f"no page {page} is approved", hint="`torpor pair list` lists them.")
        for token_id in ids:
            keeper.api.call("DELETE", f"/v1/tokens/{token_id}")
    show({"revoked": ids, "denied": codes}, as_json, lambda: f"{len(ids)} token(s) revoked, {len(codes)} denied")


@tokens.command("new")
def new_token(
    scope: Scopes = None,
    label: Annotated[str, typer.Option(help="The name by which it is listed.")] = "",
    origin: Annotated[str | None, typer.Option(help="Only pages of this origin may use it.")] = None,
    as_json: Json = False,
) -> None:
    """Make a token that opens no more than its scopes, and print it, this once."""
    scopes = _split(scope)
    if scopes is None:
        raise BadInput("a token without a scope opens nothing", hint=f"Add --scope; scopes are {', '.join(SCOPES)}.")
    body = {"label": label or ", ".join(scopes), "scopes": scopes, "origin": origin}
    with connect() as keeper:
        found = keeper.api.json("POST", "/v1/tokens", json=body)
    show(found, as_json, lambda: found["token"])


@tokens.command("list")
def list_tokens(as_json: Json = False) -> None:
    """List the tokens with scopes: whose, for what, when used last. The tokens themselves are not kept."""
    with connect() as keeper:
        found = keeper.api.json("GET", "/v1/tokens")
    if not as_json and not found["tokens"]:
        console.print("There is no token but the one of the home folder.")
        return
    show(found, as_json, lambda: _tokens(found["tokens"]))


def _tokens(found: list[dict[str, Any]]) -> Any:
    rows = table("!id", "name", "may", "page", "")
    for each in found:
        rows.add_row(each["id"], each["label"], ", ".join(each["scopes"]), each["origin"] or "", _used(each))
    return rows


@tokens.command("revoke")
def revoke_token(token: Annotated[str, typer.Argument(help="The id of the token.")], as_json: Json = False) -> None:
    """Make a token void, at once."""
    with connect() as keeper:
        found = keeper.api.json("DELETE", f"/v1/tokens/{_plain(token)}")
    show(found, as_json, lambda: f"token {found['id']} ({found['label']}) is revoked")


def _used(found: dict[str, Any]) -> str:
    return "never used" if found["used_at"] is None else f"used {age(found['used_at'], time.time())}"


def _split(names: list[str] | None) -> list[str] | None:
    found = [name.strip() for each in names or () for name in each.split(",") if name.strip()]
    return found or None


def _digits(code: str) -> str:
    digits = "".join(filter(str.isdecimal, code))
    if len(digits) != 6:
        raise BadInput(f"{code} is not a code", hint="A code has six digits; `torpor pair list` shows who waits.")
    return digits


def _plain(token_id: str) -> str:
    if not token_id.isalnum():
        raise BadInput(f"{token_id} is not the id of a token", hint="`torpor token list` lists them.")
    return token_id
