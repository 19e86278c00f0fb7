"""`torpor key`: the keys with which backups in the bucket are encrypted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from getpass import getpass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Group

from ..client import Keeper, connect
from ..client.discover import find_endpoint
from ..state.errors import BadInput, Refused
from .output import errors, show, size, table, when
from .visible import plain

app = typer.Typer(help="Encrypt what goes into the bucket, with a passphrase of yours.", no_args_is_help=True)

MAX_INPUT_CHARS = 64 << 10
_LOCAL = {"127.0.0.1", "localhost", "::1"}
_TYPE_AGAIN = "Type it once more; nothing was changed."

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
PassphraseFile = Annotated[
    str | None,
    typer.Option("--passphrase-file", help="Read the passphrase from the first line of a file; - is stdin."),
]


@app.command()
def init(
    passphrase_file: PassphraseFile = None,
    recovery_file: Annotated[
        str | None,
        typer.Option("--recovery-file", help="A recovery text, when the passphrase or the bucket's key is lost."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the bucket's key, or unlock on this machine the one that it has."""
    if recovery_file == "-" and passphrase_file in (None, "-"):
        raise BadInput("only one of the two can come from stdin", hint="Give --passphrase-file FILE as well.")
    with _local_keeper() as keeper:
        known = keeper.api.json("GET", "/v1/key")
        recovery = None if recovery_file is None else _read(recovery_file)
        passphrase = _passphrase(passphrase_file, new=not known["documents"] or recovery is not None)
        body = {"passphrase": passphrase} | ({} if recovery is None else {"recovery": recovery})
        found = keeper.api.json("POST", "/v1/key/init", json=body)
    show(found, as_json, lambda: Group(*_init_lines(found)))


@app.command("show")
def show_keys(
    recovery: Annotated[
        bool, typer.Option("--recovery", help="Print the keys themselves, to be written down and locked away.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say which keys the bucket has, which of them this machine has, and where it keeps them."""
    with _local_keeper() as keeper:
        found = keeper.api.json("POST" if recovery else "GET", "/v1/key/recovery" if recovery else "/v1/key")
    if recovery:
        errors.print("Whoever has this text can read every backup in the bucket, now and later.", style="bold yellow")
        show(found, as_json, lambda: Group(*map(plain, found["recovery"].splitlines())))
        return
    show(found, as_json, lambda: _described(found))


@app.command()
def rotate(
    passphrase_file: PassphraseFile = None,
    new_passphrase: Annotated[
        bool, typer.Option("--new-passphrase", help="Ask for a new passphrase; the old one is not needed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Encrypt with a new key from now on. What is in the bucket stays readable with the old ones, which are kept."""
    with _local_keeper() as keeper:
        passphrase = _passphrase(passphrase_file, new=new_passphrase)
        body = {"passphrase": passphrase, "new_passphrase": new_passphrase}
        found = keeper.api.json("POST", "/v1/key/rotate", json=body)
    show(found, as_json, lambda: Group(*_rotate_lines(found)))


@contextmanager
def _local_keeper() -> Iterator[Keeper]:
    """Connect to a daemon on this machine: a passphrase never crosses a network. Raises: Refused."""
    endpoint = find_endpoint(os.environ)
    if not endpoint.socket and urlsplit(endpoint.url).hostname not in _LOCAL:
        raise Refused("the daemon is on another machine", hint="Run this on the machine of the daemon.")
    with connect() as keeper:
        yield keeper


def _passphrase(file: str | None, *, new: bool) -> str:
    """Return the passphrase of a file, a pipe, or of somebody at the terminal, who types a new one twice."""
    if file is not None or not sys.stdin.isatty():
        lines = _read(file or "-").splitlines()
        if not lines or not lines[0]:
            raise BadInput("there is no passphrase in the first line", hint="Nothing was changed.")
        return lines[0]
    typed = getpass("New passphrase: " if new else "Passphrase of the bucket: ")
    if new and getpass("Once more: ") != typed:
        raise BadInput("the two passphrases are not the same", hint=_TYPE_AGAIN)
    if not typed:
        raise BadInput("the passphrase is empty", hint=_TYPE_AGAIN)
    return typed


def _read(file: str) -> str:
    try:
        if file == "-":
            return sys.stdin.read(MAX_INPUT_CHARS)
        with Path(file).open(encoding="utf-8") as source:
            return source.read(MAX_INPUT_CHARS)
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not text in UTF-8") from error


def _init_lines(found: dict[str, Any]) -> Iterator[Any]:
    what = "made, and protected by your passphrase" if found["made"] else "unlocked"
    yield plain(f"Key {found['current']} is {what}. Everything that goes into the bucket from now on is encrypted.")
    if found["was_plain"]:
        yield plain("What lay there before stays readable by whoever reads the bucket, until it is removed.", "yellow")
    if found["made"]:
        yield plain("Without the passphrase or a recovery text nobody can read it: `torpor key show --recovery`.")
    yield from _place(found)


def _rotate_lines(found: dict[str, Any]) -> Iterator[Any]:
    yield plain(f"Key {found['current']} is used from now on; {len(found['keys']) - 1} older kept for reading.")
    yield plain("Other machines need `torpor key init` once more, and your recovery text is out of date.")
    yield from _place(found)


def _place(found: dict[str, Any]) -> Iterator[Any]:
    yield plain(f"This machine keeps it in {_PLACES[found['kept_in']]}.")
    if found["warning"]:
        yield plain(found["warning"], "yellow")


_PLACES = {"keyring": "the system's keyring", "file": "the file repo.key of the home folder", None: "no place"}


def _described(found: dict[str, Any]) -> Any:
    if not found["encrypted"]:
        return "The bucket is not encrypted: whoever reads it can read the backups. `torpor key init` makes a key."
    here = {key["id"] for key in found["keys"]}
    rows = table("!key", "!made", "!", "!here")
    made = {key["id"]: key["created_at"] for key in found["keys"]}
    known = dict.fromkeys([*made, *(key for document in found["documents"] for key in document.get("keys", []))])
    for key in known:
        state = "current" if key == found["current"] else ""
        rows.add_row(key, when(made.get(key)), state, "yes" if key in here else "no: `torpor key init`")
    return Group(rows, *_documents(found), *(_place(found) if here else ()))


def _documents(found: dict[str, Any]) -> Iterator[Any]:
    for document in found["documents"]:
        if document["problem"] is not None:
            yield plain(f"{document['name']}: {document['problem']}", "yellow")
            continue
        kdf = document["kdf"]
        cost = f"{kdf['name']}, {size(128 * kdf['n'] * kdf['r'])} a guess"
        yield plain(f"{document['name']}: written {when(document['created_at'])}, {cost}", "dim")
    if found["takes_plain"]:
        yield plain("The bucket also holds backups from before it had a key, which are not encrypted.", "yellow")
