"""A page of an inference server: it has no token, the server saves whole sessions for it, and both outlive the daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from support.browser import new_tab
from support.daemon import Daemon, new_daemon
from support.ports import free_port
from support.web_pages import backups, page_server, said, texts
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client.provider import SessionTable

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NOISE = ("Failed to load resource",)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with new_daemon(port=free_port()) as running:
        yield running


@pytest.fixture(scope="module")
def sessions() -> SessionTable:
    return SessionTable(PlainTarget)


@pytest.fixture(scope="module")
def server(daemon: Daemon, sessions: SessionTable) -> Iterator[str]:
    with daemon.keeper() as keeper, page_server(keeper, sessions) as url:
        yield url


def talk(*messages: dict[str, Any]) -> PlainSession:
    return PlainSession({"metadata": {"model_name": "m"}, "text_context": {"conversation": list(messages)}})


def opened(page: Page, server: str, session_id: str, **options: Any) -> None:
    options = {"base": "/api/backup", "session": session_id, "every": 2} | options
    page.goto(f"{server}/#{quote(json.dumps(options))}")
    page.wait_for_function("document.title === 'ready'")


def say(page: Page, sessions: SessionTable, role: str, content: str, name: str = "r") -> dict[str, Any]:
    """Let the server take a message, and the page tell of it."""
    text = sessions[name].state["text_context"]["conversation"]
    text.append({"role": role, "content": content})
    return dict(page.evaluate("([role, content]) => say(role, content)", [role, content]))


def test_a_page_of_its_own_server(chromium: Browser, daemon: Daemon, server: str, sessions: SessionTable) -> None:
    sessions["r"] = talk()
    with new_tab(chromium, allow=NOISE) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        opened(page, server, "r")
        assert page.evaluate("comeBack()") is None  # there is nothing yet
        kinds = [
            say(page, sessions, role, text)["kind"]
            for role, text in (("user", "One"), ("assistant", "Two"), ("user", "Three"), ("assistant", "Four"))
        ]
        assert kinds == ["small", "full", "small", "full"]
        assert backups(daemon, "r") == 4  # nothing is saved twice
        assert page.evaluate("[localStorage.length, sessionStorage.length]") == [0, 0]
        assert all(url.startswith(server) for url in asked)
        assert not any("token" in url for url in asked)

        page.evaluate("() => { chat.draft = 'and so on'; }")
        page.close(run_before_unload=True)
        page.context.new_page().close()
    with new_tab(chromium, allow=NOISE) as page:
        opened(page, server, "r")
        found = page.evaluate("comeBack()")
        assert (texts(found), found["draft"]) == (["One", "Two", "Three", "Four"], "and so on")
        points = page.evaluate("backup.points()")
        assert points[0]["messages"] == 4
        plan = page.evaluate("([point]) => backup.plan(point)", [points[1]])
        assert plan["exact"]
        assert plan["sentence"]
        assert [phrase["text"] for phrase in plan["phrases"]] == plan["words"]


def test_the_process_was_started_anew(chromium: Browser, daemon: Daemon, server: str, sessions: SessionTable) -> None:
    sessions["s"] = talk()
    with new_tab(chromium, allow=NOISE) as page:
        opened(page, server, "s")
        say(page, sessions, "user", "One", "s")
        del sessions["s"]  # as after its end
        assert page.evaluate("say('assistant', 'Two, which only the page has')")["backupId"]
        found = page.evaluate("comeBack()")
        assert found["mode"] != "local"
        assert texts(found) == ["One", "Two, which only the page has"]
        assert len(sessions["s"].state["text_context"]["conversation"]) == 2


def test_a_page_that_shows_no_system_message(
    chromium: Browser, daemon: Daemon, server: str, sessions: SessionTable
) -> None:
    sessions["u"] = talk({"role": "system", "content": "Be short."})
    with new_tab(chromium, allow=NOISE) as page:
        opened(page, server, "u", every=9)
        for n, role in enumerate(("user", "assistant")):
            say(page, sessions, role, f"Message {n}", "u")
        del sessions["u"]  # what follows, only the page knows
        for n, role in ((2, "user"), (3, "assistant"), (4, "user")):
            page.evaluate("([role, content]) => say(role, content)", [role, f"Message {n}"])
        assert texts(said(daemon, "u")) == ["Be short.", *(f"Message {n}" for n in range(5))]


def test_the_daemon_behind_the_server_stops(
    chromium: Browser, daemon: Daemon, server: str, sessions: SessionTable
) -> None:
    sessions["t"] = talk()
    with new_tab(chromium, allow=NOISE) as page:
        opened(page, server, "t", every=9)
        say(page, sessions, "user", "One", "t")
        daemon.stop()
        assert say(page, sessions, "assistant", "Two", "t")["kind"] == "queued"
        assert page.evaluate("[backup.status.online, backup.status.problem.code]") == [False, "daemon-not-running"]
        page.reload()
        page.wait_for_function("window.backup")
        found = page.evaluate("comeBack()")
        assert (found["mode"], texts(found)) == ("local", ["One", "Two"])
        daemon.errors.close()
        daemon.start()
        page.wait_for_function("backup.status.online && backup.status.pending === 0")
        assert texts(said(daemon, "t")) == ["One", "Two"]
