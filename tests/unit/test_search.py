"""What can be searched follows what was saved: right behind it, no more than what is new, and nothing that is gone."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kept import Kept
from support.manifests import manifest
from support.old_indexes import age
from torpor.daemon.purge import Purge
from torpor.daemon.remote import RemoteSide
from torpor.daemon.remote_settings import RemoteSettings
from torpor.daemon.room import open_room
from torpor.daemon.search_care import SearchCare
from torpor.daemon.search_reading import SearchReading
from torpor.daemon.settings import load_settings
from torpor.db import search
from torpor.db.previews import previews_of
from torpor.db.remembered import Remembered
from torpor.state.errors import IndexDamaged
from torpor.state.manifest import Manifest

SECRET = "zqxjkvwp"
SOAK = bool(os.environ.get("TORPOR_SOAK"))


class Talk(Kept):
    """A home with conversations in it, and what reads them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.care = SearchCare(self.catalog)
        self.catalog.tell_changes_with(self.care.changed)
        self.said: dict[str, list[Any]] = {}

    def say(self, session: str, *texts: str) -> Manifest:
        """Go on with a conversation and save it."""
        self.said.setdefault(session, []).extend({"role": "user", "content": text} for text in texts)
        self.wait(1.0)
        self.count += 1
        layers = {"metadata": {}, "text_context": {"conversation": list(self.said[session])}}
        made_id, at = f"01M81P35719XNDZ4R57NMV{self.count:04d}", self.now
        made = manifest(id=made_id, session_id=session, created_at=at, layers=layers, tokens=0, kv_cache=None)
        self.commit(made)
        return made

    def find(self, question: str) -> list[tuple[str, int]]:
        """Return the best match of each session that is found."""
        self.care.settle()
        with self.catalog.index.reading() as connection:
            found, _ = search.search(connection, question, 10, 3)
        return sorted((each.session_id, match.position) for each in found for match in each.matches)

    def rows(self) -> dict[tuple[str, int], int]:
        """Return the ids of all messages that can be searched."""
        with self.catalog.index.reading() as connection:
            found = connection.exec_driver_sql("SELECT session_id, position, id FROM messages")
            return {(session, position): number for session, position, number in found}

    def bytes_with(self, text: str) -> list[str]:
        return [path.name for path in self.home.root.glob("index.sqlite*") if text.encode() in path.read_bytes()]


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    made = Talk(tmp_path)
    yield made
    made.close()


def test_what_was_said_is_found_in_the_newest_backup(talk: Talk) -> None:
    talk.say("a", "the blue lantern", "and a cat")
    talk.say("b", "a green lantern")
    assert talk.find("lantern") == [("a", 0), ("b", 0)]
    assert talk.find("lantern blue") == [("a", 0)]
    assert talk.find("cat lantern") == [], "both words in one message"
    talk.say("a", "lantern again")
    assert talk.find("lantern") == [("a", 0), ("a", 2), ("b", 0)]


def test_only_what_is_new_is_entered(talk: Talk) -> None:
    talk.say("a", "one", "two", "three")
    talk.find("one")
    before = talk.rows()
    talk.said["a"][1] = {"role": "user", "content": "zwei"}
    talk.say("a", "four")
    assert talk.find("zwei") == [("a", 1)]
    after = talk.rows()
    assert {key for key in after if before.get(key) != after[key]} == {("a", 1), ("a", 3)}
    assert talk.find("two") == []


def test_a_shorter_conversation_leaves_nothing_behind(talk: Talk) -> None:
    talk.say("a", "one", "two", "three")
    talk.find("one")
    del talk.said["a"][1:]
    talk.say("a")
    assert talk.find("three") == []
    assert set(talk.rows()) == {("a", 0)}


def test_titles_are_found_and_follow_their_changes(talk: Talk) -> None:
    talk.say("a", "hello")
    talk.catalog.set_title("a", "The Lisbon trip")
    assert talk.find("lisb") == [("a", search.TITLE)]
    talk.catalog.set_title("a", None)
    assert talk.find("lisb") == []


