"""Words of texts and of questions, as the index of words takes them (SQLite's FTS5, tokenizer `unicode61`). Pure.

Chinese, Japanese and Korean are written without spaces between words, or with endings grown on, and a run of them would
be one word. So their characters are set apart by a character that no text has here, each is a word, and what is asked
for is a phrase of them: one character finds, two find more exactly, and the text comes back as it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_QUESTION_CHARS = 200
MAX_PHRASES = 16
BEGIN, END, _APART = "\x02", "\x03", "\x1f"
_OURS = dict.fromkeys(map(ord, ("\0", BEGIN, END, _APART)))
_ALONE = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U000323af"
)
_BETWEEN = re.compile(f"(?<=[{_ALONE}])(?=\\w)|(?<=\\w)(?=[{_ALONE}])")
_IS_ALONE = re.compile(f"[{_ALONE}]")
_PIECES = re.compile(r'"([^"]*)"?|([^\s"]+)')
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a text; `mark` says that it is what was asked for."""

    text: str
    mark: bool


def apart(text: str) -> str:
    """Return a text as it is indexed."""
    return _BETWEEN.sub(_APART, text.translate(_OURS))


def expression(question: str) -> str | None:
    """Return what a question asks the index: all of its words, the last of them as a beginning; None for no word.

    What stands between quotes is a phrase, and whole.
    """
    phrases, open_end = [], False
    for quoted, word in _PIECES.findall(question[:MAX_QUESTION_CHARS]):
        piece = apart(quoted or word)
        if re.search(r"\w", piece) is not None:
            phrases.append(f'"{piece}"')
            open_end = not quoted
    return " ".join(phrases[:MAX_PHRASES]) + ("*" if open_end and len(phrases) <= MAX_PHRASES else "") or None


def needs_width(question: str) -> bool:
    """Tell whether single characters are words of a question, so that few of them say little."""
    return _IS_ALONE.search(question) is not None


def pieces(marked: str) -> list[Piece]:
    """Return an excerpt with marks as pieces, on one line."""
    found, mark = [], False
    for text in re.split(f"([{BEGIN}{END}])", _SPACES.sub(" ", marked.replace(_APART, ""))):
        if text in (BEGIN, END):
            mark = text == BEGIN
        elif text:
            found.append(Piece(text, mark))
    return found
