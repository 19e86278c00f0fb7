"""Backups as files and files as backups: every format, by the SDK and by the command line, over real daemons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.caches import CacheSession, CacheTarget
from support.commands import as_json
from support.daemon import Daemon, new_daemon
from support.plain_states import restored_state, rich_state, same
from torpor.adapters.plain import PlainSession
from torpor.client.transfer import EXPORT_FORMATS, ExportFormat
from torpor.codec import manifest_file
from torpor.codec.bundle import MANIFEST_NAME, header
from torpor.state.errors import (
    BackupNotFound,
    BadInput,
    Conflict,
    FileDamaged,
    InvalidFile,
    MissingExtra,
    NewerFormat,
    TorporError,
    UnknownFormat,
    UnsupportedState,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "v1"


@pytest.fixture
def other() -> Iterator[Daemon]:
    """The machine that a file is carried to."""
    with new_daemon() as running:
        yield running


@pytest.mark.parametrize("kind", EXPORT_FORMATS)
@pytest.mark.parametrize("remote", [False, True], ids=["files", "http"])
def test_a_plain_state_survives_every_format(
    shared_daemon: Daemon, other: Daemon, tmp_path: Path, kind: ExportFormat, remote: bool
) -> None:
    state = rich_state()
    with shared_daemon.remote_keeper() if remote else shared_daemon.keeper() as keeper:
        backup = keeper.save("rich", PlainSession(state)).wait(60)
        done = keeper.export(backup.id, tmp_path / "f", kind)
    assert done.size_bytes == (tmp_path / "f").stat().st_size
    assert (done.losses.changed, done.losses.left_out) == ({}, {})
    assert not (tmp_path / "f.partial").exists()
    with other.remote_keeper() if remote else other.keeper() as keeper:
        made = keeper.import_file(tmp_path / "f")
        assert same(restored_state(keeper, made.backup.id), state)
        assert made.backup.session_id == "rich"
        assert (made.backup.id == backup.id) == (kind != "v1")
        again = keeper.import_file(tmp_path / "f")
        assert (again.known, again.backup.id) == (True, made.backup.id)
        elsewhere = keeper.import_file(tmp_path / "f", "another")
        assert (elsewhere.known, elsewhere.backup.session_id) == (False, "another")
        assert elsewhere.backup.bytes_written < 20_000  # its tensors are there already
        assert same(restored_state(keeper, "another"), state)
        assert len(keeper.api.backups()) == 2


@pytest.mark.parametrize("kind", ["bundle", "safetensors"])
def test_a_kv_cache_is_carried_to_another_machine(
    daemon: Daemon, other: Daemon, tmp_path: Path, kind: ExportFormat
) -> None:
    session = CacheSession(layers=3, heads=2, dim=16)
    session.grow(200, 7)
    with daemon.keeper() as keeper:
        backup = keeper.save("kv", session).wait(60)
        keeper.export("kv", tmp_path / "f", kind)
    with other.keeper() as keeper:
        assert keeper.import_file(tmp_path / "f").backup.manifest_digest == backup.manifest_digest
        woken = keeper.restore("kv", CacheTarget(), require="full")
        assert woken.session.digest() == session.digest()


def test_other_tools_read_the_kv_cache(daemon: Daemon, tmp_path: Path) -> None:
    session = CacheSession(layers=3, heads=2, dim=16)
    session.grow(150, 7)
    with daemon.keeper() as keeper:
        keeper.save("kv", session).wait(60)
        keeper.export("kv", tmp_path / "f.safetensors", "safetensors")
        left_out = keeper.export("kv", tmp_path / "f.qwnbak", "v1").losses.left_out
        assert left_out.keys() == {"tokens", "kv_cache", "fingerprint"}
    found = load_file(tmp_path / "f.safetensors")
    cache = torch.cat([found[f"kv_cache.block.{i:06}"] for i in range(3)], dim=4)
    for i, layer in enumerate(session.cache.layers):
        assert torch.equal(cache[i, 0], layer.keys)
        assert torch.equal(cache[i, 1], layer.values)


def test_strict_v1_is_what_its_first_reader_took(daemon: Daemon, tmp_path: Path) -> None:
    state = {
        "metadata": {"model_name": "m"},
        "vision_cache": {
            "e": torch.tensor([1.0, 1e-9, 1e30, float("inf")], dtype=torch.bfloat16),
            "large": torch.randn(3, 700, 1000, generator=torch.Generator().manual_seed(1)),
            "index": {0: "a", 15: "b"},
        },
        "text_context": {"t": (1, 2), "long": "é\n" * 50_000},
    }
    with daemon.keeper() as keeper:
        keeper.save("s", PlainSession(state)).wait(60)
        done = keeper.export("s", tmp_path / "f", "v1", strict=True)
        losses = done.losses.changed
        assert losses["/vision_cache/e"] == "bfloat16 became float16: 2 of 4 values changed, 1 became infinite"
        assert losses["/vision_cache/large"].startswith("float32 became float16: ")
        assert losses["/vision_cache/index"] == "keys that are no text became text"
        assert losses["/text_context/t"] == "a tuple became a list"
        found = first_reader((tmp_path / "f").read_bytes())
        assert torch.equal(found["vision_cache"]["e"], state["vision_cache"]["e"].half())
        assert torch.equal(found["vision_cache"]["large"], state["vision_cache"]["large"].half())
        assert found["vision_cache"]["index"] == {"0": "a", "15": "b"}
        assert found["text_context"] == {"t": [1, 2], "long": "é\n" * 50_000}
        for value in (float("nan"), b"bytes", torch.arange(3), 10**30):
            keeper.save("s", PlainSession({"text_context": {"v": value}})).wait(60)
            with pytest.raises(UnsupportedState, match="/text_context/v"):
                keeper.export("s", tmp_path / "g", "v1", strict=True)
            assert not list(tmp_path.glob("g*"))


def first_reader(raw: bytes) -> Any:
    """The reader that v1 came with, as its users have it."""
    import base64

    import lz4.frame
    import numpy as np

    def tensor(node: Any) -> Any:
        if isinstance(node, dict) and "compressed" in node:
            data = lz4.frame.decompress(base64.b64decode(node["data"]))
            return torch.from_numpy(np.frombuffer(data, np.float16).reshape(node["shape"]).copy())
        if isinstance(node, dict):
            return {k: tensor(v) for k, v in node.items()}
        return [tensor(v) for v in node] if isinstance(node, list) else node

    return tensor(orjson.loads(lz4.frame.decompress(raw)))


def test_import_says_what_it_made(daemon: Daemon) -> None:
    value = as_json(daemon.home, "import", FIXTURES / "code-8b.qwnbak", "--session", "chat")
    assert value["session_id"] == "chat"
    assert as_json(daemon.home, "show", value["id"])["model_name"] == "qwen3-vl-8b-instruct"
    assert not value["known"]
    assert as_json(daemon.home, "import", FIXTURES / "code-8b.qwnbak", "--session", "chat")["known"]
    assert as_json(daemon.home, "import", FIXTURES / "text-only.qwnbak")["session_id"] == "text-only"


def test_a_folder_is_imported_as_far_as_it_can_be(daemon: Daemon) -> None:
    value = as_json(daemon.home, "import", FIXTURES, status=2)
    assert sorted(Path(v["path"]).stem for v in value["imported"]) == ["bf16-4b", "code-8b", "spec-8b", "text-only"]
    assert len(value["failed"]) == len(list(FIXTURES.glob("bad-*")))
    assert all(entry["problem"]["code"] for entry in value["failed"])
    assert {v["id"] for v in value["imported"]} == {b["id"] for b in as_json(daemon.home, "ls")["backups"]}
    assert all(v["known"] for v in as_json(daemon.home, "import", FIXTURES, status=2)["imported"])


def test_a_bad_file_changes_nothing(daemon: Daemon, tmp_path: Path) -> None:
    good = FIXTURES / "code-8b.qwnbak"
    (tmp_path / "cut.qwnbak").write_bytes(good.read_bytes()[:-2000])
    with daemon.keeper() as keeper:
        keeper.save("rich", PlainSession(rich_state())).wait(60)
        keeper.export("rich", tmp_path / "f", "bundle")
        keeper.api.call("DELETE", f"/v1/backups/{keeper.api.backup('rich').id}")
        before = daemon.blob_files()
        raw = (tmp_path / "f").read_bytes()
        (tmp_path / "torn").write_bytes(raw[:-3000])
        (tmp_path / "flipped").write_bytes(raw[:-3000] + bytes([raw[-3000] ^ 1]) + raw[-2999:])
        for name in ("cut.qwnbak", "torn", "flipped"):
            with pytest.raises(FileDamaged):
                keeper.import_file(tmp_path / name)
        for path in FIXTURES.glob("bad-*"):
            with pytest.raises(BadInput):
                keeper.import_file(path)
        assert keeper.api.backups() == []
    assert [p for p in daemon.blob_files() if p not in before] == []


@pytest.mark.parametrize(
    ("head", "error"),
    [(b"", FileDamaged), (b"hello", UnknownFormat), (b"\x7fELF" * 200, UnknownFormat), (b"PK\x03\x04rest", FileDamaged)],
    ids=["empty", "text", "program", "zip"],
)  # fmt: skip
def test_other_files_are_refused(shared_daemon: Daemon, tmp_path: Path, head: bytes, error: type[TorporError]) -> None:
    (tmp_path / "f").write_bytes(head)
    with shared_daemon.keeper() as keeper, pytest.raises(error):
        keeper.import_file(tmp_path / "f")


def test_what_is_no_file_is_refused(shared_daemon: Daemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(FIXTURES / "text-only.qwnbak")
    with shared_daemon.keeper() as keeper:
        with pytest.raises(BadInput):
            keeper.import_file(tmp_path / "fifo")
        with pytest.raises(TorporError):
            keeper.import_file(tmp_path / "link", follow=False)
        with pytest.raises(TorporError):
            keeper.import_file(tmp_path / "absent")
        assert keeper.import_file(tmp_path / "link").backup.session_id == "link"


def test_a_bundle_of_a_newer_version_says_so(shared_daemon: Daemon, tmp_path: Path) -> None:
    with shared_daemon.keeper() as keeper:
        keeper.save("n", PlainSession({"text_context": {}})).wait(60)
        keeper.export("n", tmp_path / "f", "bundle")
        raw = bytearray((tmp_path / "f").read_bytes())
        raw[:13] = b"qwen-state-v3"
        (tmp_path / "f").write_bytes(raw)
        with pytest.raises(NewerFormat):
            keeper.import_file(tmp_path / "f")


def test_safetensors_of_other_programs(daemon: Daemon, tmp_path: Path) -> None:
    tensors = {"a.weight": torch.randn(30, 400), "empty": torch.zeros(0, 4), "b": torch.arange(9, dtype=torch.uint8)}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"who": "me"})
    with daemon.keeper() as keeper:
        keeper.import_file(tmp_path / "m.safetensors")
        state = restored_state(keeper, "m")
    assert same(dict(sorted(state["vision_cache"].items())), dict(sorted(tensors.items())))
    assert state["metadata"] == {"format": "safetensors", "header": {"who": "me"}}


def test_pt_files(daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {
        "metadata": {"model_name": "m", "timestamp": 1750000000.0, "session_id": "from-the-file"},
        "vision_cache": {"e": [torch.randn(1, 100, 640).to(torch.bfloat16)], 3: torch.randn(4, 4).t()},
        "text_context": {"t": (1, None), "long": "ä" * 40_000, "nan": float("nan")},
    }
    torch.save(state, tmp_path / "a.pt")
    torch.save({"x": torch.ones(3)}, tmp_path / "flat.pt")
    torch.save(torch.ones(3), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"path": Path("/")}, tmp_path / "evil.pt")
    with daemon.keeper() as keeper:
        assert keeper.import_file(tmp_path / "a.pt").backup.session_id == "from-the-file"
        assert same(restored_state(keeper, "from-the-file"), state)
        keeper.import_file(tmp_path / "flat.pt")
        assert same(restored_state(keeper, "flat")["vision_cache"], {"x": torch.ones(3)})
        keeper.import_file(tmp_path / "old.pt")
        assert same(restored_state(keeper, "old")["vision_cache"], {"value": torch.ones(3)})
        with pytest.raises(UnsupportedState, match=r"pathlib\.\w+"):
            keeper.import_file(tmp_path / "evil.pt")
        monkeypatch.setattr("torpor.codec.pt_file.find_spec", lambda name: None)
        with pytest.raises(MissingExtra) as caught:
            keeper.import_file(tmp_path / "a.pt", "again")
        assert "torpor[transformers]" in caught.value.hint


def test_an_old_state_is_not_expired_when_it_comes(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.keeper(clock=lambda: 1_600_000_000.0) as keeper:
        keeper.save("old", PlainSession({"text_context": {}})).wait(60)
        keeper.export("old", tmp_path / "f")
        backup = keeper.api.backup("old")
    assert backup.created_at == 1_600_000_000.0
    assert backup.expires_at is not None
    assert backup.expires_at > time.time() + 86_400
    daemon.stop()
    (daemon.home / "index.sqlite").unlink()
    with Daemon(daemon.home) as again, again.keeper() as keeper:
        assert keeper.api.backup("old").expires_at == backup.expires_at


def test_what_v1_carries_does_not_become_the_newest(daemon: Daemon, tmp_path: Path) -> None:
    """It holds less than the backup that it was exported from."""
    session = CacheSession()
    session.grow(70, 1)
    with daemon.keeper() as keeper:
        backup = keeper.save("s", session).wait(60)
        keeper.export("s", tmp_path / "f.qwnbak", "v1")
        assert not keeper.import_file(tmp_path / "f.qwnbak").known
        assert len(keeper.api.backups(session_id="s")) == 2
        assert keeper.api.backup("s").id == backup.id


def test_a_v1_file_of_ours_says_when_the_state_was_captured(daemon: Daemon, tmp_path: Path) -> None:
    """Whatever the user's own timestamp says."""
    with daemon.keeper() as keeper:
        backup = keeper.save("s", PlainSession({"metadata": {"timestamp": 1.0}})).wait(60)
        keeper.export("s", tmp_path / "f.qwnbak", "v1")
        made = keeper.import_file(tmp_path / "f.qwnbak", "other").backup
        assert made.created_at == pytest.approx(backup.created_at, abs=0.001)
        assert restored_state(keeper, "other") == {"metadata": {"timestamp": 1.0}}


