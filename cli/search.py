"""`torpor search`: find a conversation by what was said in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from ..client import connect
from ..state.words import MAX_QUESTION_CHARS
from . import output
from .output import age
from .visible import visible


def search(
    words: Annotated[list[str], typer.Argument(help='Words, all of them in one message; "a phrase" within quotes.')],
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many sessions, the best first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Find sessions by words of their title, or of a message in their newest backup."""
    question = " ".join(f'"{word}"' if " " in word else word for word in words)[:MAX_QUESTION_CHARS]
    with connect() as keeper:
        found = keeper.api.search(question, limit)
    output.show(found, as_json, lambda: Group(*_lines(found, time.time())))


def _lines(found: dict[str, Any], now: float) -> Iterator[Text]:
    for each in found["results"]:
        title = f' "{visible(each["title"])}"' if each["title"] else ""
        told = f"  {age(each['created_at'], now)}, {each['hits']} hit{'s' * (each['hits'] != 1)}"
        yield Text.assemble((visible(each["session_id"]), "bold"), title, (told, "dim"))
        for match in each["matches"]:
            yield _line(match)
    if not found["results"]:
        yield Text("nothing found")
    if found["more"]:
        yield Text("and more: add a word, or --limit N", style="dim")
    if found["waiting"]:
        yield Text(f"{found['waiting']:,} sessions are not read yet; ask again in a minute", style="dim")


def _line(match: dict[str, Any]) -> Text:
    who = "title" if match["index"] < 0 else f"{match['index'] + 1} {match['role']}"
    line = Text(f"  {visible(who)}: ", style="dim")
    for piece in match["snippet"]:
        line.append(visible(piece["text"]), style="bold yellow" if piece["mark"] else "default")
    return line
