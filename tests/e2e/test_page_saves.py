"""Pages that save their own text on a real daemon: what is saved, what comes back, and what is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.daemon import Daemon
from ulid import ULID


def item(session_id: str, *texts: str, **changes: Any) -> dict[str, Any]:
    """A state of a page whose turns alternate."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    made = {"id": str(ULID()), "session_id": session_id, "created_at": 1.0, "base": None, "keep": 0, "messages": turns}
    return made | changes


def create(daemon: Daemon, state: dict[str, Any]) -> dict[str, Any]:
    body = {"session_id": state["session_id"], "small": True, "state": state}
    answer = daemon.request("POST", "/api/backup/create", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def text(daemon: Daemon, ref: str) -> dict[str, Any]:
    answer = daemon.request("GET", f"/api/backup/restore/{ref}?text=1")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_page_saves_its_text_and_gets_it_back(shared_daemon: Daemon) -> None:
    first = item("page-a", "Hello", "Hi", title="Greetings")
    made = create(shared_daemon, first)
    assert (made["backup_id"], made["kind"], made["messages"]) == (first["id"], "small", 2)
    second = item("page-a", "How are you?", base=made["backup_id"], keep=2, draft="And also")
    again = create(shared_daemon, second)
    found = text(shared_daemon, "page-a")
    assert [m["content"] for m in found["conversation"]] == ["Hello", "Hi", "How are you?"]
    assert (found["draft"], found["partial"], found["mode"]) == ("And also", False, "text-only")
    listed = shared_daemon.request("GET", f"/v1/backups/{again['backup_id']}").json()
    assert (listed["parent_id"], listed["adapter"], listed["title"]) == (made["backup_id"], "page", "Greetings")
    points = shared_daemon.request("GET", "/api/backup/points/page-a").json()["points"]
    assert [(p["backup_id"], p["messages"]) for p in points] == [(second["id"], 3), (first["id"], 2)]


def test_the_same_item_twice_is_one_backup(shared_daemon: Daemon) -> None:
    sent = item("page-b", "Hello")
    assert create(shared_daemon, sent) == create(shared_daemon, sent)
    other = item("page-b", "Goodbye", id=sent["id"])
    answer = shared_daemon.request("POST", "/api/backup/drain", json={"pending": [other]}).json()
    assert [(r["id"], r["code"]) for r in answer["refused"]] == [(sent["id"], "conflict")]


def test_a_page_whose_clock_is_slow_goes_another_way(shared_daemon: Daemon) -> None:
    now = time.time()
    first = create(shared_daemon, item("page-slow", "Hello", "Hi", created_at=now))
    create(shared_daemon, item("page-slow", "Abandoned", base=first["backup_id"], keep=2, created_at=now))
    slow = now - 3600
    back = item("page-slow", "Goes on", base=first["backup_id"], keep=2, created_at=slow, sent_at=slow + 0.01)
    create(shared_daemon, back)
    assert text(shared_daemon, "page-slow")["backup_id"] == back["id"]


def test_what_a_page_took_away_stays_away(shared_daemon: Daemon) -> None:
    """Though the process, which does not know it yet, has saved the whole once more in between."""
    first = create(shared_daemon, item("page-cut", "Hello", "Hi", "Oops", "What?"))
    create(shared_daemon, item("page-cut", base=first["backup_id"], keep=4, draft="Between"))
    for kind in ("small", "unchanged"):  # said twice, it is saved once
        assert create(shared_daemon, item("page-cut", base=first["backup_id"], keep=2))["kind"] == kind
    assert [m["content"] for m in text(shared_daemon, "page-cut")["conversation"]] == ["Hello", "Hi"]


@pytest.mark.parametrize("ref", ["no-such-session", "01M81P35719XNDZ4R57NMV6DYZ"])
def test_what_needs_a_process_says_that_none_is_there(shared_daemon: Daemon, ref: str) -> None:
    answer = shared_daemon.request("POST", "/api/backup/create", json={"session_id": "page-c"})
    assert (answer.status_code, answer.json()["code"], answer.json()["success"]) == (503, "no-process", False)
    answer = shared_daemon.request("GET", f"/api/backup/restore/{ref}")
    assert (answer.status_code, answer.json()["success"]) == (404, False)


@pytest.mark.parametrize("bare", [False, True])
def test_a_draft_before_anything_came_back_is_no_empty_conversation(shared_daemon: Daemon, bare: bool) -> None:
    name = f"page-draft-{bare}"
    prompt = {"role": "system", "content": "Be short."}
    said = [prompt, {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "H"}]
    create(shared_daemon, item(name) | {"messages": said, "partial": True})
    create(shared_daemon, item(name, draft="And", bare=bare))
    found = text(shared_daemon, name)
    assert (found["conversation"], found["partial"], found["draft"]) == (said, True, "And")
    goes_on = item(name, base=found["backup_id"], keep=1 if bare else 2, bare=bare)
    create(shared_daemon, goes_on | {"messages": [{"role": "assistant", "content": "Hi."}]})
    found = text(shared_daemon, name)
    assert [m["content"] for m in found["conversation"]] == ["Be short.", "Hello", "Hi."]
    assert (found["partial"], found["draft"]) == (False, None)
