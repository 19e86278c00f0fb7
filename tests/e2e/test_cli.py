"""Every command, as a process: its JSON, its exit status, its words, and never a traceback."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import orjson
import pytest
import torch
from support.caches import CacheSession
from support.commands import as_json, run
from support.daemon import Daemon, new_daemon
from support.forked import TORCH, TORPOR, Forked, start
from torpor.adapters.plain import PlainSession
from torpor.cli import entry, transfer
from torpor.state.errors import error_classes


@pytest.fixture
def ids(daemon: Daemon) -> list[str]:
    return fill(daemon)


@pytest.fixture(scope="module")
def filled() -> Iterator[tuple[Daemon, list[str]]]:
    """A daemon for those who change nothing."""
    with new_daemon() as running:
        yield running, fill(running)


def fill(daemon: Daemon) -> list[str]:
    session = CacheSession()
    found = []
    with daemon.keeper() as keeper:
        for step in range(3):
            session.grow(70, step)
            found.append(keeper.save("chat-42", session).wait(60).id)
        state = {"metadata": {"model_name": "m"}, "text_context": {"t": torch.zeros(3000)}}
        found.append(keeper.save("plain", PlainSession(state)).wait(60).id)
    return found


def test_status(filled: tuple[Daemon, list[str]]) -> None:
    daemon, _ = filled
    found = as_json(daemon.home, "status")
    assert (found["backups"], found["sessions"], found["pid"]) == (4, 2, daemon.listening["pid"])
    assert Path(found["log"]).read_text()
    assert "4 of 2 sessions" in run(daemon.home, "status")


def test_ls_lists_newest_first(filled: tuple[Daemon, list[str]]) -> None:
    daemon, ids = filled
    rows = as_json(daemon.home, "ls")["backups"]
    assert [row["id"] for row in rows] == ids[::-1]
    for name in ("id", "session_id", "created_at", "tokens", "bytes_total", "bytes_written"):
        assert name in rows[0]
    assert [row["id"] for row in as_json(daemon.home, "ls", "chat-42", "--limit", "2")["backups"]] == [ids[2], ids[1]]
    text = run(daemon.home, "ls")
    assert all(backup_id in text for backup_id in ids)


def test_an_empty_store_lists_nothing(daemon: Daemon) -> None:
    assert as_json(daemon.home, "ls") == {"backups": []}
    assert "No backups yet" in run(daemon.home, "ls")


def test_show(filled: tuple[Daemon, list[str]]) -> None:
    daemon, ids = filled
    by_session = as_json(daemon.home, "show", "chat-42")
    assert by_session["id"] == ids[2]
    assert by_session["kv_cache"] == {"tokens": 210, "blocks": 4, "dtype": "bfloat16"}
    assert as_json(daemon.home, "show", ids[0])["tokens"] == 71
    assert "210 tokens in 4 blocks" in run(daemon.home, "show", "chat-42")
    assert "float32[3000]" in run(daemon.home, "show", "plain")


def test_plan(filled: tuple[Daemon, list[str]], tmp_path: Path) -> None:
    daemon, _ = filled
    assert as_json(daemon.home, "plan", "chat-42")["mode"] == "full"
    assert as_json(daemon.home, "plan", "plain")["mode"] == "full"
    other = as_json(daemon.home, "show", "chat-42")["fingerprint"] | {"weights": "other"}
    (tmp_path / "target.json").write_bytes(orjson.dumps(other))
    found = as_json(daemon.home, "plan", "chat-42", "--target", str(tmp_path / "target.json"))
    assert found["layers"]["kv_cache"] == ["rebuild", "differs: weights"]
    assert "differs: weights" in run(daemon.home, "plan", "chat-42", "--target", str(tmp_path / "target.json"))
    refused = as_json(
        daemon.home, "plan", "chat-42", "--target", str(tmp_path / "target.json"), "--require", "full", status=4
    )
    assert refused["code"] == "restore-refused"
    assert as_json(daemon.home, "plan", "chat-42", "--at-most", "text-only")["mode"] == "text-only"
    (tmp_path / "bad.json").write_text('{"colour": "blue"}')
    assert as_json(daemon.home, "plan", "chat-42", "--target", str(tmp_path / "bad.json"), status=2)["hint"]


def test_pin_and_rm(daemon: Daemon, ids: list[str]) -> None:
    assert as_json(daemon.home, "pin", ids[0])["pinned"]
    assert as_json(daemon.home, "rm", ids[0], status=2)["detail"].endswith("is pinned")
    assert not as_json(daemon.home, "pin", ids[0], "--off")["pinned"]
    assert as_json(daemon.home, "rm", ids[0]) == {"removed": [ids[0]]}
    assert as_json(daemon.home, "rm", ids[0], status=3)["code"] == "backup-not-found"
    assert as_json(daemon.home, "rm", "chat-42", status=2)["hint"]
    run(daemon.home, "pin", "chat-42")
    assert set(as_json(daemon.home, "rm", "--session", "--force", "chat-42")["removed"]) == {ids[1], ids[2]}
    assert as_json(daemon.home, "rm", "--session", "chat-42", status=3)["code"] == "session-not-found"
    assert [row["id"] for row in as_json(daemon.home, "ls")["backups"]] == [ids[3]]


WATCH = [["watch", "add", "/x"], ["watch", "remove", "/x"], ["watch", "ls"], ["watch", "rescan"]]
OTHERS = [
    ["log", "x"],
    ["fork", "x"],
    ["rename", "x", "y"],
    ["restore", "x"],
    ["diff", "x", "y"],
    ["export", "x"],
    ["import", "/etc/hostname"],
]


@pytest.mark.parametrize(
    "command", [["status"], ["ls"], ["show", "x"], ["plan", "x"], ["pin", "x"], ["rm", "x"], *WATCH, *OTHERS]
)
def test_without_a_daemon_every_command_says_how_to_start_it(home: Path, command: list[str]) -> None:
    problem = as_json(home, *command, status=8)
    assert problem["code"] == "daemon-not-running"
    assert "torpor serve" in problem["hint"]
    assert "torpor serve" in run(home, *command, status=8)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["show", "../../etc/passwd"], 2), (["show", "nope"], 3), (["rm", "a/b"], 2), (["pin", "\u202e"], 2),
        (["ls", "a b"], 2), (["ls", "--limit", "0"], 2), (["frobnicate"], 2), (["show"], 2),
        (["plan", "chat-42", "--require", "nearly"], 2), (["show", "01M81P35719XNDZ4R57NMV6DYZ"], 3),
    ],
    ids=str,
)  # fmt: skip
def test_failures_are_problems_with_the_exit_status_of_their_class(
    filled: tuple[Daemon, list[str]], words: list[str], status: int
) -> None:
    daemon, _ = filled
    problem = as_json(daemon.home, *words, status=status)
    assert error_classes()[problem["code"]].exit_code == status
    assert problem["hint"]
    text = run(daemon.home, *words, status=status)
    assert text.strip()


def test_version_and_help(home: Path) -> None:
    from importlib.metadata import version

    assert run(home, "--version").strip() == version("torpor")
    commands = run(home, "--help")
    for command in (
        "serve",
        "status",
        "ls",
        "show",
        "diff",
        "plan",
        "pin",
        "rm",
        "log",
        "fork",
        "rename",
        "restore",
        "demo",
    ):
        assert command in commands
        assert "--json" in run(home, command, "--help")
    watch = run(home, "watch", "--help")
    for words in WATCH:
        assert words[1] in watch
        assert "--json" in run(home, *words[:2], "--help")


def test_status_waits_for_a_daemon_that_is_starting(home: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(as_json, home, "status", "--wait", "20")
        with Daemon(home) as daemon:
            assert waiting.result(30)["pid"] == daemon.listening["pid"]


@pytest.mark.soak  # the next one goes the same way, and `make demo` goes this one
def test_the_demonstration(home: Path) -> None:
    """The main job: kill -9 of the session's process and of the daemon, and not a bit is lost."""
    report = as_json(home, "demo", "--tokens", "16")
    assert report["identical"]
    assert report["restore"]["mode"] == "full"
    assert report["compared_tokens"] == 16
    assert report["second_save"]["bytes_written"] < report["first_save"]["bytes_written"] / 4


