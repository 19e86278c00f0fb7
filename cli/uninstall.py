"""`torpor uninstall`: says what goes and what stays and where, asks, and does it. Data goes only by a typed consent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from ..state.errors import BadInput, MissingExtra
from ..store.home import Home
from ..store.home_removal import refuse_what_is_no_home
from . import questions
from .leaving import Found, Thing, as_json, carry_out, consent, plan
from .output import console, show
from .visible import plain


def uninstall(
    purge: Annotated[bool, typer.Option("--purge", help="The home with all its backups, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what goes and what stays.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; --purge wants --consent all the same.")] = False,
    agreed: Annotated[
        str | None, typer.Option("--consent", help="What --purge would have you type, e.g. 'delete 14 backups'.")
    ] = None,
    as_json_: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Take Torpor off this machine: service, autostart, desktop entries. Backups stay, and so does the bucket.

    It says first what goes and what stays, and where. The home goes with --purge, and only if you type what is lost.
    """
    try:
        from ..daemon.remote_settings import load_remote_settings  # noqa: F401  (whether it can be imported)
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed: pip install 'torpor[daemon]'") from error
    if agreed is not None and not purge:
        raise BadInput("--consent is for --purge", hint="Add --purge, or --yes alone; nothing was changed.")
    found = Found.of(Home.from_environment(os.environ), os.environ)
    if purge and os.path.lexists(found.home.root):
        refuse_what_is_no_home(found.home)
    things = plan(found, purge=purge)
    if not as_json_:
        console.print(Group(*_lines(things, done=False)), soft_wrap=True)
    if dry_run:
        if as_json_:
            show({"dry_run": True, "things": as_json(things), "consent": consent(found)}, as_json_, str)
        return
    _agree(found, purge=purge, yes=yes, agreed=agreed, asking=not as_json_ and questions.can_ask())
    done = carry_out(found, os.environ, purge=purge)
    stays = [each for each in things if not each.goes]
    body = {"dry_run": False, "things": as_json(things), "done": done}
    show(body, as_json_, lambda: Group(plain(""), plain("Done. What stays:", "bold"), *_lines(stays, done=True)))


def _agree(found: Found, *, purge: bool, yes: bool, agreed: str | None, asking: bool) -> None:
    """Make sure that it is meant. Raises: BadInput; typer.Exit when it is not."""
    wanted = consent(found)
    if purge and agreed is not None and agreed != wanted:
        raise BadInput(f"{agreed!r} is not what is lost", hint=f"--consent '{wanted}'; nothing was changed.")
    if purge and agreed is None:
        if not asking:
            raise BadInput("--purge wants your consent in words", hint=f"--consent '{wanted}'; nothing was changed.")
        _typed(wanted)
    elif not yes and agreed is None:
        if not asking:
            raise BadInput("nobody is there to agree", hint="Add --yes; --dry-run says what would be done.")
        if not _said_yes():
            raise typer.Exit(130)


def _typed(wanted: str) -> None:
    questions.say("")
    questions.say("This cannot be undone.", "bold red")
    try:
        if input(f"Type `{wanted}` to go on: ").strip() == wanted:
            return
    except (KeyboardInterrupt, EOFError):
        questions.say("")
    questions.say("That is not it; nothing was changed.", "yellow")
    raise typer.Exit(130)


def _said_yes() -> bool:
    questions.say("")
    try:
        agreed = questions.agree("Go on?", proposed=False)
    except (KeyboardInterrupt, EOFError):
        questions.say("")
        agreed = False
    if not agreed:
        questions.say("Nothing was changed.", "yellow")
    return agreed


def _lines(things: list[Thing], *, done: bool) -> Iterator[Text]:
    for goes, head in ((True, "Goes"), (False, "Stays")):
        some = [each for each in things if each.goes is goes]
        if some and not done:
            yield plain(head, "bold")
        for each in some:
            yield Text.assemble(plain(f"  {each.name:<10}"), plain(each.where))
            if each.about:
                yield plain(f"  {'':<10}{each.about}", "dim")
