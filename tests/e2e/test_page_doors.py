"""What a page can do beside what it may: hostile states, beacons of all kinds, answers that other pages cannot read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import orjson
import pytest
from support.daemon import Daemon
from ulid import ULID

PAGE, OTHER = "http://localhost:3100", "http://localhost:3200"


def state(session_id: str, *messages: Any, **more: Any) -> dict[str, Any]:
    made = {"id": str(ULID()), "session_id": session_id, "created_at": time.time(), "base": None, "keep": 0}
    return made | {"messages": [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]} | more


def drain(daemon: Daemon, *items: Any) -> dict[str, Any]:
    answer = daemon.request("POST", "/api/backup/drain", json={"pending": items})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def text(daemon: Daemon, ref: str) -> dict[str, Any]:
    return dict(daemon.request("GET", f"/api/backup/restore/{ref}?text=1").json())


class Page:
    """A page that was let in."""

    def __init__(self, daemon: Daemon, origin: str, scopes: list[str]) -> None:
        body = {"label": "page", "scopes": scopes, "origin": origin}
        made = daemon.request("POST", "/v1/tokens", json=body).json()
        self.daemon, self.origin, self.id, self.token = daemon, origin, made["info"]["id"], made["token"]

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.daemon.request(method, path, token=self.token, headers={"Origin": self.origin}, **options)

    def tokens(self, count: int = 1) -> list[str]:
        found: list[str] = self.ask("POST", "/api/backup/tokens", json={"count": count}).json()["tokens"]
        return found

    def beacon(self, items: list[Any], token: str, **headers: str) -> httpx.Response:
        told = {"Origin": self.origin, "Content-Type": "text/plain;charset=UTF-8"} | headers
        body = orjson.dumps({"pending": items, "token": token})
        url = f"{self.daemon.url}/api/backup/drain"
        return httpx.post(url, content=body, headers=told, trust_env=False)


@pytest.fixture(scope="module")
def pages(shared_daemon: Daemon) -> Iterator[tuple[Page, Page]]:
    made = Page(shared_daemon, PAGE, ["save", "restore"]), Page(shared_daemon, OTHER, ["save"])
    yield made
    for page in made:
        shared_daemon.request("DELETE", f"/v1/tokens/{page.id}")


def test_a_beacon_saves_once(shared_daemon: Daemon, pages: tuple[Page, Page]) -> None:
    page, other = pages
    first, second = page.tokens(2)
    said = state("door-beacon", "Last words")
    answer = page.beacon([said], first)
    assert (answer.status_code, answer.json()["drained"][0]["id"]) == (200, said["id"])
    again = page.beacon([state("door-beacon", "Last words", "and more")], first)
    assert (again.status_code, again.json()["success"]) == (401, False)
    assert other.beacon([state("door-beacon", "Not mine")], second).status_code == 401
    assert [m["content"] for m in text(shared_daemon, "door-beacon")["conversation"]] == ["Last words"]


def test_a_beacon_ends_with_the_page_s_right(shared_daemon: Daemon, pages: tuple[Page, Page]) -> None:
    page = Page(shared_daemon, PAGE, ["save"])  # beside another token of the same origin, which stays
    reader = Page(shared_daemon, "http://localhost:3300", ["save"])
    (token,), (gone,) = page.tokens(), reader.tokens()
    Page(shared_daemon, "http://localhost:3300", ["restore"])
    shared_daemon.request("DELETE", f"/v1/tokens/{reader.id}")
    assert reader.beacon([state("door-right", "x")], gone).status_code == 403
    assert page.beacon([state("door-right", "x")], token).status_code == 200
    shared_daemon.request("DELETE", f"/v1/tokens/{page.id}")


def test_a_page_reads_its_answers_and_no_other_does(shared_daemon: Daemon, pages: tuple[Page, Page]) -> None:
    page, other = pages
    drain(shared_daemon, state("door-read", "Mine"))
    answer = page.ask("GET", "/api/backup/restore/door-read?text=1")
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    assert answer.headers["cache-control"] == "no-store"
    assert other.ask("GET", "/api/backup/restore/door-read?text=1").status_code == 403  # it may only save
    refused = httpx.get(f"{shared_daemon.url}/", headers={"Origin": "https://evil.example"}, trust_env=False)
    assert "access-control-allow-origin" not in refused.headers  # the files are no secret, and no page's to read


def test_one_bad_item_blocks_no_other(shared_daemon: Daemon) -> None:
    good = [state("door-mixed", "one"), state("door-mixed", "one", "two")]
    bad = [
        None,
        7,
        {"id": "x" * 500},
        state("../up", "x"),
        state("door-mixed", 7),
        state("door-mixed", "x", base="0" * 26, keep=1),
    ]
    found = drain(shared_daemon, bad[0], good[0], *bad[1:], good[1])
    assert [d["id"] for d in found["drained"]] == [each["id"] for each in good]
    codes = [each["code"] for each in found["refused"]]
    assert codes == ["bad-input", "bad-input", "bad-input", "invalid-id", "bad-input", "backup-not-found"]
    assert all(each["detail"] and len(each["detail"]) < 300 for each in found["refused"])


def test_tabs_that_drain_the_same_at_once(shared_daemon: Daemon) -> None:
    items = [state("door-tabs", *map(str, range(n + 1))) for n in range(6)]
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(lambda _: drain(shared_daemon, *items), range(4))]
    assert [answer["refused"] for answer in answers] == [[]] * 4
    assert [message["content"] for message in text(shared_daemon, "door-tabs")["conversation"]] == [*"012345"]
    rows = shared_daemon.request("GET", "/v1/backups?session_id=door-tabs").json()["backups"]
    assert {row["id"] for row in rows} <= {item["id"] for item in items}


def test_a_page_writes_text_and_nothing_else(shared_daemon: Daemon) -> None:
    """Tags of the storage format, names of blobs and files: to a page they are words."""
    digest = "a" * 64
    tag = {
        "$tensor": {"shape": [4], "dtype": "uint8", "kind": "torch", "blocks": [{"digest": digest, "size_bytes": 4}]}
    }
    call = {
        "type": "function",
        "function": {"name": "f", "arguments": {"deep": tag, "$bytes": {"size_bytes": 9, "data": "!"}}},
    }
    said = state(
        "door-tags",
        {"role": "assistant", "content": "$tensor", "tool_calls": [call], "$map": [[1, 2]], "media": digest},
        {"role": "user", "content": [{"type": "image", "image": "file:///etc/passwd", "index": 99}]},
        media=[{"data": tag, "media_type": "text/html"}],
        layers={"kv_cache": tag},
    )
    assert drain(shared_daemon, said)["refused"] == []
    found = text(shared_daemon, "door-tags")
    assert found["conversation"][0]["tool_calls"] == [call]
    assert found["conversation"][1] == {"role": "user", "content": [{"type": "image"}]}
    assert found["images"] == []
    blobs = shared_daemon.request("GET", f"/v1/backups/{said['id']}/blobs").json()["blobs"]
    assert blobs == []
    raw = shared_daemon.request("GET", f"/v1/backups/{said['id']}/manifest").text
    assert "passwd" not in raw


def test_a_page_that_lies_of_time_is_not_the_newest_for_ever(shared_daemon: Daemon) -> None:
    liar = state("door-time", "from the future", created_at=9e10) | {"id": "7ZZZZZZZZZ" + str(ULID())[10:]}
    assert drain(shared_daemon, liar)["refused"] == []
    honest = state("door-time", "now", base=liar["id"], keep=0)
    drain(shared_daemon, honest)
    assert text(shared_daemon, "door-time")["backup_id"] == honest["id"]
    assert text(shared_daemon, "door-time")["created_at"] <= time.time() + 1


def test_a_page_takes_nothing_of_another_session(shared_daemon: Daemon) -> None:
    secret = state("door-secret", "a secret of another page")
    drain(shared_daemon, secret)
    thief = state("door-thief", "give it to me", base=secret["id"], keep=1)
    (refused,) = drain(shared_daemon, thief)["refused"]
    assert refused["code"] == "backup-not-found"
    same_id = state("door-thief", "mine", id=secret["id"])
    assert drain(shared_daemon, same_id)["refused"][0]["code"] == "conflict"
    assert [m["content"] for m in text(shared_daemon, "door-secret")["conversation"]] == ["a secret of another page"]


def test_long_texts_and_halves_of_pairs(shared_daemon: Daemon) -> None:
    long = "lang 😀 " * 20_000
    body = orjson.dumps({"pending": [state("door-long", long)]}).replace(b"lang", b"\\ud83d", 1)
    answer = shared_daemon.request(
        "POST", "/api/backup/drain", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.json()["refused"] == []
    (message,) = text(shared_daemon, "door-long")["conversation"]
    assert message["content"] == long.replace("lang", "\ufffd", 1)
    made = answer.json()["drained"][0]["backup_id"]
    blobs = shared_daemon.request("GET", f"/v1/backups/{made}/blobs").json()["blobs"]
    assert sum(blob["size_bytes"] for blob in blobs) == len(message["content"].encode())


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"pending": 1}', b'{"pending": [NaN]}', b"[" * 50_000, b'{"pending": [' + b"9" * 5000 + b"]}", b"\xff\xfe"]
)  # fmt: skip
def test_a_body_that_is_no_drain(shared_daemon: Daemon, body: bytes) -> None:
    answer = shared_daemon.request(
        "POST", "/api/backup/drain", content=body, headers={"Content-Type": "application/json"}
    )
    if b"NaN" in body:
        assert answer.json()["refused"][0]["code"] == "bad-input"
    else:
        assert (answer.status_code, answer.json()["code"], answer.json()["success"]) == (422, "bad-input", False)


def test_what_the_gate_refuses_is_no_success_either(shared_daemon: Daemon) -> None:
    answer = httpx.post(f"{shared_daemon.url}/api/backup/create", json={}, trust_env=False)
    assert (answer.status_code, answer.json()["success"], answer.json()["code"]) == (401, False, "unauthorized")


def test_more_than_a_drain_may_hold(shared_daemon: Daemon) -> None:
    answer = shared_daemon.request("POST", "/api/backup/drain", json={"pending": [None] * 1001})
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


def test_a_stream_of_events_ends_with_its_token(shared_daemon: Daemon) -> None:
    made = shared_daemon.request("POST", "/v1/tokens", json={"label": "listener", "scopes": ["read"]}).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    url = f"{shared_daemon.url}/v1/events/stream"
    with httpx.stream("GET", url, headers=headers, timeout=10, trust_env=False) as stream:
        lines = stream.iter_lines()
        assert (stream.status_code, next(lines)) == (200, "retry: 1000")
        shared_daemon.request("DELETE", f"/v1/tokens/{made['info']['id']}")
        began = time.monotonic()
        assert not [line for line in lines if line.startswith("data:")]
        assert time.monotonic() - began < 8  # and not at the next beat


def test_a_wait_for_events_ends_with_its_token(shared_daemon: Daemon) -> None:
    made = shared_daemon.request("POST", "/v1/tokens", json={"label": "waiter", "scopes": ["read"]}).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    newest = shared_daemon.request("GET", "/v1/events?limit=1").json()["after"]
    url = f"{shared_daemon.url}/v1/events?wait_s=20&after={newest}"
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.get, url, headers=headers, timeout=30, trust_env=False)
        while not used(shared_daemon, made["info"]["id"]):  # the request has come in
            assert not answer.done()
        shared_daemon.request("DELETE", f"/v1/tokens/{made['info']['id']}")
        began = time.monotonic()
        assert answer.result().status_code == 401
        assert time.monotonic() - began < 8


def used(daemon: Daemon, token_id: str) -> bool:
    tokens = daemon.request("GET", "/v1/tokens").json()["tokens"]
    return any(each["id"] == token_id and each["used_at"] is not None for each in tokens)


def test_a_page_does_not_back_up_the_sessions_of_others(pages: tuple[Page, Page]) -> None:
    answer = pages[0].ask("POST", "/api/backup/create", json={"session_id": None})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope-denied")
    of_one = pages[0].ask("POST", "/api/backup/create", json={"session_id": "one"})
    assert of_one.json()["code"] == "no-process"