def forked(command: list[str], env: dict[str, str], stdout: int, stderr: BinaryIO | int) -> Forked:
    """Start one of the demonstration's processes as `subprocess.Popen` does, off one that has its imports done."""
    python, safely, flag, module, *words = command
    assert (python, safely, flag, stdout) == (sys.executable, "-P", "-m", subprocess.PIPE)
    with tempfile.TemporaryFile() as noise:
        errors = noise if isinstance(stderr, int) else stderr
        return start(words, env, stderr=errors, module=module, imports=TORCH if "worker" in module else TORPOR)


def test_the_demonstration_on_weights_from_a_folder_and_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It succeeds; and it fails as soon as one of the lines that its processes have said is another."""
    from torpor.adapters.demo_model import small_model
    from torpor.cli import demo

    loaded = small_model(seed=5)
    for part in (loaded.model, loaded.tokenizer, loaded.image_processor):
        part.save_pretrained(tmp_path)
    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(Popen=forked, PIPE=subprocess.PIPE))
    real, said = demo._wait, list[dict[str, Any]]()
    monkeypatch.setattr(demo, "_wait", lambda lines, kind: said.append(real(lines, kind)) or said[-1])
    assert demo.run_demo(str(tmp_path), 8, as_json=True) == 0
    report = orjson.loads(capsys.readouterr().out)
    assert report["identical"]
    assert report["restore"]["images"] == 1

    said[-1]["logits"][3] = "another digest"
    monkeypatch.setattr(demo, "_wait", lambda lines, kind: said.pop(0))
    monkeypatch.setattr(demo, "_daemon", nullcontext)
    monkeypatch.setattr(demo, "_worker", lambda *_: nullcontext())
    assert demo.run_demo(str(tmp_path), 8, as_json=True) == 1
    assert not orjson.loads(capsys.readouterr().out)["identical_logits"]


def test_the_demonstration_of_a_model_that_is_not_there(home: Path) -> None:
    assert as_json(home, "demo", "--model", "/nowhere", status=2)["code"] == "bad-input"


def test_an_interrupted_command_does_not_end_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that goes on after status 0 must not go on after Ctrl-C."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "connect", interrupt)
    monkeypatch.setattr(sys, "argv", ["torpor", "export", "s"])
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == 130
