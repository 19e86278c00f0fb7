"""`torpor log` over real saves: what it draws, and what it says happened at each."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.caches import IDENTITY
from support.chats import Chat, ChatTarget, plain
from support.commands import as_json, run
from support.daemon import Daemon
from torpor.adapters.plain import PlainTarget
from torpor.cli.log import lines
from torpor.client import Keeper


@dataclass
class Log:
    """A session's history under a clock that goes on by a minute with every save."""

    keeper: Keeper
    session_id: str
    clock: list[float]
    saved: list[str]

    def save(self, source: Any) -> str:
        self.clock[0] += 60
        self.saved.append(self.keeper.save(self.session_id, source).wait(60).id)
        return self.saved[-1]

    def wake(self, ref: str) -> Any:
        return self.keeper.restore(ref, ChatTarget(), require="full").session

    def drawn(self, session_id: str | None = None) -> str:
        history = self.keeper.history(session_id or self.session_id)
        text = "\n".join(line.plain.rstrip() for line in lines(history, self.clock[0] + 1, None))
        for number, backup_id in enumerate(self.saved, 1):
            text = text.replace(backup_id[-8:], f"save-{number:<3}")
        text = text.replace(self.session_id.removesuffix("-fork"), "chat-42")
        text = re.sub(r" +\d+(\.\d)? (B|KiB) +\d+%| +new +shared", "", text)  # sizes follow ids and digests
        return re.sub(" {15,}", "  ", text)


@pytest.fixture
def keeper(shared_daemon: Daemon) -> Iterator[Keeper]:
    with shared_daemon.keeper() as opened:
        yield opened


@pytest.fixture
def log(shared_daemon: Daemon, request: pytest.FixtureRequest) -> Iterator[Log]:
    clock = [time.time()]
    with shared_daemon.keeper(clock=lambda: clock[0]) as keeper:
        yield Log(keeper, request.node.name, clock, [])


LINE = """\
chat-42: 3 backups, qwen-8b
   id            saved    tokens  what happened
*  save-3      1 s ago  31 (+10)  save +10 tokens, +1 message
*  save-2     61 s ago  21 (+10)  save +10 tokens, +1 message
*  save-1    2 min ago        11  save 11 tokens, 1 message"""
FORK = """\
chat-42: 6 backups, qwen-8b
     id            saved    tokens  what happened
*    save-6      1 s ago  41 (+10)  save +10 tokens, +1 message
*    save-3    3 min ago  31 (+10)  save +10 tokens, +1 message
*    save-2    4 min ago  21 (+10)  save +10 tokens, +1 message
| *  save-5     61 s ago  31 (+10)  save +10 tokens, +1 message
| *  save-4    2 min ago  21 (+10)  save +10 tokens, +1 message
|/
*    save-1    5 min ago        11  save 11 tokens, 1 message"""
EDIT = """\
chat-42: 3 backups, qwen-8b
   id            saved    tokens  what happened
*  save-3      1 s ago  61 (+10)  edit kept 40 of 50 tokens, 20 new
*  save-2     61 s ago  51 (-50)  edit kept 1 of 3 messages, 1 new; kept 30 of 100 tokens, 20 new
*  save-1    2 min ago       101  save 101 tokens, 3 messages"""
SWITCH = """\
chat-42: 3 backups
   id            saved    tokens  model    what happened
*  save-3      1 s ago        21  qwen-4b  switch qwen-4b (adapters)
*  save-2     61 s ago  21 (+10)  qwen-4b  switch qwen-8b -> qwen-4b (weights, vision weights); save +10 tokens, +1 message
*  save-1    2 min ago        11  qwen-8b  save 11 tokens, 1 message"""
ROOTS = """\
chat-42: 3 backups, qwen-8b
     id            saved  tokens  what happened
*    save-4      1 s ago      21  save 21 tokens, 2 messages
| *  save-3     61 s ago      21  save 21 tokens, 2 messages
|/
x    save-1  not here: removed, or saved on another machine

*    save-2    2 min ago      11  save 11 tokens, 1 message"""
FORKED = """\
chat-42: 2 backups, qwen-8b
   id            saved    tokens  what happened
*  save-2    2 min ago  21 (+10)  save +10 tokens, +1 message
*  save-1    3 min ago        11  save 11 tokens, 1 message; forked as chat-42-fork"""
FORKING = """\
chat-42-fork: 2 backups, qwen-8b
   id            saved    tokens  what happened
*  save-4      1 s ago  21 (+10)  save +10 tokens, +1 message
*  save-3     61 s ago        11  fork of chat-42
o  save-1    3 min ago        11  in session chat-42"""


def test_a_line(log: Log) -> None:
    chat = Chat()
    for text in ("one", "two", "three"):
        log.save(chat.say(text))
    assert log.drawn() == LINE