def test_a_removed_backup_is_gone_at_once_and_the_one_before_it_is_found(talk: Talk) -> None:
    talk.say("a", "first")
    newest = talk.say("a", "second")
    assert talk.find("second") == [("a", 1)]
    talk.catalog.remove(newest.id)
    assert talk.rows() == {}, "in the transaction that removed it"
    assert talk.find("first") == [("a", 0)]
    assert talk.find("second") == []


def test_a_session_that_is_gone_is_found_no_more(talk: Talk) -> None:
    only = talk.say("a", "hello")
    talk.catalog.set_title("a", "Lisbon")
    talk.find("hello")
    talk.catalog.remove(only.id)
    assert talk.rows() == {}
    assert talk.find("hello") == talk.find("Lisbon") == []


def test_a_backup_that_is_removed_while_it_is_read_leaves_nothing(talk: Talk) -> None:
    newest = talk.say("a", "one", "two")
    with talk.catalog.index.writing() as connection:
        target = search.target_of(connection, "a")
        assert target is not None
        assert search.begin_entering(connection, target, [])
        assert search.enter(connection, target, [search.Entry(0, "user", b"d" * 16, "one")], last=False)
    talk.catalog.remove(newest.id)
    with talk.catalog.index.writing() as connection:
        assert not search.enter(connection, target, [search.Entry(1, "user", b"d" * 16, "two")], last=True)
        assert not search.begin_entering(connection, target, [])
    assert talk.rows() == {}


def test_what_a_crash_left_half_entered_is_ended(talk: Talk) -> None:
    talk.say("a", "one", "two")
    with talk.catalog.index.writing() as connection:
        target = search.target_of(connection, "a")
        assert target is not None
        search.begin_entering(connection, target, [])
        assert search.behind(connection) == ["a"]
    talk.care = SearchCare(talk.catalog)  # a new process, which nobody has told of anything
    assert talk.find("two") == [("a", 1)]


def test_a_purge_takes_every_word_out_of_the_files(talk: Talk) -> None:
    talk.say("a", "nothing of note")
    for number in range(30):
        talk.say(f"other-{number}", f"words of session {number}")
    doomed = talk.say("a", f"the word is {SECRET} and only here")
    assert talk.find(SECRET) == [("a", 1)]
    assert talk.bytes_with(SECRET)
    settings = load_settings()
    side = RemoteSide(talk.home, RemoteSettings(None), talk.catalog, Remembered(talk.catalog.index))
    Purge(talk.home, talk.catalog, side, open_room(talk.home, settings, talk.catalog)).run(doomed.id)
    assert talk.bytes_with(SECRET) == []
    assert talk.find("note") == [("a", 0)]


def test_words_of_what_was_removed_go_by_the_way(talk: Talk) -> None:
    newest = talk.say("a", f"the word is {SECRET}")
    talk.find(SECRET)
    talk.catalog.remove(newest.id)
    assert segments(talk.home.index) > 1, "a note that they are deleted"
    talk.care.compact()
    assert segments(talk.home.index) <= 1


def segments(index: Path) -> int:
    with closing(sqlite3.connect(index)) as connection:
        return int(connection.execute("SELECT count(DISTINCT segid) FROM words_idx").fetchone()[0])


