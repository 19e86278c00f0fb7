"""What a page lists, draws and reads: sessions with pictures, their history, messages and media; and the search."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from blake3 import blake3
from support.commands import as_json, run
from support.daemon import Daemon
from support.manifests import manifest
from torpor.codec import manifest_file
from torpor.codec.transcript import PAGE_CHARS, TEXT_CHARS
from ulid import ULID

PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 100
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
LANTERN = "the blue lantern, 蓝色的灯笼"


def user(text: str, *images: str) -> dict[str, Any]:
    parts: list[Any] = [{"type": kind} for kind in images]
    return {"role": "user", "content": [*parts, {"type": "text", "text": text}]}


def raw(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    return {"data": {"$bytes": {"size_bytes": len(data), "data": base64.b64encode(data).decode()}}, "media_type": kind}


class Shelf:
    """Puts backups as manifests into a daemon."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon, self.at = daemon, time.time() - 1000.0

    def put(self, session: str, *said: Any, parent: str | None = None, media: list[Any] | None = None) -> str:
        self.at += 1.0
        backup_id = str(ULID.from_timestamp(self.at))
        layers: dict[str, Any] = {"metadata": {}, "text_context": {"conversation": list(said)}}
        if media is not None:
            layers["media"] = media
        made = manifest(
            id=backup_id,
            session_id=session,
            created_at=self.at,
            layers=layers,
            parent_id=parent,
            tokens=0,
            kv_cache=None,
        )
        body = manifest_file.dump(made)
        answer = self.daemon.request(
            "PUT", f"/v1/backups/{backup_id}", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 201, answer.text
        return backup_id

    def blob(self, data: bytes) -> dict[str, Any]:
        digest = blake3(data).hexdigest()
        kind = {"Content-Type": "application/octet-stream"}
        assert self.daemon.request("PUT", f"/v1/blobs/{digest}", content=data, headers=kind).status_code == 201
        return {"digest": digest, "size_bytes": len(data)}

    def get(self, path: str, **query: Any) -> Any:
        answer = self.daemon.request("GET", path, params=query)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return answer.json()


@pytest.fixture
def shelf(shared_daemon: Daemon) -> Shelf:
    return Shelf(shared_daemon)


@pytest.fixture
def reader(shared_daemon: Daemon) -> Iterator[str]:
    """A token that may read lists, and no content."""
    made = shared_daemon.request("POST", "/v1/tokens", json={"label": "lists", "scopes": ["read"]}).json()
    yield made["token"]
    shared_daemon.request("DELETE", f"/v1/tokens/{made['info']['id']}")


def test_sessions_are_listed_with_what_one_knows_them_by(shelf: Shelf, reader: str) -> None:
    first = shelf.put("list-a", user("what is this?", "image"), media=[raw(PNG), raw(SVG, "image/svg+xml"), raw(PNG)])
    shelf.put("list-a", user("what is this?", "image"), {"role": "assistant", "content": LANTERN}, parent=first)
    fork = shelf.put("list-a-fork", user("or is it?"), parent=first, media=[raw(PNG)] * 6)
    found = shelf.get("/v1/sessions", q="list-a")
    newer, older = found["sessions"]
    assert (found["total"], found["next"]) == (2, None)
    assert (newer["session_id"], newer["forked_from"]) == ("list-a-fork", {"session_id": "list-a", "backup_id": first})
    assert [image["index"] for image in newer["images"]] == [0, 1, 2, 3]
    assert newer["media"] == 6
    assert newer["images"][0] == {"backup_id": fork, "index": 0, "media_type": "image/png", "size_bytes": len(PNG)}
    assert (older["backups"], older["forks"], older["messages"], older["preview"]) == (2, 1, 2, LANTERN)
    assert older["oldest_at"] < older["newest"]["created_at"]
    assert older["newest"]["remote"] is None
    page = shelf.get("/v1/sessions", q="list-a", limit=1)
    assert page["next"] == "list-a-fork"
    assert shelf.get("/v1/sessions", q="list-a", before=page["next"])["sessions"] == [older]
    names = httpx.get(f"{shelf.daemon.url}/v1/sessions?q=list-a", headers={"Authorization": f"Bearer {reader}"}).json()
    assert [(row["preview"], row["images"], row["messages"]) for row in names["sessions"]] == [
        (None, [], 1),
        (None, [], 2),
    ]


def test_the_history_is_drawn_in_pages(shelf: Shelf) -> None:
    gone = str(ULID())
    root = shelf.put("draw", user("one"), parent=gone)
    left = shelf.put("draw", user("one"), user("two"), parent=root)
    right = shelf.put("draw", user("one"), user("zwei"), user("drei"), parent=root)
    fork = shelf.put("draw-fork", user("one"), parent=left)
    whole = shelf.get("/v1/sessions/draw/drawing")
    rows = [(row["id"], row["place"], row["lane"], row["enters"], row["leads"], row["joins"]) for row in whole["rows"]]
    assert rows == [
        (right, "here", 0, False, True, False),
        (left, "here", 1, False, True, True),
        (root, "here", 0, True, True, False),
        (gone, "gone", 0, True, False, False),
    ]
    assert (whole["total"], whole["backups"], whole["newest"], whole["next"]) == (4, 3, right, None)
    assert [row.get("messages_added") for row in whole["rows"]] == [2, 1, None, None]
    assert [link["id"] for link in whole["rows"][1]["forks"]] == [fork]
    assert whole["rows"][0]["preview"] == "drei"
    pages = [shelf.get("/v1/sessions/draw/drawing", offset=at, limit=2) for at in (0, 2)]
    assert pages[0]["rows"] + pages[1]["rows"] == whole["rows"]
    assert [page["next"] for page in pages] == [2, None]
    other = shelf.get("/v1/sessions/draw-fork/drawing")["rows"]
    assert [(row["place"], (row["backup"] or {}).get("session_id")) for row in other] == [
        ("here", "draw-fork"),
        ("elsewhere", "draw"),
    ]
    assert other[0]["events"] == [{"kind": "fork", "text": "of draw"}]


def test_messages_come_with_their_whole_text_and_their_media(shelf: Shelf) -> None:
    long = "ü" * 30_000
    text = {"$text": {"size_bytes": len(long.encode()), "blocks": [shelf.blob(long.encode())]}}
    said = [
        user("look", "image", "video"),
        {"role": "assistant", "content": "<b>a & b</b>", "reasoning_content": "hm"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "find", "arguments": {"q": "灯"}}}]},
        {"role": "user", "content": text},
        user("x" * (TEXT_CHARS + 1), "image"),
    ]
    made = shelf.put("talk", *said, media=[raw(PNG), raw(b"mp4", "video/mp4"), raw(PNG)])
    found = shelf.get(f"/v1/backups/{made}/messages")
    parts = [
        [(part["type"], part["text"], part["medium"], part["cut"]) for part in each["parts"]]
        for each in found["messages"]
    ]
    assert parts == [
        [("image", None, 0, False), ("video", None, 1, False), ("text", "look", None, False)],
        [("thinking", "hm", None, False), ("text", "<b>a & b</b>", None, False)],
        [("tool_call", 'find("q": "灯")', None, False)],
        [("text", long, None, False)],
        [("image", None, 2, False), ("text", "x" * TEXT_CHARS, None, True)],
    ]
    last = shelf.get(f"/v1/backups/{made}/messages", offset=4)
    assert last["messages"] == found["messages"][4:], "the image part before it was counted"
    assert (last["total"], last["next"]) == (5, None)


