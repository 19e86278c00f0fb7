"""A page, its server and the daemon, each of which ends and begins when it likes: what was said is there in the end."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from support.browser import new_tab
from support.daemon import Daemon, new_daemon
from support.ports import free_port
from support.web_pages import page_server, said
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client.provider import SessionTable

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STEPS = 40
MOVES = ("say", "say", "say", "say", "stop", "kill", "start", "start", "reload", "close", "forget")
NAME = "life"


class Life:
    """What a user does and what machines do to it; `said` is what must never be lost."""

    def __init__(self, daemon: Daemon, sessions: SessionTable, page: Page, url: str) -> None:
        self.daemon, self.sessions, self.page, self.url = daemon, sessions, page, url
        self.said: list[str] = []
        self.up = True
        self.open()

    def open(self) -> None:
        """Load the page, which comes back by itself, and look that it has everything. It shows no system message."""
        self.page.goto("about:blank")
        self.page.goto(self.url)
        self.page.wait_for_function("window.backup")
        # Without the daemon, a page that has nothing yet is told so.
        found = self.page.evaluate("comeBack().catch((problem) => problem.away ? null : Promise.reject(problem))")
        self.page.evaluate("() => { chat.conversation = chat.conversation.filter((m) => m.role !== 'system'); }")
        assert spoken(found["conversation"] if found else []) == self.said, found and found["mode"]

    def move(self, name: str, number: int) -> None:
        if name == "say":
            self.say(f"message {number}")
        elif name in ("stop", "kill") and self.up:
            (self.daemon.stop if name == "stop" else self.daemon.kill)()
            self.up = False
        elif name == "start" and not self.up:
            self.daemon.errors.close()
            self.daemon.start()
            self.up = True
        elif name == "reload":
            self.open()
        elif name == "close":
            context = self.page.context
            self.page.close(run_before_unload=True)
            self.page = context.new_page()
            self.open()
        elif name == "forget" and NAME in self.sessions:  # the inference process was started anew
            del self.sessions[NAME]
            if self.up:
                self.open()

    def say(self, text: str) -> None:
        role = "assistant" if len(self.said) % 2 else "user"
        if NAME in self.sessions:
            self.sessions[NAME].state["text_context"]["conversation"].append({"role": role, "content": text})
        self.page.evaluate("([role, text]) => say(role, text)", [role, text])
        self.said.append(text)


def spoken(conversation: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in conversation if message["role"] != "system"]


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(12))
def test_nothing_that_was_said_is_lost(chromium: Browser, seed: int) -> None:
    draw, sessions = random.Random(seed), SessionTable(PlainTarget)
    prompt = [{"role": "system", "content": "Be short."}] if seed % 2 else []
    sessions[NAME] = PlainSession({"metadata": {"model_name": "m"}, "text_context": {"conversation": prompt}})
    with (
        new_daemon(port=free_port()) as daemon,
        daemon.keeper() as keeper,
        page_server(keeper, sessions) as server,
    ):
        url = f"{server}/#{quote(json.dumps({'base': '/api/backup', 'session': NAME, 'every': 3}))}"
        with new_tab(chromium, allow=("Failed to load resource",)) as page:
            life = Life(daemon, sessions, page, url)
            for number in range(STEPS):
                life.move(draw.choice(MOVES), number)
            life.move("say", STEPS)
            life.move("start", STEPS)
            caught_up = "backup.status.online && backup.status.pending === 0"
            life.page.wait_for_function(caught_up, timeout=60_000, polling=50)
            assert spoken(said(daemon, NAME)["conversation"]) == life.said
            life.open()
            assert spoken(sessions[NAME].state["text_context"]["conversation"]) == life.said
