"""What is asked of the index of words, and what comes out of it: no question is a program, no text is changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.state.words import BEGIN, END, MAX_PHRASES, Piece, apart, expression, pieces

TEXTS = (
    "Hello wörld, foo-bar",
    '我爱Python和𠮷野家 テスト 他说"好"',
    "the café\nis open",
    "안녕하세요 세계",
    "don't AND won't",
)


@pytest.fixture(scope="module")
def words() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE words USING fts5(text, tokenize = 'unicode61 remove_diacritics 2')")
        connection.executemany("INSERT INTO words VALUES (?)", [(apart(text),) for text in TEXTS])
        yield connection


def marked(words: sqlite3.Connection, question: str) -> list[str]:
    """Return what is marked in the texts that fit, in brackets."""
    asked = expression(question)
    if asked is None:
        return []
    found = words.execute(
        "SELECT highlight(words, 0, ?, ?) FROM words WHERE words MATCH ? ORDER BY rowid", (BEGIN, END, asked)
    )
    return ["".join(f"[{piece.text}]" if piece.mark else piece.text for piece in pieces(text)) for (text,) in found]


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("hel", ["[Hello] wörld, foo-bar"]),
        ("WORLD hello", ["[Hello] [wörld], foo-bar"]),
        ("foo-b", ["Hello wörld, [foo-bar]"]),
        ("爱", ['我[爱]Python和𠮷野家 テスト 他说"好"']),
        ("野家", ['我爱Python和𠮷[野家] テスト 他说"好"']),
        ("家野", []),
        ("𠮷野", ['我爱Python和[𠮷野]家 テスト 他说"好"']),
        ("爱 python", ['我[爱][Python]和𠮷野家 テスト 他说"好"']),
        ("スト", ['我爱Python和𠮷野家 テ[スト] 他说"好"']),
        ("세계", ["안녕하세요 [세계]"]),
        ("녕하", ["안[녕하]세요 세계"]),
        ("cafe ope", ["the [café] is [open]"]),
        ('"café is"', ["the [café is] open"]),
        ('"caf"', []),
        ("don't", ["[don't] AND won't"]),
        ("AND", ["don't [AND] won't"]),
        ("text:hello", []),
        ("NEAR(hello world)", []),
        ("*", []),
        ('"', []),
    ],
)
def test_a_question_finds(words: sqlite3.Connection, question: str, found: list[str]) -> None:
    assert marked(words, question) == found


@given(question=st.text(max_size=60) | st.text(alphabet='"*^:(){}+-AND ab中\0\x1f', max_size=40))
def test_no_question_is_a_program(words: sqlite3.Connection, question: str) -> None:
    marked(words, question)


@given(question=st.text(alphabet="ab ", max_size=300))
def test_a_question_is_cut(question: str) -> None:
    assert (expression(question) or "").count('"') <= 2 * MAX_PHRASES


@given(text=st.text(alphabet="ab 中文 が한\n\t-", max_size=80))
def test_a_text_comes_back_as_it_was_but_for_its_spaces(text: str) -> None:
    told = "".join(piece.text for piece in pieces(apart(text)))
    assert told.split() == text.split()


def test_marks_of_a_text_itself_are_not_taken_for_ours() -> None:
    assert pieces(apart(f"a{BEGIN}b{END}c")) == [Piece("abc", False)]