def test_woken_from_an_old_point_and_saved_again(log: Log) -> None:
    """It becomes a branch: its parent is the old point, whatever was saved since."""
    chat = Chat()
    for text in ("one", "two", "three"):
        log.save(chat.say(text))
    first = log.wake(log.saved[0])
    log.save(first.say("another two"))
    log.save(first.say("another three"))
    log.save(chat.say("four"))
    assert log.keeper.api.backup(log.saved[3]).parent_id == log.saved[0]
    assert log.drawn() == FORK


def test_an_edit_and_a_regenerated_answer(log: Log) -> None:
    chat = Chat()
    log.save(chat.say("one", "two", "three", tokens=100))
    chat.note = {"messages": chat.note["messages"][:1]}
    chat.crop_to(30)
    chat.ids = chat.ids[:30]
    log.save(chat.say("other", tokens=20))
    chat.crop_to(40)
    chat.ids = (*chat.ids[:40], *range(5000, 5020))
    chat.grow(20, 7)
    log.save(chat)
    assert log.drawn() == EDIT


def test_a_switch_of_the_model(log: Log) -> None:
    chat = Chat()
    log.save(chat.say("one"))
    chat.name, chat.identity = "qwen-4b", replace(IDENTITY, weights="4b", vision_weights="v4")
    chat.ids = tuple(i + 9 for i in chat.ids)
    log.save(chat.say("two"))
    chat.identity = replace(chat.identity, adapters="a LoRA")
    log.save(chat)
    assert log.drawn() == SWITCH


def test_two_beginnings_and_a_parent_that_was_removed(log: Log) -> None:
    chat, other = Chat(), Chat()
    log.save(chat.say("one"))
    log.save(other.say("alone"))
    log.save(chat.say("two"))
    log.save(log.wake(log.saved[0]).say("three"))
    log.keeper.api.call("DELETE", f"/v1/backups/{log.saved[0]}")
    assert log.drawn() == ROOTS


def test_a_fork_is_seen_from_both_ends(log: Log) -> None:
    chat = Chat()
    log.save(chat.say("one"))
    log.save(chat.say("two"))
    log.clock[0] += 60
    made = log.keeper.fork(log.saved[0])
    log.saved.append(made.id)
    log.session_id = made.session_id
    log.save(log.wake(made.session_id).say("three"))
    assert log.drawn(made.session_id) == FORKING
    assert log.drawn(made.session_id.removesuffix("-fork")) == FORKED


def test_what_is_not_shown_is_counted(log: Log) -> None:
    chat = Chat()
    for text in ("one", "two", "three"):
        log.save(chat.say(text))
    history = log.keeper.history(log.session_id, limit=2)
    assert (history.more, history.drawing.tail) == (1, "|")
    points = list(history)
    assert [p.backup.id for p in points if p.backup] == log.saved[:0:-1]
    assert [e.text for e in points[1].events if e.kind == "save"] == ["+10 tokens, +1 message"]  # of a parent not shown
    drawn = [line.plain for line in lines(history, log.clock[0], None)]
    assert drawn[-2:] == ["|", "and 1 more (--limit N, --all)"]

    assert history.drawing.rows[-1].leads


def kinds(keeper: Keeper, session_id: str) -> list[list[str]]:
    return [[event.kind for event in point.events if event.kind != "reuse"] for point in keeper.history(session_id)]


def test_files_that_were_imported(keeper: Keeper, tmp_path: Path) -> None:
    keeper.save("source", plain()).wait(60)
    keeper.export("source", tmp_path / "a.qwnbak", "v1")
    keeper.export("source", tmp_path / "a.bundle", "bundle")
    keeper.import_file(tmp_path / "a.qwnbak", "from-v1")
    keeper.import_file(tmp_path / "a.bundle", "from-bundle")
    keeper.import_file(tmp_path / "a.bundle", "source")
    assert kinds(keeper, "from-v1") == kinds(keeper, "from-bundle") == [["import", "save"]]
    assert kinds(keeper, "source") == [["save"]]  # whole, and where it was: the same backup
    keeper.export(keeper.save("other", plain("other")).wait(60).id, tmp_path / "b.qwnbak", "v1")
    keeper.import_file(tmp_path / "b.qwnbak", "from-v1")
    newest, _ = keeper.history("from-v1")
    assert [event.text for event in newest.events] == ["from a file", "kept 0 of 1 messages, 1 new"]
    keeper.fork("from-v1", "forked-import")
    assert kinds(keeper, "forked-import") == [["fork"], []]


