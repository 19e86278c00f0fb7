"""What an export does to files: it never replaces one, goes on where it was, and reads back what it wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from support.commands import as_json
from support.daemon import Daemon
from support.forked import Forked, clean_environment, start
from support.plain_states import restored_state, rich_state, same
from torpor.adapters.plain import PlainSession
from torpor.client import exporting
from torpor.client.transfer import EXPORT_FORMATS, ExportFormat
from torpor.state.errors import (
    Conflict,
    StoreFailed,
    StoreFull,
    TorporError,
)
from torpor.state.manifest import Manifest


def test_a_file_is_not_replaced_unless_asked(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.keeper() as keeper:
        keeper.save("s", PlainSession(rich_state())).wait(60)
    (tmp_path / "f").write_text("mine")
    problem = as_json(daemon.home, "export", "s", "-o", tmp_path / "f", status=4)
    assert problem["code"] == "file-exists"
    assert (tmp_path / "f").read_text() == "mine"
    assert as_json(daemon.home, "export", "s", "-o", tmp_path / "f", "--force")["path"] == str(tmp_path / "f")
    assert as_json(daemon.home, "import", tmp_path / "f")["known"]
    assert as_json(daemon.home, "export", "s", "-o", tmp_path / "no" / "f", status=2)["hint"]
    assert as_json(daemon.home, "export", "s", "-o", tmp_path, status=2)["hint"]
    assert as_json(daemon.home, "export", "s", "--format", "zip", status=2)["hint"]
    named = as_json(daemon.home, "export", "s", "--format", "v1", cwd=tmp_path)["path"]
    assert Path(named).parent == tmp_path
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert as_json(daemon.home, "export", "s", "-o", tmp_path / "link", status=4)["code"] == "file-exists"


@pytest.mark.parametrize("kind", EXPORT_FORMATS)
def test_an_export_goes_on_where_it_was(daemon: Daemon, tmp_path: Path, kind: ExportFormat) -> None:
    with daemon.keeper() as keeper:
        keeper.save("s", PlainSession(rich_state())).wait(60)
        whole = keeper.export("s", tmp_path / "whole", kind)
        raw = (tmp_path / "whole").read_bytes()
        cut = len(raw) * 2 // 3
        for there, kept in (
            (raw[:cut], cut),
            (raw[:1000] + b"?" + raw[1001:cut], 1000),
            (raw + b"more", len(raw)),
            (b"", 0),
        ):
            (tmp_path / "f.partial").write_bytes(there)
            done = keeper.export("s", tmp_path / "f", kind, force=True)
            assert (done.resumed_bytes, done.digest) == (kept, whole.digest)
            assert (tmp_path / "f").read_bytes() == raw


def test_progress_covers_writing_and_reading_back(daemon: Daemon, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    with daemon.keeper() as keeper:
        keeper.save("s", PlainSession({"vision_cache": torch.randn(6, 1024, 1024)})).wait(60)
        keeper.export("s", tmp_path / "f", "bundle", lambda done, total: steps.append((done, total)))
        total = steps[-1][1]
        assert [t for _, t in steps] == [total] * len(steps)
        assert [d for d, _ in steps] == sorted(d for d, _ in steps)
        assert steps[-1][0] == total
        assert sum(total / 2 < done < total for done, _ in steps) > 5  # what is read back
        del steps[:]
        keeper.import_file(tmp_path / "f", "t", lambda done, total: steps.append((done, total)))
        assert steps[-1][0] == steps[-1][1] == 2 * (tmp_path / "f").stat().st_size


def test_two_exports_do_not_write_one_file(daemon: Daemon, tmp_path: Path) -> None:
    import fcntl

    with daemon.keeper() as keeper, (tmp_path / "f.partial").open("wb") as held:
        keeper.save("s", PlainSession({"text_context": {}})).wait(60)
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Conflict):
            keeper.export("s", tmp_path / "f")


def test_an_export_that_finds_no_room_can_be_gone_on_with(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.keeper() as keeper:
        keeper.save("s", PlainSession(rich_state())).wait(60)
    limited = ["bash", "-c", 'ulimit -f 100; exec "$@"', "-"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORPOR_")}
    command = [*limited, sys.executable, "-m", "torpor.cli.entry", "export", "s", "-o", str(tmp_path / "f"), "--json"]
    done = subprocess.run(command, env=environment | {"TORPOR_HOME": str(daemon.home)}, capture_output=True)
    assert orjson.loads(done.stdout)["code"] == StoreFull.code
    assert not (tmp_path / "f").exists()
    assert as_json(daemon.home, "export", "s", "-o", tmp_path / "f")["resumed_bytes"] >= 100 << 10


def test_damage_in_the_store_is_not_exported(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.keeper() as keeper:
        keeper.save("s", PlainSession(rich_state())).wait(60)
        blob = max(daemon.blob_files(), key=lambda p: p.stat().st_size)
        raw = bytearray(blob.read_bytes())
        raw[100] ^= 1
        blob.write_bytes(raw)
        for kind in EXPORT_FORMATS:
            with pytest.raises(TorporError) as caught:
                keeper.export("s", tmp_path / "f", kind)
            assert caught.value.code == "blob-damaged"
    assert list(tmp_path.iterdir()) == []


def begin(home: Path, *words: str | Path) -> Forked:
    with tempfile.TemporaryFile() as nowhere:
        environment = clean_environment() | {"TORPOR_HOME": str(home)}
        return start([*map(str, words), "--json"], environment, stdout=nowhere, stderr=nowhere)


def wait_for(condition: Any, process: Forked) -> None:
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)


def test_kill_9_in_the_middle(daemon: Daemon, tmp_path: Path) -> None:
    """Of an export, then of an import: neither leaves half a thing, and the next run goes on."""
    state = {"vision_cache": {"e": torch.randn(24, 1024, 1024)}, "text_context": {"t": "x"}}
    with daemon.keeper() as keeper:
        keeper.save("s", PlainSession(state)).wait(60)
    process = begin(daemon.home, "export", "s", "-o", tmp_path / "f")
    partial = tmp_path / "f.partial"
    wait_for(lambda: partial.exists() and partial.stat().st_size > 8 << 20, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "f").exists()
    done = as_json(daemon.home, "export", "s", "-o", tmp_path / "f")
    assert done["resumed_bytes"] >= 8 << 20
    as_json(daemon.home, "rm", "--session", "s")
    for blob in daemon.blob_files():
        blob.unlink()
    process = begin(daemon.home, "import", tmp_path / "f")
    wait_for(lambda: len(daemon.blob_files()) > 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert as_json(daemon.home, "ls")["backups"] == []
    there = len(daemon.blob_files())
    made = as_json(daemon.home, "import", tmp_path / "f")
    assert (made["known"], made["id"]) == (False, done["id"])
    assert len(daemon.blob_files()) >= there > 3
    with daemon.keeper() as keeper:
        assert same(restored_state(keeper, "s"), state)


@pytest.mark.parametrize("kind", EXPORT_FORMATS)
def test_memory_does_not_grow_with_the_file(daemon: Daemon, tmp_path: Path, kind: ExportFormat) -> None:
    """Under four times the largest tensor (8 MiB) plus 64 MiB, the interpreter and all libraries included."""
    tensors = [torch.randn(2, 1024, 1024, generator=torch.Generator().manual_seed(i)) for i in range(20)]
    with daemon.keeper() as keeper:
        keeper.save("big", PlainSession({"vision_cache": {"e": tensors}})).wait(60)
    limit = 4 * (8 << 20) + (64 << 20)
    assert peak_bytes(daemon.home, "export", "big", "--format", kind, "-o", tmp_path / "f") < limit
    assert (tmp_path / "f").stat().st_size > 2 * limit * 0.8
    assert peak_bytes(daemon.home, "import", tmp_path / "f", "--session", "again") < limit


# A process starts with the peak of the one that forked it, so a small one stands between.
MEASURE = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)
sys.exit(status)
"""


