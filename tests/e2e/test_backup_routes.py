"""The backup routes of an inference server: under FastAPI and Flask, for its own pages and nobody else's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flask
import httpx
import pytest
import torch
from fastapi import FastAPI
from support.daemon import Daemon
from support.switching import ASK, chat, model_a, model_b, options, target_of, write
from torpor.adapters.demo_model import picture
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.adapters.transformers import TransformersSession
from torpor.client import Keeper
from torpor.client.asgi import backup_app
from torpor.client.backup_desk import BackupDesk
from torpor.client.flask_blueprint import backup_blueprint
from torpor.client.late import LateKeeper
from torpor.client.provider import SessionTable
from torpor.client.same_origin import MAX_BODY_BYTES
from torpor.state.errors import TorporError
from ulid import ULID

SAID = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
HOST = "127.0.0.1:8000"

Call = Callable[..., httpx.Response]


@pytest.fixture
def keeper(shared_daemon: Daemon) -> Iterator[Keeper]:
    with shared_daemon.keeper() as keeper:
        yield keeper


def served_by_fastapi(keeper: Keeper, sessions: SessionTable) -> Call:
    app = FastAPI()
    app.mount("/api/backup", backup_app(keeper, sessions))

    def call(method: str, path: str, **options: Any) -> httpx.Response:
        async def calling() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as client:
                return await client.request(method, "/api/backup" + path, **options)

        return asyncio.run(calling())

    return call


def served_by_flask(keeper: Keeper, sessions: SessionTable) -> Call:
    app = flask.Flask("test")
    app.register_blueprint(backup_blueprint(keeper, sessions), url_prefix="/api/backup")

    def call(method: str, path: str, **options: Any) -> httpx.Response:
        with httpx.Client(transport=httpx.WSGITransport(app), base_url=f"http://{HOST}") as client:
            return client.request(method, "/api/backup" + path, **options)

    return call


@pytest.fixture(params=[served_by_fastapi, served_by_flask], ids=["fastapi", "flask"])
def serve(request: pytest.FixtureRequest) -> Any:
    return request.param


def table(**sessions: list[dict[str, Any]]) -> SessionTable:
    made = SessionTable(PlainTarget)
    made.update({name: PlainSession({"text_context": {"conversation": said}}) for name, said in sessions.items()})
    return made


def state(session_id: str, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    item = {"id": str(ULID()), "session_id": session_id, "created_at": 1.8e9, "base": None, "keep": 0}
    return {**item, "messages": list(messages), "draft": None, "partial": False, "ids": None, "title": None, **more}


def test_a_session_is_saved_shown_and_woken(keeper: Keeper, serve: Any) -> None:
    sessions = table(routed=SAID)
    call: Call = serve(keeper, sessions)
    made = call("POST", "/create", json={"session_id": "routed"})
    assert (made.status_code, made.json()["kind"]) == (201, "full")
    backup_id = made.json()["backup_id"]
    assert call("GET", f"/plan/{backup_id}").json()["exact"] is True
    assert call("GET", "/points/routed?limit=5").json()["points"][0]["backup_id"] == backup_id
    sessions["routed"] = PlainSession({})
    for method in ("GET", "POST"):
        woken = call(method, f"/restore/{backup_id}", **({"json": {}} if method == "POST" else {}))
        assert (woken.status_code, woken.json()["conversation"]) == (200, SAID)
    assert sessions["routed"].state["text_context"]["conversation"] == SAID
    assert call("GET", "/restore/routed?text=1").json()["mode"] == "text-only"
    assert call("POST", "/tokens", json={"count": 3}).json() == {"tokens": []}
    everything = call("POST", "/create", json={"session_id": None}).json()
    assert [each["session_id"] for each in everything["backups"]] == ["routed"]
    head = call("HEAD", f"/plan/{backup_id}")
    assert (head.status_code in (200, 404), head.content) == (True, b"")


def test_failures_are_problems_that_are_no_success(keeper: Keeper, serve: Any) -> None:
    call: Call = serve(keeper, table(known=SAID))
    wrong: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("POST", "/create", {"json": {"session_id": "nobody"}}, 404, "session-not-found"),
        ("POST", "/create", {"json": {"session_id": "../x"}}, 422, "invalid-id"),
        ("POST", "/create", {"json": {"session_id": 5}}, 422, "bad-input"),
        ("POST", "/create", {"json": {}}, 422, "bad-input"),
        ("POST", "/create", {"json": []}, 422, "bad-input"),
        ("POST", "/create", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 422, "bad-input"),
        ("POST", "/create", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported-media"),
        ("POST", "/create", {"data": {"session_id": "known"}}, 415, "unsupported-media"),
        ("POST", "/drain", {"json": {"pending": 1}}, 422, "bad-input"),
        ("POST", "/drain", {"content": DEEP, "headers": {"Content-Type": "text/plain"}}, 422, "bad-input"),
        ("GET", f"/restore/{ULID()}", {}, 404, "backup-not-found"),
        ("GET", "/points/known?limit=x", {}, 422, "bad-input"),
        ("GET", f"/media/{ULID()}/x", {}, 404, "not-found"),
        ("GET", "/nowhere", {}, 404, "not-found"),
        ("GET", "/client/..%2f..%2fx.js", {}, 404, "not-found"),
    ]
    for method, path, sent, status, code in wrong:
        answer = call(method, path, **sent)
        assert (answer.status_code, answer.json().get("code"), answer.json()["success"]) == (status, code, False), path
        assert answer.headers["content-type"] == "application/problem+json"


DEEP = b'{"pending": ' + b"[" * 1000 + b"]" * 1000 + b"}"
FOREIGN: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": f"http://{HOST}"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:8001"},
    {"Origin": f"http://{HOST}@evil.example"},
    {"Host": "evil.example:8000", "Origin": "http://evil.example:8000", "Sec-Fetch-Site": "same-origin"},
    {"Host": "", "Sec-Fetch-Site": "same-origin"},
]


def test_other_pages_do_not_reach_the_routes(keeper: Keeper, serve: Any) -> None:
    sessions = table(guarded=SAID)
    call: Call = serve(keeper, sessions)
    for headers in FOREIGN:
        for method, path in (
            ("POST", "/create"),
            ("POST", "/drain"),
            ("GET", "/restore/guarded"),
            ("GET", "/torpor.js"),
        ):
            body = {"json": {"session_id": "guarded", "pending": []}} if method == "POST" else {}
            answer = call(method, path, headers=headers, **body)
            assert (answer.status_code, answer.json()["code"]) == (403, "host-not-allowed"), (headers, path)
    assert call("GET", "/points/guarded").json()["points"] == []
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": f"http://{HOST}"}, {}):
        assert call("GET", "/torpor.js", headers=headers).status_code == 200


def test_a_body_has_an_end(keeper: Keeper, serve: Any) -> None:
    call: Call = serve(keeper, table())
    long = b'{"pending": [' + b" " * MAX_BODY_BYTES + b"]}"
    told = call("POST", "/drain", content=long, headers={"Content-Type": "application/json"})
    assert (told.status_code, told.json()["code"]) == (413, "too-large")


def test_the_page_gets_its_module_from_the_server(keeper: Keeper, serve: Any) -> None:
    call: Call = serve(keeper, table())
    entry = call("GET", "/torpor.js")
    assert entry.headers["content-type"].startswith("text/javascript")
    assert entry.text == 'export * from "./client/torpor.js";\n'
    assert entry.headers["x-content-type-options"] == "nosniff"
    again = call("GET", "/torpor.js", headers={"If-None-Match": entry.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert b"export" in call("GET", "/vendor/idb.js").content


def test_what_a_page_shows_is_saved_where_the_session_cannot_be(keeper: Keeper) -> None:
    sessions = table(shown=SAID)
    call = served_by_fastapi(keeper, sessions)
    item = state("shown", *SAID)
    made = call("POST", "/create", json={"session_id": "shown", "small": True, "state": item}).json()
    assert (made["kind"], made["item"]["kind"]) == ("small", "unchanged")
    more = state(
        "shown", *SAID, {"role": "user", "content": "and?"}, {"role": "assistant", "content": "we"}, partial=True
    )
    held = sessions.lock.acquire()  # the model is at work, in this thread: the route runs in another one
    try:
        made = call("POST", "/create", json={"session_id": "shown", "small": True, "state": more}).json()
    finally:
        assert held
        sessions.lock.release()
    assert made["backup_id"] == made["item"]["backup_id"] == more["id"]
    del sessions["shown"]  # as after a restart of the server
    later = state("shown", *SAID, {"role": "user", "content": "still there?"})
    assert call("POST", "/create", json={"session_id": "shown", "state": later}).json()["backup_id"] == later["id"]
    drained = call("POST", "/drain", content=b'{"pending": []}', headers={"Content-Type": "text/plain"})
    assert drained.json() == {"success": True, "drained": [], "refused": []}


def test_a_server_that_starts_before_the_daemon_works_once_it_is_there(home: Path) -> None:
    with LateKeeper(home=home) as keeper:
        sessions = table(early=SAID)
        call = served_by_fastapi(keeper, sessions)
        with keeper.attach(sessions, name="early") as attachment:
            away = call("POST", "/create", json={"session_id": "early"})
            assert (away.status_code, away.json()["code"]) == (503, "daemon-not-running")
            assert call("GET", "/torpor.js").status_code == 200
            with Daemon(home) as daemon:
                assert attachment.wait_connected(20)
                assert call("POST", "/create", json={"session_id": "early"}).status_code == 201
                asked = daemon.request("POST", "/api/backup/create", json={"session_id": "early"}, timeout=30)
                assert asked.status_code == 201
    with pytest.raises(TorporError, match="closed"):
        keeper()


def test_two_tabs_that_load_at_once_wake_one_session(keeper: Keeper) -> None:
    """Else the second would take the session away from under what the first began with it."""

    class Table(SessionTable):
        asked, go_on, times = threading.Semaphore(0), threading.Event(), 0

        def pause(self) -> Any:
            self.asked.release()
            return super().pause()

        def conversation(self, session_id: str) -> Any:
            return self[session_id].state["text_context"]["conversation"] if session_id in self else None

        def woken(self, session_id: str, restored: Any) -> None:
            self.times += 1
            assert self.go_on.wait(20)
            super().woken(session_id, restored)

    sessions = Table(PlainTarget)
    sessions["tabs"] = PlainSession({"text_context": {"conversation": SAID}})
    desk = BackupDesk(keeper, sessions)
    desk.create("tabs")
    del sessions["tabs"]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(desk.restore, "tabs")
        second = threads.submit(desk.restore, "tabs")
        assert all(sessions.asked.acquire(timeout=20) for _ in "ab")  # neither has found it awake
        sessions.go_on.set()
        assert first.result(20)["conversation"] == second.result(20)["conversation"] == SAID
    assert sessions.times == 1


def test_saves_that_wait_for_the_model_hold_up_nothing_else(keeper: Keeper) -> None:
    sessions, many = table(**{"routes-busy": SAID}), 9  # more than there are threads
    call = served_by_fastapi(keeper, sessions)
    with ThreadPoolExecutor(many + 1) as pool:
        with sessions.pause():
            waiting = [pool.submit(call, "POST", "/create", json={"session_id": "routes-busy"}) for _ in range(many)]
            module = pool.submit(call, "GET", "/torpor.js")
            assert module.result(20).status_code == 200
            drained = pool.submit(call, "POST", "/drain", json={"pending": [state("routes-busy", *SAID)]})
            assert len(drained.result(20).json()["drained"]) == 1
            assert not any(each.done() for each in waiting)
        assert all(each.result().status_code == 201 for each in waiting)


def test_a_daemon_that_is_away_is_said_so_at_once(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        call = served_by_fastapi(keeper, table(s=SAID))
        daemon.kill()
        for path, body in (("/create", {"session_id": "s", "small": True}), ("/drain", {"pending": []})):
            away = call("POST", path, json=body)
            assert (away.status_code, away.json()["code"], away.json()["retryable"]) == (
                503,
                "daemon-not-running",
                True,
            )
            assert away.elapsed.total_seconds() < 5


def test_a_session_whose_answer_was_not_taken_note_of_is_awake_all_the_same(keeper: Keeper) -> None:
    sessions = SessionTable(lambda: target_of(model_a()))
    session = sessions["noted"] = chat(model_a(), ASK)
    write(session, "A sun.", end=True)  # by `generate`, without `finish`
    desk = BackupDesk(keeper, sessions)
    made = desk.create("noted")
    for ref in ("noted", made["backup_id"]):
        woken = desk.restore(ref)
        assert woken["conversation"][-1] == {"role": "assistant", "content": "A sun."}
        assert sessions["noted"] is session


def test_a_real_session_with_a_picture_comes_back_and_goes_on(keeper: Keeper) -> None:
    """Saved and woken over the routes by the same model and by another one; awake, it is left as it is."""
    loaded, other = model_a(), model_b()
    models = [loaded]
    sessions = SessionTable(lambda: target_of(models[-1]))
    call = served_by_fastapi(keeper, sessions)
    session: TransformersSession = chat(loaded, ASK)
    session.reply(**options(loaded, 8))
    sessions["real"] = session
    made = call("POST", "/create", json={"session_id": "real"}).json()
    assert (made["messages"], made["tokens"]) == (2, session.token_ids.shape[-1])

    awake = call("POST", "/restore/real", json={}).json()
    assert sessions["real"] is session
    assert (awake["mode"], awake["plan"]["notes"]) == (
        "full",
        ["the session is awake here and goes on; nothing had to be read"],
    )
    session.say({"role": "user", "content": "And then?"})
    awake = call("POST", "/restore/real", json={}).json()
    assert (len(awake["conversation"]), sessions["real"] is session) == (3, True)

    woken = call("POST", f"/restore/{made['backup_id']}", json={}).json()  # back to that point, by its id
    assert (woken["mode"], len(woken["conversation"]), woken["partial"]) == ("full", 2, False)
    assert woken["conversation"][0]["content"][0] == {"type": "image"}
    assert torch.equal(sessions["real"].token_ids, session.token_ids[:, : made["tokens"]])
    [image] = woken["images"]
    shown = call("GET", f"/media/{made['backup_id']}/{image['index']}")
    assert (shown.content, shown.headers["content-type"]) == (picture(120), "image/png")
    assert "sandbox" in shown.headers["content-security-policy"]

    models.append(other)
    plan = call("GET", f"/plan/{made['backup_id']}").json()
    assert (plan["mode"], plan["tokens_reused"]) == ("media", 0)
    assert plan["words"][0] == "1 image and the text come back"
    sessions.clear()
    switched = call("POST", "/restore/real", json={}).json()
    assert (switched["mode"], switched["conversation"]) == ("media", woken["conversation"])
    assert sessions["real"].model is other.model
    sessions["real"].say({"role": "user", "content": "And now?"})
    assert sessions["real"].reply(**options(other, 3))["role"] == "assistant"
