"""Fingerprints through a real daemon: remembered between processes, on the command line, and without a daemon."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.commands import as_json
from support.daemon import Daemon
from support.model_folders import copied, describe, load_folder, rewrite, save_folder, shards, zeros_like
from torpor.adapters.demo_model import Loaded, small_model, start_session
from torpor.adapters.shards import shard_lines, shard_paths
from torpor.adapters.transformers import TransformersTarget
from torpor.cli import entry
from torpor.state.remembered import MAX_VALUE_BYTES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(small_model(), tmp_path_factory.mktemp("models") / "m")


class Told(list[int]):
    """A progress that keeps how many bytes there were to read."""

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        self.append(total_bytes)

    @property
    def bytes(self) -> int:
        return max(self, default=0)


def target(loaded: Loaded, told: Told) -> Any:
    return TransformersTarget(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor, progress=told)


def test_the_routes(daemon: Daemon) -> None:
    path = "/v1/remembered/digest/shard:0a1b"
    assert daemon.request("GET", path).status_code == 404
    assert daemon.request("PUT", path, json={"b": [1, 2.5, None]}).status_code == 204
    assert daemon.request("GET", path).json() == {"b": [1, 2.5, None]}
    assert daemon.request("PUT", path, content=b"{").status_code == 422
    assert daemon.request("GET", path).json() == {"b": [1, 2.5, None]}
    large = b'"' + b"a" * MAX_VALUE_BYTES + b'"'
    assert daemon.request("PUT", path, content=large[2:]).status_code == 422
    assert daemon.request("PUT", path, content=large).status_code == 413
    assert daemon.request("PUT", path, content=large.replace(b"aa", b"", 1)).status_code == 204
    for wrong in ("/v1/remembered/other/k", "/v1/remembered/digest/UPPER", "/v1/remembered/digest/" + "a" * 201):
        assert daemon.request("GET", wrong).status_code == 422
        assert daemon.request("PUT", wrong, json=1).status_code == 422
    assert daemon.request("GET", path, token="wrong").status_code == 401
    assert daemon.request("GET", path).content == large.replace(b"aa", b"", 1)


def test_a_model_is_read_by_the_first_process_alone(shared_daemon: Daemon, folder: Path) -> None:
    """The first one saves; the next ones, with keepers and models of their own, read no weights."""
    with shared_daemon.keeper() as keeper:
        session = start_session(load_folder(folder), prompt_tokens=60)
        session.generate(max_new_tokens=3, do_sample=False, pad_token_id=0)
        keeper.save("read-once", session).wait(60)
    for _ in range(2):
        told = Told()
        with shared_daemon.keeper() as keeper:
            assert keeper.restore("read-once", target(load_folder(folder), told)).mode == "full"
        assert told == []
    other, told = load_folder(folder), Told()
    other.model.lm_head.weight.data[7] += 1
    with shared_daemon.keeper() as keeper:
        plan = keeper.plan("read-once", target(other, told))
    assert plan.layers["kv_cache"][0] == "rebuild"
    assert told.bytes > 5_000_000


def test_shards_are_remembered_by_the_daemon(shared_daemon: Daemon, folder: Path) -> None:
    paths, told = shard_paths(str(folder)), Told()
    with shared_daemon.keeper() as keeper:
        first = shard_lines(paths, keeper.memory, told, clock=lambda: 10**20)
    assert told.bytes == sum(path.stat().st_size for path in shards(folder))
    told.clear()
    with shared_daemon.keeper() as keeper:
        assert shard_lines(paths, keeper.memory, told, clock=lambda: 10**20) == first
    assert told.bytes == 0


def test_a_daemon_that_is_gone_fails_no_fingerprint(daemon: Daemon, folder: Path) -> None:
    expected = describe(small_model()).fingerprint
    with daemon.keeper() as keeper:
        waking = target(load_folder(folder), Told())
        waking.use_memory(keeper.memory)
        daemon.kill()
        assert waking.describe().fingerprint == expected
    late = target(load_folder(folder), Told())
    late.use_memory(keeper.memory)  # of a keeper that is closed
    assert late.describe().fingerprint == expected


Command = Callable[..., Any]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """A command in this process, where torch is loaded already; with --json its object."""

    def call(home: Path, *words: str | Path, status: int = 0) -> Any:
        monkeypatch.setenv("TORPOR_HOME", str(home))
        monkeypatch.setenv("COLUMNS", "140")
        monkeypatch.setattr(sys, "argv", ["torpor", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            entry.main()
        except SystemExit as done:
            code = int(done.code or 0)
        out = capsys.readouterr().out
        assert code == status, out
        return orjson.loads(out) if "--json" in words else " ".join(out.split())

    return call


def test_the_command(home: Path, folder: Path, tmp_path: Path, command: Command) -> None:
    found = as_json(home, "fingerprint", folder)  # a process of its own, once
    assert found["fingerprint"] == describe(small_model()).fingerprint.to_dict()
    assert found["notes"] == {}
    other = copied(folder, tmp_path / "m")
    shards(other)[0].unlink()
    text = command(home, "fingerprint", other)
    assert "unknown: 1 of 4 shards are missing" in text
    assert found["fingerprint"]["tokenizer"] in text
    assert command(home, "fingerprint", tmp_path, "--json", status=3)["code"] == "not-found"
    (tmp_path / "config.json").write_text("{")
    assert command(home, "fingerprint", tmp_path, "--json", status=2)["code"] == "invalid-file"


def test_a_plan_into_a_folder(shared_daemon: Daemon, folder: Path, tmp_path: Path, command: Command) -> None:
    session = start_session(small_model(), prompt_tokens=60)
    session.generate(max_new_tokens=3, do_sample=False, pad_token_id=0)
    with shared_daemon.keeper() as keeper:
        keeper.save("into-a-folder", session).wait(60)
    home = shared_daemon.home

    def planned(place: Path) -> Any:
        return command(home, "plan", "into-a-folder", "--target", place, "--json")

    assert planned(folder)["mode"] == "full"
    told = tmp_path / "told.json"
    told.write_bytes(orjson.dumps(command(home, "fingerprint", folder, "--json")))
    assert planned(told)["mode"] == "full"
    other = copied(folder, tmp_path / "m")
    (shard,) = (s for s in shards(other) if b"lm_head.weight" in s.read_bytes()[:20_000])
    rewrite(shard, lambda tensors: zeros_like(tensors, "lm_head.weight"))
    assert planned(other)["layers"]["kv_cache"] == ["rebuild", "differs: weights"]
    shard.write_bytes(shard.read_bytes()[:-100])
    found = planned(other)
    assert found["layers"]["kv_cache"][0] == "rebuild"
    assert any("the file holds" in reason for _, reason in found["layers"].values())