def peak_bytes(home: Path, *words: str | Path) -> int:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TORPOR_")} | {"TORPOR_HOME": str(home)}
    command = [sys.executable, "-m", "torpor.cli.entry", *map(str, words), "--json"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *command], env=environment, check=True, stdout=subprocess.PIPE
    )
    return int(done.stdout)


def test_what_reads_back_as_something_else_gets_no_name(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that stores other bytes, and a writer that makes a sound file of another state."""
    really_write, really_v1 = exporting._write_at, exporting.write_v1

    def other_bytes(file: Any, view: memoryview, at: int) -> None:
        really_write(file, memoryview(bytes(b ^ (at + i == 700) for i, b in enumerate(view))), at)

    def other_state(manifest: Manifest, *args: Any, **options: Any) -> Any:
        layers = {**manifest.layers, "config_snapshot": {"temperature": 0.1}}
        return really_v1(replace(manifest, layers=layers), *args, **options)

    with daemon.keeper() as keeper:
        keeper.save("s", PlainSession({"config_snapshot": {"temperature": 0.7, "text": "x" * 900}})).wait(60)
        with monkeypatch.context() as patch:
            patch.setattr(exporting, "_write_at", other_bytes)
            for kind in ("bundle", "safetensors"):
                with pytest.raises(StoreFailed, match="reads back as something else"):
                    keeper.export("s", tmp_path / "f", kind)
        with monkeypatch.context() as patch:
            patch.setattr(exporting, "write_v1", other_state)
            with pytest.raises(StoreFailed, match="does not read back as the backup"):
                keeper.export("s", tmp_path / "g", "v1")
        assert not (tmp_path / "f").exists()
        assert not (tmp_path / "g").exists()
        assert keeper.export("s", tmp_path / "f", "safetensors").resumed_bytes == 700  # the same command mends it
