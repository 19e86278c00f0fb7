"""Forks, ends of ids, titles and the timeline's route against a real daemon."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.caches import CacheSession
from support.chats import Chat, ChatTarget, plain
from support.daemon import Daemon
from torpor.client import Keeper
from torpor.codec import manifest_file
from torpor.state.errors import AmbiguousId, BadInput, BlobNotFound, Conflict, SessionNotFound
from torpor.state.manifest import GroupRef, Manifest


def manifest_of(keeper: Keeper, ref: str, **changes: Any) -> Manifest:
    return replace(keeper.manifest(ref)[1], **changes)


def commit(keeper: Keeper, manifest: Manifest) -> None:
    keeper.api.commit(manifest.id, manifest_file.dump(manifest))


@pytest.fixture
def keeper(shared_daemon: Daemon) -> Iterator[Keeper]:
    with shared_daemon.keeper() as opened:
        yield opened


def test_a_fork_copies_nothing_and_is_whole(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        chat = Chat()
        first = keeper.save("origin", chat.say("one", tokens=200)).wait(60)
        digest = chat.digest()
        keeper.save("origin", chat.say("two", tokens=200)).wait(60)
        files = daemon.blob_files()
        commit(keeper, manifest_of(keeper, first.id, id="01M81P35719XNDZ4R57NMV6DYZ", group=GroupRef(first.id, "g", 2)))
        keeper.api.json("PATCH", f"/v1/backups/{first.id}", json={"pinned": True})
        made = keeper.fork("01M81P35719XNDZ4R57NMV6DYZ", "copy")
        assert daemon.blob_files() == files
        assert (made.session_id, made.parent_id) == ("copy", "01M81P35719XNDZ4R57NMV6DYZ")
        assert (made.bytes_written, made.bytes_total) == (
            made.manifest_bytes,
            first.bytes_total + made.manifest_bytes - first.manifest_bytes,
        )
        assert (made.group_id, made.pinned, made.title) == (None, False, None)
        manifest = keeper.manifest("copy")[1]
        assert (manifest.bytes_written, manifest.group) == (0, None)
        assert made.created_at > first.created_at
        assert made.expires_at is not None
        assert made.expires_at - made.created_at == pytest.approx(7 * 86_400)
        for backup_id in (first.id, "01M81P35719XNDZ4R57NMV6DYZ"):
            keeper.api.call("DELETE", f"/v1/backups/{backup_id}")
        woken = keeper.restore("copy", ChatTarget(), require="full").session
        assert woken.digest() == digest
        again = keeper.save("copy", woken.say("other", tokens=10)).wait(60)
        assert again.parent_id == made.id
        (row, _) = keeper.history("copy").drawing.rows[1:]
        assert row.id == made.id


def test_a_session_id_that_is_in_use_is_refused(keeper: Keeper) -> None:
    keeper.save("taken", plain()).wait(60)
    with pytest.raises(Conflict) as caught:
        keeper.fork("taken", "taken")
    assert "free one" in caught.value.hint
    made = keeper.fork("taken", "once")
    with pytest.raises(Conflict):
        keeper.fork("taken", "once")
    assert [b.id for b in keeper.api.backups(session_id="once")] == [made.id]
    with pytest.raises(BadInput):
        keeper.fork("taken", "../x")
    with pytest.raises(SessionNotFound):
        keeper.fork("nobody", "new")


def test_forks_get_readable_names(keeper: Keeper) -> None:
    keeper.save("talk", plain()).wait(60)
    names = [keeper.fork("talk").session_id for _ in range(3)]
    assert names == ["talk-fork", "talk-fork-2", "talk-fork-3"]
    assert keeper.fork("talk-fork-2").session_id == "talk-fork-4"


def test_forks_at_the_same_time(keeper: Keeper) -> None:
    """One name goes to one of them; free names go to each."""
    keeper.save("busy", plain()).wait(60)

    def attempt(session_id: str | None) -> str | None:
        try:
            return keeper.fork("busy", session_id).session_id
        except Conflict:
            return None

    with ThreadPoolExecutor(6) as threads:
        assert sorted(filter(None, threads.map(attempt, ["one-name"] * 6))) == ["one-name"]
        found = [name for name in threads.map(attempt, [None] * 4) if name is not None]
    assert len(keeper.api.backups(session_id="one-name")) == 1
    assert len(set(found)) == len(found) == 4


def test_a_commit_that_is_repeated_is_still_the_first_of_its_session(keeper: Keeper) -> None:
    keeper.save("base", plain()).wait(60)
    made = keeper.fork("base", "lost-answer")
    raw = keeper.api.manifest(made.id)
    assert keeper.api.commit(made.id, raw, new_session=True) == made


def test_a_fork_of_a_backup_whose_blobs_are_gone(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        keeper.save("s", CacheSession()).wait(60)
        keeper.save("s", Chat().say("one", tokens=70)).wait(60)
        for path in daemon.blob_files():
            path.unlink()
        with pytest.raises(BlobNotFound, match="cannot be forked"):
            keeper.fork("s", "t")
        with pytest.raises(SessionNotFound):
            keeper.api.backup("t")


ENDS = ["01M81P35719XNDZ4R5ABCDEFGH", "01M81P35719XNDZ4R6ABCDEFGH", "01M81P35719XNDZ4R5ABCDEFGJ"]


def test_the_end_of_an_id_names_a_backup(keeper: Keeper) -> None:
    keeper.save("short", plain()).wait(60)
    for backup_id in ENDS:
        commit(keeper, manifest_of(keeper, "short", id=backup_id, session_id="ends"))
    assert keeper.api.backup("BCDEFGJ").id == ENDS[2]
    assert keeper.api.backup("5ABCDEFGH").id == ENDS[0]
    assert keeper.manifest("BCDEFGJ")[0].id == ENDS[2]
    with pytest.raises(AmbiguousId) as caught:
        keeper.api.backup("ABCDEFGH")
    assert all(backup_id in caught.value.detail for backup_id in ENDS[:2])
    assert ENDS[2] not in caught.value.detail
    for nothing in ("DEFGJ", "ZZZZZZ", "bcdefgj"):
        with pytest.raises(SessionNotFound):
            keeper.api.backup(nothing)
    keeper.fork("short", "BCDEFGJ")  # a session of that very name goes first
    assert keeper.api.backup("BCDEFGJ").session_id == "BCDEFGJ"
    assert keeper.api.backup("CDEFGJ").id == ENDS[2]


def test_many_candidates_are_not_all_listed(keeper: Keeper) -> None:
    keeper.save("many", plain()).wait(60)
    made = [f"01M81P3571{i}XNDZ4R5KKKKKKKKK"[:26] for i in range(7)]
    for backup_id in made:
        commit(keeper, manifest_of(keeper, "many", id=backup_id, session_id="many-ends"))
    with pytest.raises(AmbiguousId, match="and more"):
        keeper.api.backup("KKKKKK")


def test_a_title_is_kept_over_a_new_index_and_goes_with_the_session(home: Path) -> None:
    with Daemon(home) as daemon, daemon.keeper() as keeper:
        saved = [keeper.save("chat-42", plain()).wait(60).id for _ in range(2)]
        assert keeper.api.rename("chat-42", "  Trip to Rome ").title == "Trip to Rome"
        assert {b.title for b in keeper.api.backups()} == {"Trip to Rome"}
        daemon.stop()
    (home / "index.sqlite").unlink()
    with Daemon(home) as daemon, daemon.keeper() as keeper:
        assert {b.title for b in keeper.api.backups()} == {"Trip to Rome"}
        assert keeper.history("chat-42").title == "Trip to Rome"
        keeper.api.call("DELETE", f"/v1/backups/{saved[0]}")
        assert keeper.api.backup("chat-42").title == "Trip to Rome"
        keeper.api.call("DELETE", f"/v1/backups/{saved[1]}")
        assert not list((home / "store" / "sessions").iterdir())
        assert keeper.save("chat-42", plain()).wait(60).title is None
        keeper.api.rename("chat-42", "again")
        assert keeper.api.rename("chat-42", "").title is None


@pytest.mark.parametrize(
    ("session_id", "body", "status"),
    [("nobody", {"title": "x"}, 404), ("..%2fx", {"title": "x"}, 404), ("a%20b", {"title": "x"}, 422),
     ("titled", {"title": "a\nb"}, 422), ("titled", {"title": "x" * 201}, 422), ("titled", {}, 422),
     ("titled", {"title": "x", "pinned": True}, 422), ("titled", {"title": 5}, 422)],
)  # fmt: skip
def test_titles_that_are_refused(
    shared_daemon: Daemon, keeper: Keeper, session_id: str, body: dict[str, Any], status: int
) -> None:
    keeper.save("titled", plain()).wait(60)
    assert shared_daemon.request("PATCH", f"/v1/sessions/{session_id}", json=body).status_code == status
    assert keeper.api.backup("titled").title is None


def test_the_route_of_the_timeline(shared_daemon: Daemon, keeper: Keeper) -> None:
    session = plain()
    ids = [keeper.save("route", session).wait(60).id for _ in range(3)]
    fork = keeper.fork(ids[1])
    found = shared_daemon.request("GET", "/v1/sessions/route/timeline?limit=1").json()
    assert [b["id"] for b in found["backups"]] == ids[2:]
    assert (found["total"], [b["id"] for b in found["parents"]]) == (3, [ids[1]])
    assert [(f["session_id"], f["id"], f["parent_id"]) for f in found["forks"]] == [("route-fork", fork.id, ids[1])]
    rest = shared_daemon.request("GET", f"/v1/sessions/route/timeline?before={ids[2]}").json()
    assert [b["id"] for b in rest["backups"]] == ids[1::-1]
    for query, status in (("route/timeline?limit=0", 422), ("route/timeline?limit=5001", 422), ("none/timeline", 404),
                          ("route/timeline?before=x", 422)):  # fmt: skip
        assert shared_daemon.request("GET", f"/v1/sessions/{query}").status_code == status
    assert shared_daemon.request("GET", "/v1/sessions/route/timeline", token="wrong").status_code == 401
