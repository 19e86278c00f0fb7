"""Inference processes that are attached: asked over the daemon, found again after a restart, missed when they die."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.commands import as_json, run
from support.daemon import Daemon
from support.forked import TORCH, Forked, clean_environment, start
from support.waiting import until
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client import Keeper
from torpor.client.attach import FIRST_PAUSE_S, Attachment
from torpor.client.provider import SessionTable

SAID = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]
DIES_S = 20.0  # at most, from the death of a process to the word of it


def talk(*messages: dict[str, Any]) -> PlainSession:
    return PlainSession({"metadata": {"model_name": "m"}, "text_context": {"conversation": list(messages or SAID)}})


def table(*names: str) -> SessionTable:
    made = SessionTable(PlainTarget)
    made.update({name: talk() for name in names})
    return made


def attached(daemon: Daemon, name: str = "chat") -> list[dict[str, Any]]:
    found = daemon.request("GET", "/v1/attached").json()["processes"]
    return [each for each in found if each["name"] == name]


def ask(daemon: Daemon, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    return daemon.request("POST", f"/api/backup/{path}", json=body or {}, timeout=60)


@contextmanager
def attaching(keeper: Keeper, sessions: SessionTable, name: str = "chat") -> Iterator[Attachment]:
    with keeper.attach(sessions, name=name) as attachment:
        assert attachment.wait_connected(20)
        yield attachment


def test_who_is_attached_is_asked_and_gone_once_it_is_closed(shared_daemon: Daemon) -> None:
    sessions = table("listed")
    with shared_daemon.keeper() as keeper:
        with attaching(keeper, sessions):
            [found] = attached(shared_daemon)
            assert (found["sessions"], found["working"]) == (["listed"], 0)
            made = ask(shared_daemon, "create", {"session_id": "listed"})
            assert made.status_code == 201
            told = made.json()
            assert (told["success"], told["kind"], told["messages"], told["session_id"]) == (True, "full", 2, "listed")
            assert keeper.api.backup("listed").id == told["backup_id"]
            del sessions["listed"]
            woken = ask(shared_daemon, f"restore/{told['backup_id']}").json()
            assert (woken["mode"], woken["conversation"]) == ("full", SAID)
            assert sessions["listed"].state["text_context"]["conversation"] == SAID
            sessions["since"] = talk()  # which it has not announced
            assert ask(shared_daemon, "create", {"session_id": "since", "small": True}).json()["kind"] == "small"
            nobody = ask(shared_daemon, "create", {"session_id": "nobody"})
            assert (nobody.status_code, nobody.json()["code"]) == (503, "no-process")
        assert attached(shared_daemon) == []
        away = ask(shared_daemon, "create", {"session_id": "listed"}).json()
        assert (away["code"], away["success"]) == ("no-process", False)
        assert "attach" in away["hint"]


def test_back_up_now_asks_every_process(shared_daemon: Daemon) -> None:
    with ExitStack() as stack:
        for name in ("one", "two"):
            keeper = stack.enter_context(shared_daemon.keeper())
            stack.enter_context(attaching(keeper, table(name, f"{name}-more"), name))
        found = ask(shared_daemon, "create", {"session_id": None}).json()
        assert {each["session_id"] for each in found["backups"]} == {"one", "one-more", "two", "two-more"}
        assert (found["success"], found["failed"]) == (True, [])


def test_a_provider_that_fails_is_told_of_and_lives_on(shared_daemon: Daemon) -> None:
    class Broken(SessionTable):
        def target(self) -> Any:
            raise ValueError("a secret of the process")

    sessions = Broken(PlainTarget)
    sessions["broken"] = talk()
    with shared_daemon.keeper() as keeper, attaching(keeper, sessions):
        made = ask(shared_daemon, "create", {"session_id": "broken"}).json()
        del sessions["broken"]
        failed = ask(shared_daemon, f"restore/{made['backup_id']}")
        assert (failed.status_code, failed.json()["code"]) == (500, "internal")
        assert "secret" not in failed.text
        sessions["broken"] = talk()
        assert ask(shared_daemon, "create", {"session_id": "broken"}).status_code == 201


def test_an_answer_that_is_too_long_for_the_daemon_is_told_of(shared_daemon: Daemon) -> None:
    sessions = table()
    sessions["long"] = talk({"role": "user", "content": "x" * (17 << 20)})
    with shared_daemon.keeper() as keeper, attaching(keeper, sessions):
        made = ask(shared_daemon, "create", {"session_id": "long"}).json()
        del sessions["long"]
        told = ask(shared_daemon, f"restore/{made['backup_id']}")
        assert (told.status_code, told.json()["code"]) == (413, "too-large")
        assert "long" in sessions  # it is awake all the same


def test_a_page_cannot_pose_as_a_process(shared_daemon: Daemon) -> None:
    path, said = f"/v1/attached/{'0' * 26}", {"name": "x", "pid": 1, "sessions": ["s"]}
    for scopes, origin in ((["save", "restore", "read"], "http://localhost:3000"), (["save"], None)):
        wish = {"label": "x", "scopes": scopes, "origin": origin}
        token = shared_daemon.request("POST", "/v1/tokens", json=wish).json()["token"]
        headers = {} if origin is None else {"Origin": origin}
        refused = shared_daemon.request("PUT", path, token=token, json=said, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "scope-denied")
    container = {"label": "c", "scopes": ["save", "restore"], "origin": None}
    token = shared_daemon.request("POST", "/v1/tokens", json=container).json()["token"]
    assert shared_daemon.request("PUT", path, token=token, json=said).status_code == 200
    assert shared_daemon.request("DELETE", path, token=token).status_code == 204


@pytest.fixture
def worker(daemon: Daemon) -> Iterator[Forked]:
    """A process of its own that is attached."""
    here = [str(Path(__file__).parents[1])]
    with tempfile.TemporaryFile() as errors:
        module, words = "support.attached_worker", [str(daemon.home)]
        process = start(words, clean_environment(), stderr=errors, module=module, folders=here, imports=TORCH)
    assert heard(process) == "attached"
    yield process
    process.send_signal(signal.SIGKILL)
    assert process.stdout is not None
    process.stdout.close()


def heard(process: Forked) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def test_a_daemon_and_a_process_are_killed_in_mid_work(daemon: Daemon, worker: Forked) -> None:
    """The process finds the next daemon by itself; of a process that is gone, who waits for it is told at once."""
    with ThreadPoolExecutor(1) as threads, daemon.keeper() as keeper, attaching(keeper, table("other")) as attachment:
        asked = threads.submit(ask, daemon, "create", {"session_id": "stuck"})
        assert heard(worker) == "holding"
        assert attached(daemon, "worker")[0]["working"] == 1
        daemon.kill()
        assert isinstance(asked.exception(20), httpx.TransportError)
        until(lambda: not attachment.connected)
        with Daemon(daemon.home) as again:
            until(lambda: attached(again) and attached(again, "worker"))
            assert ask(again, "create", {"session_id": "other"}).status_code == 201
            asked = threads.submit(ask, again, "create", {"session_id": "stuck"})
            assert heard(worker) == "holding"
            worker.send_signal(signal.SIGKILL)
            started = time.monotonic()
            answer = asked.result(DIES_S)
            assert (answer.status_code, answer.json()["code"]) == (503, "no-process")
            assert time.monotonic() - started < DIES_S
            assert attached(again, "worker") == []


def test_a_daemon_stops_at_once_though_processes_wait_and_nobody_hurries_it(daemon: Daemon) -> None:
    calls = list[float]()
    with daemon.keeper() as keeper, attaching(keeper, table("s")) as attachment:
        call = keeper.api.call

        def counted(*words: Any, **options: Any) -> Any:
            calls.append(time.monotonic())
            return call(*words, **options)

        keeper.api.call = counted  # type: ignore[method-assign]
        started = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - started < 10
        until(lambda: len(calls) >= 3)
        assert calls[2] - calls[0] >= 3 * FIRST_PAUSE_S
        assert not attachment.connected
        started = time.monotonic()
    assert time.monotonic() - started < 5  # to close it, with nobody there


def test_the_command_line_saves_and_wakes_what_runs(shared_daemon: Daemon, tmp_path: Path) -> None:
    home, sessions = shared_daemon.home, table("first", "second")
    assert as_json(home, "save", status=2)["code"] == "bad-input"
    with shared_daemon.keeper() as keeper, attaching(keeper, sessions, "cli"):
        made = as_json(home, "save", "first")
        assert "first" in run(home, "save", "--all", "--small")
        assert "cli" in run(home, "attached")
        sessions["first"] = talk(*SAID, {"role": "user", "content": "and then?"})
        assert "2 messages" in run(home, "restore", made["backup_id"])
        assert sessions["first"].state["text_context"]["conversation"] == SAID
    assert as_json(home, "restore", made["backup_id"], status=4)["code"] == "restore-refused"
    assert as_json(home, "save", "first", status=8)["code"] == "no-process"
