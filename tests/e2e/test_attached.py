"""Inference processes that are attached: asked over the daemon, found again after a restart, missed when they die."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from support.daemon import Daemon
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client import Keeper
from torpor.client.asgi import backup_app
from torpor.client.backup_desk import BackupDesk
from torpor.client.provider import SessionTable

SAID = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]


def talk(*messages: dict[str, Any]) -> PlainSession:
    return PlainSession({"metadata": {"model_name": "m"}, "text_context": {"conversation": list(messages or SAID)}})


def until(there: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not there():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def table(**sessions: PlainSession) -> SessionTable:
    made = SessionTable(PlainTarget)
    made.update(sessions)
    return made


def attached(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.request("GET", "/v1/attached").json()["processes"]
    return found


def test_a_process_is_listed_while_it_is_attached(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        with keeper.attach(table(listed=talk()), name="chat") as attachment:
            assert attachment.wait_connected(10)
            [found] = [each for each in attached(shared_daemon) if each["name"] == "chat"]
            assert found["sessions"] == ["listed"]
        assert [each for each in attached(shared_daemon) if each["name"] == "chat"] == []


def test_the_desk_saves_and_wakes(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        sessions = table(desk=talk())
        desk = BackupDesk(keeper, sessions)
        made = desk.create("desk")
        assert (made["success"], made["messages"], made["kind"]) == (True, 2, "full")
        del sessions["desk"]
        woken = desk.restore("desk")
        assert (woken["backup_id"], woken["mode"], woken["conversation"]) == (made["backup_id"], "full", SAID)
        assert sessions["desk"].state["text_context"]["conversation"] == SAID
        assert desk.plan(made["backup_id"])["mode"] == "full"


@pytest.fixture
def keeper(shared_daemon: Daemon) -> Any:
    with shared_daemon.keeper() as keeper:
        yield keeper


def ask(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    import asyncio

    async def asking() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, **options)

    return asyncio.run(asking())


def test_routes_of_an_inference_server(keeper: Keeper) -> None:
    app = backup_app(keeper, table(routed=talk()))
    made = ask(app, "POST", "/create", json={"session_id": "routed"})
    assert made.status_code == 201
    woken = ask(app, "GET", f"/restore/{made.json()['backup_id']}").json()
    assert (woken["success"], woken["conversation"]) == (True, SAID)
    assert ask(app, "GET", f"/plan/{made.json()['backup_id']}").json()["exact"] is True
    refused = ask(app, "POST", "/create", json={"session_id": "nobody"})
    assert (refused.status_code, refused.json()["code"], refused.json()["success"]) == (404, "session-not-found", False)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8001"},
        {"Host": "evil.example:8000"},
    ],
)
def test_other_pages_do_not_reach_the_routes(keeper: Keeper, headers: dict[str, str]) -> None:
    app = backup_app(keeper, table(guarded=talk()))
    for method, path in (("POST", "/create"), ("GET", "/restore/guarded"), ("GET", "/torpor.js")):
        answer = ask(app, method, path, headers=headers, **({"json": {}} if method == "POST" else {}))
        assert (answer.status_code, answer.json()["code"]) == (403, "host-not-allowed")


def test_work_comes_to_the_process_that_holds_the_session(shared_daemon: Daemon) -> None:
    with ExitStack() as stack:
        for name in ("one", "two"):
            keeper = stack.enter_context(shared_daemon.keeper())
            process = stack.enter_context(keeper.attach(table(**{name: talk()}), name=name))
            assert process.wait_connected(10)
        assert {"one", "two"} <= {each["name"] for each in attached(shared_daemon)}