def test_a_manifest_without_its_blobs_is_named(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.keeper() as keeper:
        backup = keeper.save("s", PlainSession({"text_context": {}})).wait(60)
        with pytest.raises(UnknownFormat) as caught:
            keeper.import_file(daemon.home / "store" / "manifests" / f"{backup.id}.qwnbak")
        assert "bundle" in caught.value.hint
        with pytest.raises(BackupNotFound):
            keeper.export("01M81P35719XNDZ4R57NMV6DYZ", tmp_path / "f")


def test_a_changed_bundle_under_a_known_id_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.keeper() as keeper:
        backup = keeper.save("s", PlainSession({"text_context": {"a": 1}})).wait(60)
        raw = keeper.api.manifest(backup.id)
        for name, changed, error in (
            ("other", raw.replace(b'"a":1', b'"a":2'), Conflict),
            ("newer", raw.replace(b"qwen-state/v2", b"qwen-state/v9"), InvalidFile),
        ):
            assert changed != raw
            packed = manifest_file.pack(changed)
            padded = packed + bytes(-len(packed) % 512)
            (tmp_path / name).write_bytes(header(MANIFEST_NAME, len(packed)) + padded + bytes(1024))
            with pytest.raises(error):
                keeper.import_file(tmp_path / name)
        assert keeper.api.manifest(backup.id) == raw


def test_the_worker_of_watched_folders(daemon: Daemon, tmp_path: Path) -> None:
    """One line a request, one a file; it says when somebody still writes."""
    good, bad = tmp_path / "good.qwnbak", tmp_path / "bad.qwnbak"
    good.write_bytes((FIXTURES / "code-8b.qwnbak").read_bytes())
    bad.write_bytes(b"nothing")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORPOR_")}
    worker = subprocess.Popen(
        [sys.executable, "-m", "torpor.client.import_worker"],
        env=environment | {"TORPOR_HOME": str(daemon.home)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert worker.stdin is not None
    assert worker.stdout is not None

    def ask(path: Path, expected: dict[str, int] | None = None) -> Any:
        request = {"path": str(path), "session_id": None, "expected": expected}
        worker.stdin.write(json.dumps(request).encode() + b"\n")
        worker.stdin.flush()
        return orjson.loads(worker.stdout.readline())

    with good.open("ab"):
        assert ask(good)["outcome"] == "busy"
    answer = ask(good)
    status = good.stat()
    assert (answer["outcome"], answer["backup"]["session_id"]) == ("imported", "good")
    assert answer["seen"] == {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
    assert ask(good)["outcome"] == "known"
    assert ask(good, answer["seen"] | {"inode": 0})["outcome"] == "known"
    assert ask(good, answer["seen"] | {"inode": status.st_ino + 1})["outcome"] == "busy"
    assert ask(bad)["problem"]["code"] == "unknown-format"
    gone = ask(tmp_path / "gone.qwnbak")
    assert (gone["outcome"], gone["seen"]) == ("failed", None)
    worker.stdin.close()
    assert worker.wait(30) == 0
    worker.stdout.close()
