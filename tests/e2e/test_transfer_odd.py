"""Files in and out, for odd states, odd names, races, and files that were made to do harm."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from safetensors.torch import save_file
from support.daemon import Daemon
from support.plain_states import same
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.cli import transfer
from torpor.client import Keeper
from torpor.client.importing import Imported
from torpor.client.transfer import EXPORT_FORMATS, ExportFormat
from torpor.codec import manifest_file
from torpor.codec.bundle import blob_refs
from torpor.codec.safetensors_file import write_safetensors
from torpor.state.backup import Backup
from torpor.state.errors import (
    BadInput,
    FileChanged,
    FileDamaged,
    FileExists,
    InvalidFile,
    StoreFailed,
    StoreFull,
    TooLarge,
    TorporError,
    UnsupportedState,
)
from torpor.state.manifest import Manifest

ODD: dict[str, Any] = {
    "a long format": {"metadata": {"format": "x" * 3000, "model_name": "m"}},
    "a format of all kinds": {
        "metadata": {"version": (1,), "format": {1: torch.arange(3), "b": b"\0"}, "timestamp": 1}
    },
    "a format like a tensor": {"metadata": {"format": {"shape": [1], "dtype": "int8", "data": "", "compressed": True}}},
    "keys in another order": {"metadata": {"timestamp": 3.5, "other": 1, "model_name": "m"}},
    "a key that is a long text": {"metadata": {"k": {"y" * 40_000: 1, 2: 3}}},
    "a tensor far down": {"vision_cache": {"a" * 400: {"b" * 400: {"é" * 400: torch.ones(3)}}}},
}


@pytest.mark.parametrize("kind", ["v1", "safetensors"])
@pytest.mark.parametrize("name", ODD)
def test_an_odd_state_comes_back(shared_daemon: Daemon, tmp_path: Path, name: str, kind: ExportFormat) -> None:
    with shared_daemon.keeper() as keeper:
        keeper.save("odd", PlainSession(ODD[name])).wait(60)
        keeper.export("odd", tmp_path / "f", kind)
        keeper.import_file(tmp_path / "f", "odd-again")
        assert same(keeper.restore("odd-again", PlainTarget()).session.state, ODD[name])
        for backup in (*keeper.api.backups(session_id="odd"), *keeper.api.backups(session_id="odd-again")):
            keeper.api.call("DELETE", f"/v1/backups/{backup.id}")


def test_a_key_that_v1_cannot_carry_is_named(shared_daemon: Daemon, tmp_path: Path) -> None:
    with shared_daemon.keeper() as keeper:
        keeper.save("long-key", PlainSession({"metadata": {"k": {"y" * 1500: 1}}})).wait(60)
        with pytest.raises(UnsupportedState, match="/metadata/k") as caught:
            keeper.export("long-key", tmp_path / "f", "v1")
        assert "bundle" in caught.value.hint
        assert not list(tmp_path.iterdir())


def test_strict_v1_says_that_the_format_was_replaced(shared_daemon: Daemon, tmp_path: Path) -> None:
    with shared_daemon.keeper() as keeper:
        keeper.save("named", PlainSession({"metadata": {"format": "mine"}})).wait(60)
        done = keeper.export("named", tmp_path / "f", "v1", strict=True)
        assert done.losses.changed == {"/metadata/format": "became qwen-state/v1"}


def test_a_long_name_of_another_program_is_refused(shared_daemon: Daemon, tmp_path: Path) -> None:
    save_file({"x" * 2000: torch.ones(1)}, tmp_path / "f.safetensors")
    with shared_daemon.keeper() as keeper, pytest.raises(TooLarge):
        keeper.import_file(tmp_path / "f.safetensors")


@pytest.mark.parametrize("where", ["beside data", "inside a body", "as a key"])
def test_a_file_cannot_name_a_blob_that_it_does_not_hold(shared_daemon: Daemon, tmp_path: Path, where: str) -> None:
    """The store may have it, from another session."""
    with shared_daemon.keeper() as keeper:
        secret = "secret " * 10_000
        backup = keeper.save("victim", PlainSession({"text_context": {"s": secret}})).wait(60)
        ref = keeper.manifest(backup.id)[1].layers["text_context"]["s"]["$text"]
        blob = {"blocks": ref["blocks"], "size_bytes": ref["size_bytes"]}
        node = {
            "beside data": {"$text": {"size_bytes": 1, "data": "YQ==", "blocks": ref["blocks"]}},
            "inside a body": {"$bytes": {"size_bytes": 1, "data": "YQ==", "more": {"$text": blob}}},
            "as a key": {"$map": [[{"$text": blob}, 1]]},
        }[where]
        made = Manifest("01M81P35719XNDZ4R57NMV6DYZ", "thief", 1.0, "plain", {"metadata": {"x": node}})
        pieces = write_safetensors(manifest_file.dump(made), lambda _: memoryview(b""))
        (tmp_path / "f").write_bytes(b"".join(pieces))
        with pytest.raises((InvalidFile, FileDamaged)):
            keeper.import_file(tmp_path / "f")


@pytest.fixture
def keeper(shared_daemon: Daemon) -> Iterator[Keeper]:
    with shared_daemon.keeper() as connected:
        yield connected


def test_a_partial_file_of_another_program_is_left_alone(keeper: Keeper, tmp_path: Path) -> None:
    keeper.save("p", PlainSession({"text_context": {}})).wait(60)
    for content in (b"a download of mine", b"short"):
        (tmp_path / "f.partial").write_bytes(content)
        with pytest.raises(FileExists, match="no export"):
            keeper.export("p", tmp_path / "f", force=True)
        assert (tmp_path / "f.partial").read_bytes() == content
    (tmp_path / "f.partial").write_bytes(bytes(1000))  # after a power loss
    assert keeper.export("p", tmp_path / "f").resumed_bytes == 0


def test_what_was_published_is_never_written_to(keeper: Keeper, tmp_path: Path) -> None:
    """Killed between the two names of its end, and then replaced by an export that fails."""
    keeper.save("a", PlainSession({"text_context": {"t": "a" * 50_000}})).wait(60)
    keeper.save("b", PlainSession({"text_context": {"t": "b" * 50_000}})).wait(60)
    keeper.export("a", tmp_path / "f")
    raw = (tmp_path / "f").read_bytes()
    os.link(tmp_path / "f", tmp_path / "f.partial")

    def fail(done_bytes: int, total_bytes: int) -> None:
        raise OSError(errno.EIO, "no more")

    with pytest.raises(StoreFailed):
        keeper.export("b", tmp_path / "f", "bundle", fail, force=True)
    assert (tmp_path / "f").read_bytes() == raw
    keeper.export("b", tmp_path / "f", force=True)
    assert sorted(os.listdir(tmp_path)) == ["f"]


def test_an_export_that_ends_while_another_begins_keeps_its_file(
    keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.save("a", PlainSession({"text_context": {"t": "a"}})).wait(60)
    keeper.save("b", PlainSession({"text_context": {"t": "b"}})).wait(60)
    keeper.export("a", tmp_path / "done")
    raw = (tmp_path / "done").read_bytes()
    (tmp_path / "f.partial").write_bytes(raw)
    flock = fcntl.flock

    def publish_first(fd: int, operation: int) -> None:
        if (tmp_path / "f.partial").exists() and not (tmp_path / "f").exists():
            (tmp_path / "f.partial").rename(tmp_path / "f")
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", publish_first)
    with pytest.raises(FileExists):
        keeper.export("b", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == raw
    assert not (tmp_path / "f.partial").exists()


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "with\nnewline", os.fsdecode(b"\xff\xfe")])
def test_odd_names(keeper: Keeper, tmp_path: Path, name: str) -> None:
    keeper.save("n", PlainSession({"text_context": {}})).wait(60)
    done = keeper.export("n", tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    assert keeper.import_file(done.path).known


def test_a_name_that_is_too_long_is_said(keeper: Keeper, tmp_path: Path) -> None:
    keeper.save("n", PlainSession({"text_context": {}})).wait(60)
    with pytest.raises(StoreFailed, match="too long"):
        keeper.export("n", tmp_path / ("x" * 256))
    with pytest.raises(StoreFailed, match="too long"):
        keeper.import_file(tmp_path / ("x" * 256))


def test_a_file_system_without_hard_links(keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    keeper.save("n", PlainSession({"text_context": {}})).wait(60)
    keeper.export("n", tmp_path / "f")
    assert os.listdir(tmp_path) == ["f"]


def test_a_file_is_imported_by_two_processes_at_once(keeper: Keeper, tmp_path: Path) -> None:
    """Both wrote their own part of it, and both name the same backup."""
    keeper.save("twice", PlainSession({"vision_cache": {"e": torch.randn(40_000)}})).wait(60)
    keeper.export("twice", tmp_path / "f.qwnbak", "v1")
    first: list[Imported] = []
    commit = keeper.api.commit

    def commit_after_another(backup_id: str, raw: bytes) -> Backup:
        keeper.api.commit = commit  # type: ignore[method-assign]
        first.append(keeper.import_file(tmp_path / "f.qwnbak", "twice-there"))
        return commit(backup_id, raw.replace(b'"bytes_written":0', b'"bytes_written":1'))

    keeper.api.commit = commit_after_another  # type: ignore[method-assign]
    assert keeper.import_file(tmp_path / "f.qwnbak", "twice-there").backup == first[0].backup


def test_blobs_that_go_while_a_file_is_imported_are_written_again(keeper: Keeper, tmp_path: Path) -> None:
    """Another import that failed took them back; and those that a backup lost come back from its file."""
    save_file({"e": torch.randn(40_000)}, tmp_path / "f.safetensors")
    commit = keeper.api.commit

    def commit_without_blobs(backup_id: str, raw: bytes) -> Backup:
        keeper.api.commit = commit  # type: ignore[method-assign]
        keeper.api.discard(blob_refs(manifest_file.load(raw)))
        return commit(backup_id, raw)

    keeper.api.commit = commit_without_blobs  # type: ignore[method-assign]
    backup = keeper.import_file(tmp_path / "f.safetensors").backup
    keeper.export(backup.id, tmp_path / "f.bundle")
    for name in ("f.safetensors", "f.bundle"):
        for blob in keeper.api.backup_blobs(backup.id)["blobs"]:
            Path(blob["path"]).unlink()
        again = keeper.import_file(tmp_path / name)
        assert (again.backup.id, again.known) == (backup.id, True)
        keeper.restore(backup.id, PlainTarget())


def test_a_file_that_is_written_to_while_it_is_read_is_not_called_damaged(keeper: Keeper, tmp_path: Path) -> None:
    save_file({"e": torch.randn(40_000)}, tmp_path / "f")
    raw = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(raw[:-1000])

    def go_on_writing(done_bytes: int, total_bytes: int) -> None:
        (tmp_path / "f").write_bytes(raw[:-999])

    with pytest.raises(FileDamaged):
        keeper.import_file(tmp_path / "f")
    with pytest.raises(FileChanged):
        keeper.import_file(tmp_path / "f", None, go_on_writing)


def test_a_file_that_may_not_be_read_is_no_fault_of_the_home(keeper: Keeper, tmp_path: Path) -> None:
    with pytest.raises(StoreFailed) as caught:
        keeper.import_file(tmp_path / ("long" * 100))
    assert "home" not in caught.value.hint


def test_a_backup_of_the_future_does_not_stay_the_newest(shared_daemon: Daemon, tmp_path: Path) -> None:
    """Neither for a clock that was wrong, nor for a file that wants to be restored instead of what is saved here."""
    clock = [4e9]
    with shared_daemon.keeper(clock=lambda: clock[0]) as keeper:
        ahead = keeper.save("ahead", PlainSession({"text_context": {"a": 1}})).wait(60)
        for kind in EXPORT_FORMATS:
            keeper.export(ahead.id, tmp_path / kind, kind)
        keeper.api.call("DELETE", f"/v1/backups/{ahead.id}")
        clock[0] = time.time()
        for kind in EXPORT_FORMATS:
            made = keeper.import_file(tmp_path / kind)
            assert keeper.import_file(tmp_path / kind).known
            assert made.backup.created_at <= clock[0]
        clock[0] = time.time() + 1
        backup = keeper.save("ahead", PlainSession({"text_context": {"a": 2}})).wait(60)
        assert keeper.api.backup("ahead").id == backup.id


def test_the_sdk_knows_no_other_formats(keeper: Keeper, tmp_path: Path) -> None:
    keeper.save("n", PlainSession({"text_context": {}})).wait(60)
    with pytest.raises(BadInput):
        keeper.export("n", tmp_path / "f", "zip")  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        keeper.export("n", tmp_path / "f", "bundle", strict=True)


@pytest.mark.parametrize("error", [FileChanged("busy"), StoreFailed("no permission"), StoreFull("full")])
def test_what_is_wrong_with_one_file_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str], error: TorporError
) -> None:
    class Failing:
        def import_file(self, *_: object) -> None:
            raise error

    files = [Path("a.pt"), Path("b.pt")]
    with pytest.raises((SystemExit, StoreFull)) as caught:
        transfer._many(Failing(), files, None, True)  # type: ignore[arg-type]
    if isinstance(error, StoreFull):
        assert caught.value is error
    else:
        assert [failed["path"] for failed in orjson.loads(capsys.readouterr().out)["failed"]] == ["a.pt", "b.pt"]


@pytest.mark.parametrize("head", [b"\x04\x22\x4d\x18", b"\x10" + bytes(7) + b"{", b"PK\x03\x04"])
def test_a_large_file_of_nothing_is_refused_by_its_beginning(keeper: Keeper, tmp_path: Path, head: bytes) -> None:
    """A sparse file takes no room, and hours to read."""
    (tmp_path / "f").write_bytes(head)
    os.truncate(tmp_path / "f", 1 << 30)
    read = [0]
    with pytest.raises((FileDamaged, InvalidFile)):
        keeper.import_file(tmp_path / "f", None, lambda done_bytes, _: read.append(done_bytes))
    assert max(read) < 10 << 20


def test_a_folder_holds_what_an_export_is_called(keeper: Keeper, tmp_path: Path) -> None:
    keeper.save("n", PlainSession({"text_context": {}})).wait(60)
    keeper.export("n", tmp_path / "n.bundle")
    assert transfer._files_of(tmp_path) == [tmp_path / "n.bundle"]
