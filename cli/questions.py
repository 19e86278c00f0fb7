"""Questions at a terminal: each with what is proposed, so that Enter is an answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from getpass import getpass
from textwrap import wrap
from typing import TypeVar

from ..state.errors import TorporError
from . import output
from .visible import plain

T = TypeVar("T")
_INDENT = "     "
_WIDEST = 120  # columns


def can_ask() -> bool:
    """Tell whether somebody is there to answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def say(text: str, style: str = "") -> None:
    """Print a line."""
    output.console.print(plain(text, style), soft_wrap=True)


def tell(text: str, style: str = "", indent: str = "") -> None:
    """Print sentences, broken between words."""
    for line in wrap(
        text, max(min(output.console.width, _WIDEST), 40), initial_indent=indent, subsequent_indent=indent
    ):
        say(line, style)


def head(number: int, question: str, about: str) -> None:
    """Begin one of the three questions."""
    say("")
    say(f"{number} of 3  {question}", "bold")
    tell(about, "dim", _INDENT)


def ask(words: str, proposed: str, check: Callable[[str], T]) -> T:
    """Ask until an answer passes `check`, which returns it as it is used. Raises: EOFError, KeyboardInterrupt."""
    shown = f" [{proposed}]" if proposed else ""
    while True:
        answer = input(f"{_INDENT}{words}{shown}: ").strip() or proposed
        try:
            return check(answer)
        except TorporError as error:
            trouble(error)


def ask_secret(words: str, kept: str | None = None) -> str | None:
    """Ask for what is not shown. Enter keeps what there is (or gives None). Raises: EOFError, KeyboardInterrupt."""
    shown = " [Enter keeps the one that is set]" if kept else ""
    return getpass(f"{_INDENT}{words}{shown}: ") or kept


def agree(words: str, *, proposed: bool) -> bool:
    """Ask a question of yes or no. Raises: EOFError, KeyboardInterrupt."""
    shown = "Y/n" if proposed else "y/N"
    while True:
        answer = input(f"{_INDENT}{words} [{shown}]: ").strip().lower()
        if answer in ("", "y", "yes", "n", "no"):
            return proposed if not answer else answer.startswith("y")
        say(f"{_INDENT}y or n", "yellow")


def choose(words: str, choices: dict[str, str], proposed: str) -> str:
    """Ask for one of some letters, each with what it does. Raises: EOFError, KeyboardInterrupt."""
    for letter, meaning in choices.items():
        say(f"{_INDENT}  {letter}  {meaning}")
    while True:
        answer = input(f"{_INDENT}{words} [{proposed}]: ").strip().lower() or proposed
        if answer in choices:
            return answer
        say(f"{_INDENT}one of {', '.join(choices)}", "yellow")


def trouble(error: TorporError) -> None:
    """Say what is wrong with an answer, and what helps."""
    tell(error.detail, "red", _INDENT)
    if error.hint:
        tell(error.hint, "dim", _INDENT)