def test_a_page_of_messages_ends_before_it_is_too_long(shelf: Shelf) -> None:
    count = PAGE_CHARS // TEXT_CHARS + 4
    made = shelf.put("long", *[user(f"{n} " + "y" * TEXT_CHARS) for n in range(count)])
    first = shelf.get(f"/v1/backups/{made}/messages", limit=500)
    rest = shelf.get(f"/v1/backups/{made}/messages", offset=first["next"], limit=500)
    assert 1 < len(first["messages"]) < count
    assert [each["index"] for each in first["messages"] + rest["messages"]] == list(range(count))


def test_only_a_picture_is_handed_out_as_one(shelf: Shelf) -> None:
    large = PNG + b"z" * 100_000
    far = {"data": {"$bytes": {"size_bytes": len(large), "blocks": [shelf.blob(large)]}}, "media_type": "image/jpeg"}
    made = shelf.put("media", user("x"), media=[raw(PNG), raw(SVG, "image/png"), far, {"data": 7}])
    answers = [shelf.daemon.request("GET", f"/v1/backups/{made}/media/{n}") for n in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 404]
    assert [answer.content for answer in answers[:3]] == [PNG, SVG, large]
    assert [answer.headers["content-type"] for answer in answers[:3]] == [
        "image/png",
        "application/octet-stream",
        "image/png",
    ]
    assert [answer.headers.get("content-disposition") for answer in answers[:3]] == [None, "attachment", None]
    for answer in answers[:3]:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]