DAMAGE = {
    "pages": "UPDATE words_data SET block = zeroblob(3) WHERE id > 10",
    "garbage": "UPDATE words_data SET block = randomblob(200) WHERE id > 10",
    "structure": "UPDATE words_data SET block = x'deadbeefffffffffffffffff' WHERE id = 10",
    "gone": "DELETE FROM words_data",
    "totals": "UPDATE words_data SET block = x'ff' WHERE id = 1",
    "texts": "DELETE FROM words_content",
    "sizes": "DELETE FROM words_docsize",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_of_words_is_made_anew_and_stops_nothing(talk: Talk, damage: str) -> None:
    talk.say("a", "the blue lantern")
    removed = talk.say("b", "hello lantern")
    talk.find("lantern")
    with talk.catalog.index.writing() as connection:
        connection.exec_driver_sql(DAMAGE[damage])
    with suppress(IndexDamaged), talk.catalog.index.reading() as connection:
        search.search(connection, "lantern", 10, 3)
    talk.catalog.remove(removed.id)  # whatever becomes of the words
    talk.say("a", "goes on")
    talk.care.is_broken()
    assert talk.find("lantern") == [("a", 0)]
    assert talk.find("goes") == [("a", 1)]
    assert talk.find("hello") == []


def test_an_older_store_is_read_by_the_way(tmp_path: Path) -> None:
    first = Talk(tmp_path)
    with first.stack:
        made = [first.say(f"s{number}", f"lantern {number}") for number in range(25)]
    age(first.home.index, "0005")
    second = Talk(tmp_path)
    with second.stack:
        with second.catalog.index.reading() as connection:
            assert previews_of(connection, [each.id for each in made]) == {}
        assert len(second.find("lantern")) == 10
        with second.catalog.index.reading() as connection:
            shown = previews_of(connection, [each.id for each in made])
        assert [shown[each.id].text for each in made] == [f"lantern {number}" for number in range(25)]


def test_a_backup_whose_manifest_cannot_be_read_stops_no_other(talk: Talk) -> None:
    broken = talk.say("a", "one")
    talk.say("b", "two")
    path = talk.catalog.manifests.path(broken.id)
    path.write_bytes(b"junk")
    assert talk.find("two") == [("b", 0)]
    assert talk.find("one") == []
    assert SearchReading(talk.catalog).behind() == []


def test_the_thread_reads_what_is_saved_and_ends(talk: Talk) -> None:
    talk.care.start()
    talk.say("a", "the blue lantern")
    until = time.monotonic() + 20
    while not talk.rows() and time.monotonic() < until:
        assert talk.care.waiting() <= 1
    assert set(talk.rows()) == {("a", 0)}
    talk.care.stop()
    assert not talk.care._thread.is_alive()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["say", "edit", "cut", "remove", "title", "read"]), st.sampled_from("ab"), st.integers(0, 9)
    ),
    min_size=5,
    max_size=25,
)


@settings(max_examples=100 if SOAK else 5)
@given(steps=STEPS)
def test_whatever_happens_the_search_is_of_the_newest_backups(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, int]]
) -> None:
    talk = Talk(tmp_path_factory.mktemp("talk"))
    backups: dict[str, list[tuple[str, list[str]]]] = {"a": [], "b": []}
    titles: dict[str, str] = {}
    with talk.stack:
        for number, (what, session, choice) in enumerate(steps):
            said = talk.said.setdefault(session, [])
            if what in ("say", "edit", "cut"):
                if what == "edit" and said:
                    said[choice % len(said)] = {"role": "user", "content": f"edited{number}"}
                if what == "cut":
                    del said[choice:]
                made = talk.say(session, *[f"said{number}"] * (what == "say"))
                backups[session].append((made.id, [each["content"] for each in said]))
            elif what == "remove" and backups[session]:
                backup_id, _ = backups[session].pop(choice % len(backups[session]))
                talk.catalog.remove(backup_id)
                if not backups[session]:
                    titles.pop(session, None)
            elif what == "title" and backups[session]:
                titles[session] = f"title{number}"
                talk.catalog.set_title(session, titles[session])
            elif what == "read":
                talk.care.settle()
        talk.care.settle()
        wanted = {(session, search.TITLE): title for session, title in titles.items()}
        for session, kept in backups.items():
            wanted |= {(session, n): text for n, text in enumerate(kept[-1][1])} if kept else {}
        assert entered(talk) == wanted
        assert SearchReading(talk.catalog).behind() == []


def entered(talk: Talk) -> dict[tuple[str, int], str]:
    """Return all texts that can be searched; each row of words has its message."""
    with talk.catalog.index.reading() as connection:
        rows = connection.exec_driver_sql(
            "SELECT m.session_id, m.position, w.text FROM words w LEFT JOIN messages m ON m.id = w.rowid"
        ).all()
    return {(session, position): text for session, position, text in rows}


def test_what_is_stopped_is_ended_at_the_next_start(talk: Talk) -> None:
    talk.say("a", *[f"word{number}" for number in range(450)])
    turns = iter([False, False, True])
    SearchReading(talk.catalog, lambda: next(turns)).read("a")
    assert len(talk.rows()) == 400
    assert SearchReading(talk.catalog).behind() == ["a"]
    talk.care = SearchCare(talk.catalog)
    assert talk.find("word449") == [("a", 449)]
    assert len(talk.rows()) == 450
