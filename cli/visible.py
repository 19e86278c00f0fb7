"""Text of others on a terminal: every character that could move the cursor, colour or turn lines round is written out.

A saved conversation is user input: an escape sequence in it must not reach the terminal, a bidirectional override must
not swap what a line says, a newline must not forge a line of ours. Rich's markup is never read in such text either:
callers hand it over as `rich.text.Text`.
"""

from __future__ import annotations

import unicodedata

from rich.text import Text

_JOINERS = "\u200c\u200d"  # part of Persian words and of emoji; they move nothing
# Controls, formatting (bidirectional overrides among it), surrogates, private and unassigned, line and paragraph ends.
_WRITTEN_OUT = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: str) -> str:
    r"""Write out what a terminal would act upon, as `\x1b` or `\u202e`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_written(char) for char in text)


def _written(char: str) -> str:
    if char in _JOINERS or unicodedata.category(char) not in _WRITTEN_OUT:
        return char
    return char.encode("unicode_escape").decode()


def plain(text: str, style: str = "") -> Text:
    """Return foreign text as rich takes it without reading markup in it."""
    return Text(visible(text), style=style)