def test_what_is_not_here_is_said_to_be_missing(shelf: Shelf) -> None:
    lost = b"lost " * 10_000
    ref = shelf.blob(lost)
    text = {"$text": {"size_bytes": len(lost), "blocks": [ref]}}
    far = {"data": {"$bytes": {"size_bytes": len(lost), "blocks": [ref]}}, "media_type": "image/png"}
    made = shelf.put("lost", {"role": "user", "content": text}, user("and this?"), media=[far])
    for path in shelf.daemon.blob_files():
        if path.name == ref["digest"]:
            path.unlink()
    first, second = shelf.get(f"/v1/backups/{made}/messages", fetch=True)["messages"]
    assert [(part["text"], part["missing"]) for part in first["parts"]] == [(None, True)]
    assert [(part["text"], part["missing"]) for part in second["parts"]] == [("and this?", False)]
    for query in ("", "?fetch=true"):
        assert shelf.daemon.request("GET", f"/v1/backups/{made}/media/0{query}").json()["code"] == "blob-not-found"


def test_what_was_said_is_found_by_route_and_command(shelf: Shelf) -> None:
    made = shelf.put("found", user("hello"), {"role": "assistant", "content": LANTERN + " \x1b[31m"})
    until = time.monotonic() + 20
    results: list[Any] = []
    while not results and time.monotonic() < until:
        results = [each for each in shelf.get("/v1/search", q="灯笼")["results"] if each["session_id"] == "found"]
    (found,) = results
    assert (found["backup_id"], found["hits"]) == (made, 1)
    (match,) = found["matches"]
    assert (match["index"], match["role"]) == (1, "assistant")
    assert "".join(f"[{each['text']}]" if each["mark"] else each["text"] for each in match["snippet"]) == (
        "the blue lantern, 蓝色的[灯笼] \x1b[31m"
    )
    assert as_json(shelf.daemon.home, "search", "blue lant")["results"] == []
    by_phrase = as_json(shelf.daemon.home, "search", "blue lantern", "蓝色")["results"]
    assert [each["session_id"] for each in by_phrase if each["session_id"] == "found"] == ["found"]
    told = run(shelf.daemon.home, "search", "lantern", "蓝")
    assert "\\x1b[31m" in told
    assert "\x1b" not in told


def test_a_question_is_of_words(shelf: Shelf) -> None:
    assert shelf.daemon.request("GET", "/v1/search").status_code == 422
    assert shelf.daemon.request("GET", "/v1/search", params={"q": "x" * 201}).status_code == 422
    assert shelf.get("/v1/search", q='"*^')["results"] == []
    assert shelf.get("/v1/search", q="a\0b\x1f")["more"] is False
    assert shelf.daemon.request("GET", "/v1/sessions", params={"before": "nobody"}).status_code == 404
    assert (
        orjson.loads(shelf.daemon.request("GET", "/v1/sessions/nobody/drawing").content)["code"] == "session-not-found"
    )