def test_a_manifest_that_cannot_be_read_is_still_drawn(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        chat = Chat()
        ids = [keeper.save("s", chat.say(text)).wait(60).id for text in ("one", "two", "three")]
        (daemon.home / "store" / "manifests" / f"{ids[1]}.qwnbak").write_bytes(b"damaged")
        points = list(keeper.history("s"))
    assert [p.facts is None for p in points] == [True, True, False]
    assert [[e.text for e in p.events if e.kind == "save"] for p in points] == [
        ["+10 tokens"], ["+10 tokens"], ["11 tokens, 1 message"],
    ]  # fmt: skip


def test_ids_beyond_the_manifest_are_compared_by_their_blobs(keeper: Keeper) -> None:
    """Where they are gone, messages tell."""
    chat = Chat()
    keeper.save("long", chat.say("one")).wait(60)
    chat.ids = tuple(range(40_000))
    first = keeper.save("long", chat).wait(60)
    chat.ids = (*range(39_990), *range(20))
    keeper.save("long", chat).wait(60)
    newest = next(iter(keeper.history("long")))
    assert newest.facts is not None
    assert (newest.facts.ids, newest.facts.ids_before, newest.facts.ids_same) == (40_010, 40_000, 39_990)
    assert [e.kind for e in newest.events] == ["edit", "reuse"]
    for place in keeper.api.backup_blobs(first.id)["blobs"]:
        if place["layer"] == "tokens":
            Path(place["path"]).unlink()
    newest = next(iter(keeper.history("long")))
    assert newest.facts is not None
    assert newest.facts.ids_same is None
    assert [e.kind for e in newest.events] == ["save", "reuse"]


def test_a_process_that_shares_no_files(shared_daemon: Daemon, keeper: Keeper) -> None:
    """It sees the same history, ids in blobs included, and forks as well."""
    chat = Chat()
    for ids in (range(10_000), (*range(9_000), *range(50))):
        chat.ids = tuple(ids)
        keeper.save("far", chat.say("x", tokens=1)).wait(60)
    with shared_daemon.remote_keeper() as far:
        assert list(far.history("far")) == list(keeper.history("far"))
        assert kinds(far, "far") == [["edit"], ["save"]]
        assert far.fork("far").session_id == "far-fork"


HOSTILE = "\x1b[2J\u202eevil [bold]x[/bold]"


def test_the_command_line(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        session = plain(name=HOSTILE + "é")
        ids = [keeper.save("chat-42", session).wait(60).id for _ in range(3)]
    home = daemon.home
    assert as_json(home, "rename", "chat-42", "Zürich [b]") == {"session_id": "chat-42", "title": "Zürich [b]"}
    made = as_json(home, "fork", ids[0][-8:])
    assert (made["session_id"], made["parent_id"]) == ("chat-42-fork", ids[0])
    assert as_json(home, "fork", ids[0], "--session", "chat-42", status=4)["code"] == "conflict"
    text = run(home, "log", "chat-42")
    assert [line.split()[1] for line in text.splitlines() if line.startswith("*")] == [i[-8:] for i in reversed(ids)]
    assert 'chat-42 "Zürich [b]": 3 backups, \\x1b[2J\\u202eevil [bold]x[/bold]é\n' in text
    assert "forked as chat-42-fork" in text
    assert "and 2 more (--limit N, --all)" in run(home, "log", ids[0], "--limit", "1")
    found = as_json(home, "log", "chat-42-fork", "--all")
    assert (found["session_id"], found["total"], found["more"]) == ("chat-42-fork", 1, 0)
    assert [(row["id"], row["graph"], row["place"]) for row in found["rows"]] == [
        (made["id"], "*", "here"), (ids[0], "o", "elsewhere"),
    ]  # fmt: skip
    assert found["rows"][0]["events"][0] == {"kind": "fork", "text": "of chat-42"}
    refused = as_json(home, "restore", "chat-42", status=4)
    assert refused["code"] == "restore-refused"
    assert f'restore("{ids[2]}", target)' in refused["hint"]
    assert '"Zürich [b]"' in run(home, "ls")
    assert as_json(home, "rm", made["id"][-6:]) == {"removed": [made["id"]]}
    assert as_json(home, "log", "nobody", status=3)["code"] == "session-not-found"


def test_a_terminal_that_knows_ascii_alone(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon.keeper() as keeper:
        keeper.save("s", plain(name="é€🙂")).wait(60)
        keeper.api.rename("s", "Zürich")
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert 's "Z\\xfcrich": 1 backup, \\xe9\\u20ac\\U0001f642' in run(daemon.home, "log", "s")
    found = as_json(daemon.home, "log", "s")
    assert (found["title"], found["rows"][0]["backup"]["model_name"]) == ("Zürich", "é€🙂")


def test_lines_are_broken_beside_the_lanes(keeper: Keeper) -> None:
    """In a terminal what does not fit goes on below, and no lane is interrupted."""
    first = keeper.save("narrow", plain()).wait(60)
    for name in ("one", "two"):
        woken = keeper.restore(first.id, PlainTarget()).session
        woken.state["metadata"]["model_name"] = f"a model with a long name of many words, number {name}"
        keeper.save("narrow", woken).wait(60)
    history = keeper.history("narrow")
    whole = [line.plain for line in lines(history, time.time(), None)]
    narrow = [line.plain for line in lines(history, time.time(), 110)]
    assert len(narrow) > len(whole) == 6
    assert {line[:3] for line in narrow[2:]} == {"*  ", "|  ", "| *", "| |", "|/"}
    assert all(len(line) <= 110 for line in narrow[2:])
