"""A plain nested state goes there and back, and the commit of a manifest by hand."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from support.daemon import Daemon
from support.manifests import manifest
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.codec import manifest_file
from torpor.state.errors import Conflict, InvalidId, MissingBlobs, TorporError, UnsupportedState
from torpor.state.problems import from_problem

STATE: dict[str, Any] = {
    "metadata": {"model_name": "qwen3-vl-8b-instruct", "timestamp": 1717034400.123, "nan": math.nan},
    "vision_cache": {
        "image_embeddings": [torch.randn(1, 576, 64).to(torch.bfloat16), torch.randn(3, 4)[:, ::2]],
        "video_frame_index": {0: [1, 2], 7: None, -1: "x"},
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.zeros(0, 5, dtype=torch.int8),
        "numpy": np.arange(12, dtype=np.int16).reshape(3, 4).T,
        "ocr": "总额为 42.00 欧元。🙂 \ufeff \0 \r\n",
    },
    "text_context": {"conversation_history": [{"role": "user", "content": "hello"}], "kv_cache_pruned": True},
    "config_snapshot": {"temperature": 0.7, "stop": ("a", "b"), "seed": 2**70, "inf": -math.inf},
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


@pytest.mark.parametrize("remote", [False, True])
def test_every_value_comes_back_as_it_was(shared_daemon: Daemon, remote: bool) -> None:
    with shared_daemon.remote_keeper() if remote else shared_daemon.keeper() as keeper:
        backup = keeper.save("plain", PlainSession(STATE)).wait(60)
        woken = keeper.restore("plain", PlainTarget(), require="full")
    assert woken.backup == backup
    # The layers stand in one canonical order; within a layer nothing moves.
    assert {name: same(STATE[name], woken.session.state[name]) for name in STATE} == dict.fromkeys(STATE, True)


def test_what_is_not_a_layer_is_refused(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper, pytest.raises(UnsupportedState, match="extra"):
        keeper.save("plain", PlainSession({"extra": 1}))


@pytest.mark.parametrize("session_id", ["", "../x", "a/b", "a\0", "x" * 200])
def test_hostile_session_ids_are_refused_before_anything_is_written(shared_daemon: Daemon, session_id: str) -> None:
    with shared_daemon.keeper() as keeper:
        before = keeper.api.status()["backups"]
        with pytest.raises(InvalidId):
            keeper.save(session_id, PlainSession({"metadata": {}}))
        with pytest.raises(InvalidId):
            keeper.restore(session_id, PlainTarget())
        assert keeper.api.status()["backups"] == before


def test_a_change_after_the_save_is_not_part_of_it(shared_daemon: Daemon) -> None:
    state = {"metadata": {"list": [1]}, "vision_cache": {"t": torch.zeros(100_000)}}
    with shared_daemon.keeper() as keeper:
        handle = keeper.save("snapshot", PlainSession(state))
        state["metadata"]["list"].append(2)
        state["vision_cache"]["t"].fill_(9)
        handle.wait(60)
        back = keeper.restore("snapshot", PlainTarget()).session.state
    assert back["metadata"] == {"list": [1]}
    assert not back["vision_cache"]["t"].any()


def test_a_manifest_without_its_blobs_is_not_committed(shared_daemon: Daemon) -> None:
    raw, backup_id = manifest_file.dump(manifest()), manifest().id
    answer = shared_daemon.request("PUT", f"/v1/backups/{backup_id}", content=raw)
    error = from_problem(answer.json())
    assert isinstance(error, MissingBlobs)
    assert set(error.digests) == {"a" * 64, "b" * 64, "c" * 64}
    assert shared_daemon.request("GET", f"/v1/backups/{backup_id}").status_code == 404
    assert not (shared_daemon.home / "store" / "manifests" / f"{backup_id}.qwnbak").exists()


def test_an_id_cannot_be_used_twice(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        backup = keeper.save("twice", PlainSession({"metadata": {"n": 1}})).wait(60)
        raw = keeper.api.manifest(backup.id)
        assert keeper.api.commit(backup.id, raw) == backup
        changed = orjson.dumps(orjson.loads(raw) | {"tokens": 5})
        with pytest.raises(Conflict):
            keeper.api.commit(backup.id, changed)
        assert keeper.api.manifest(backup.id) == raw


def test_sessions_of_every_kind_of_class_are_saved_or_refused_and_the_keeper_lives_on(shared_daemon: Daemon) -> None:
    from dataclasses import dataclass, field

    from torpor.client import Capture

    @dataclass
    class Unhashable:
        state: dict[str, Any] = field(default_factory=dict)

        def capture(self) -> Capture:
            return PlainSession({"metadata": self.state}).capture()

    @dataclass(slots=True)
    class Unfollowable(Unhashable):
        pass

    class Broken(PlainSession):
        def capture(self) -> Capture:
            capture = super().capture()
            capture.fingerprint = lambda: 1 / 0  # type: ignore[assignment,return-value]
            return capture

    with shared_daemon.keeper() as keeper:
        session = Unhashable()
        first = keeper.save("kinds", session).wait(60)
        assert keeper.save("kinds", session).wait(60).parent_id == first.id
        with pytest.raises(TorporError, match="ZeroDivisionError"):
            keeper.save("kinds", Broken({"metadata": {}})).wait(60)
        assert keeper.save("kinds", PlainSession({"metadata": {}})).wait(60).parent_id is None


def test_a_session_without_weak_references_is_refused(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper, pytest.raises(UnsupportedState, match="weak references"):
        keeper.save("kinds", {"metadata": {}})  # type: ignore[arg-type]


def test_a_keeper_that_nobody_closes_is_closed_at_the_end(daemon: Daemon) -> None:
    """A thread that frees tensors while the interpreter ends would abort the process."""
    script = """
import atexit
from torpor.adapters.plain import PlainSession
from torpor.client import connect
keeper = connect()
atexit.register(lambda: print(keeper._saver.is_running()))
keeper.save("s", PlainSession({"text_context": {}})).wait()
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=daemon.environment(), capture_output=True, text=True, cwd="/")
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


def test_saves_that_were_started_are_finished_when_the_process_ends(daemon: Daemon) -> None:
    """By then the interpreter lets no pool start anything."""
    script = """
from torpor.adapters.plain import PlainSession
from torpor.client import connect
keeper = connect()
for i in range(10):
    keeper.save(f"s{i}", PlainSession({"text_context": {"said": bytes([i]) * 1_000_000}}))
"""
    done = subprocess.run([sys.executable, "-c", script], env=daemon.environment(), capture_output=True, cwd="/")
    assert done.returncode == 0, done.stderr.decode()
    with daemon.keeper() as keeper:
        assert sorted(each.session_id for each in keeper.api.backups()) == [f"s{i}" for i in range(10)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_that_ends_leaves_the_files_of_its_parent(daemon: Daemon) -> None:
    script = """
import os, sys
from torpor.adapters.plain import PlainSession
from torpor.client import connect
keeper = connect()
for said in (b"1", b"2"):
    keeper.save("s", PlainSession({"text_context": {"said": said * 100_000}})).wait(60)
    child = os.fork()
    if not child:
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", script], env=daemon.environment(), capture_output=True, cwd="/")
    assert done.returncode == 0, done.stderr.decode()
