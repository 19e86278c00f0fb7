"""The index of words, an FTS5 table beside `messages` with the same ids, as functions of a connection.

FTS5 writes what is deleted as a note that it is, and the words go when segments are merged; so `compact` merges them.
(Its option `secure-delete` does so at once, but SQLite has it from 3.42 on, and an index with it is not read by an
older one.)
"""

from __future__ import annotations

from sqlalchemy import Connection, text

_MERGED_PAGES = 200  # of one step: some ten milliseconds
_MAKE = "CREATE VIRTUAL TABLE words USING fts5(text, tokenize = 'unicode61 remove_diacritics 2')"
_FOLLOW = "CREATE TRIGGER words_delete AFTER DELETE ON messages BEGIN DELETE FROM words WHERE rowid = OLD.id; END"
_FIND = text(
    "SELECT m.session_id, m.position, m.role, snippet(words, 0, :begin, :end, '…', :width) AS excerpt"
    " FROM words JOIN messages m ON m.id = words.rowid WHERE words MATCH :asked ORDER BY words.rank LIMIT :most"
)
_INSERT = text("INSERT INTO words (rowid, text) VALUES (:id, :text)")


def can_have_words(connection: Connection) -> bool:
    """Tell whether this build of SQLite can index words; next to all can."""
    return bool(connection.exec_driver_sql("SELECT sqlite_compileoption_used('ENABLE_FTS5')").scalar())


def has_words(connection: Connection) -> bool:
    """Tell whether words are indexed."""
    return bool(connection.exec_driver_sql("SELECT count(*) FROM sqlite_master WHERE name = 'words'").scalar())


def make_words(connection: Connection) -> None:
    """Make the empty index of words. What leaves `messages` leaves it, whoever takes it out."""
    connection.exec_driver_sql(_MAKE)
    connection.exec_driver_sql(_FOLLOW)


def remake_words(connection: Connection) -> None:
    """Make the index of words anew: all of it has to be entered again."""
    connection.exec_driver_sql("DROP TRIGGER IF EXISTS words_delete")
    connection.exec_driver_sql("DROP TABLE IF EXISTS words")
    connection.exec_driver_sql("DELETE FROM searched")
    connection.exec_driver_sql("DELETE FROM messages")
    if can_have_words(connection):
        make_words(connection)


def enter_words(connection: Connection, rows: list[tuple[int, str]]) -> None:
    """Enter texts (as state/words.py sets them apart) under the ids of their messages."""
    if rows:
        connection.execute(_INSERT, [{"id": row_id, "text": words} for row_id, words in rows])


def find_words(
    connection: Connection, asked: str, most: int, *, begin: str, end: str, width: int
) -> list[tuple[str, int, str, str]]:
    """Return what fits an expression best: session, position, role, and an excerpt with marks of so many words."""
    values = {"asked": asked, "most": most, "begin": begin, "end": end, "width": width}
    return [(row.session_id, row.position, row.role, row.excerpt) for row in connection.execute(_FIND, values)]


def compact_some(connection: Connection, *, begin: bool) -> bool:
    """Merge some of the index, with `begin` all of it from now on; return whether there is more to be done."""
    before = connection.exec_driver_sql("SELECT total_changes()").scalar() or 0
    pages = -_MERGED_PAGES if begin else _MERGED_PAGES
    connection.exec_driver_sql("INSERT INTO words (words, rank) VALUES ('merge', ?)", (pages,))
    return (connection.exec_driver_sql("SELECT total_changes()").scalar() or 0) - before >= 2  # as FTS5's manual has it
