"""Files out of the daemon and into it, as a browser does it: streamed, checked, and with an answer for what is wrong."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import lz4.frame
import orjson
import pytest
from support.caches import CacheSession
from support.daemon import Daemon
from support.waiting import until
from torpor.codec.bundle import Bundle
from torpor.state.ids import parse_session_id

STATE = {"metadata": {"model_name": "m"}, "text_context": {"messages": [{"role": "user", "content": "hello"}]}}


@pytest.fixture(scope="module")
def exporting(shared_daemon: Daemon) -> tuple[Daemon, str]:
    """A daemon with a session of text, an image and a KV cache."""
    session = CacheSession(note={"text_context": {"messages": [{"role": "user", "content": "hi"}]}})
    session.grow(200, 1)
    with shared_daemon.keeper() as keeper:
        return shared_daemon, keeper.save("exporting", session).wait(60).id


def sent(daemon: Daemon, name: str, data: bytes, status: int = 202, **query: str) -> dict[str, Any]:
    headers = {"Content-Type": "application/octet-stream"}
    answer = daemon.request("POST", "/v1/imports", params={"name": name, **query}, content=data, headers=headers)
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert isinstance(found, dict)
    return found


def ended(daemon: Daemon, begun: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (found := daemon.request("GET", f"/v1/imports/{begun['id']}").json())["ended_at"] is None:
        assert time.monotonic() < deadline
    assert isinstance(found, dict)
    return found


def exported(daemon: Daemon, backup_id: str, kind: str) -> httpx.Response:
    return daemon.request("GET", f"/v1/backups/{backup_id}/export", params={"format": kind})


def test_a_bundle_is_what_the_command_writes_and_has_a_length(exporting: tuple[Daemon, str], tmp_path: Path) -> None:
    daemon, backup_id = exporting
    answer = exported(daemon, backup_id, "bundle")
    assert answer.status_code == 200
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers["content-disposition"] == f'attachment; filename="{backup_id}.bundle.qwnbak"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    with daemon.keeper() as keeper:
        done = keeper.export(backup_id, tmp_path / "same.qwnbak")
    assert answer.content == done.path.read_bytes()
    assert len(list(Bundle(io.BytesIO(answer.content), len(answer.content)).blobs())) > 2


def test_v1_is_what_the_command_writes(exporting: tuple[Daemon, str], tmp_path: Path) -> None:
    daemon, backup_id = exporting
    answer = exported(daemon, backup_id, "v1")
    with daemon.keeper() as keeper:
        done = keeper.export(backup_id, tmp_path / "same.qwnbak", "v1")
    assert answer.content == done.path.read_bytes()
    assert answer.headers["content-disposition"].endswith(f'{backup_id}.qwnbak"')


def test_what_was_exported_and_removed_comes_back_as_a_file(shared_daemon: Daemon) -> None:
    session = CacheSession()
    session.grow(100, 2)
    with shared_daemon.keeper() as keeper:
        backup = keeper.save("round-trip", session).wait(60)
    data = exported(shared_daemon, backup.id, "bundle").content
    shared_daemon.request("DELETE", f"/v1/backups/{backup.id}", params={"purge": "true"})
    found = ended(shared_daemon, sent(shared_daemon, "holidays.bundle.qwnbak", data))
    assert (found["state"], found["backup_id"], found["session_id"]) == ("done", backup.id, "round-trip")
    assert (found["known"], found["size_bytes"], found["problem"]) == (False, len(data), None)
    again = ended(shared_daemon, sent(shared_daemon, "again.qwnbak", data))
    assert (again["known"], again["backup_id"]) == (True, backup.id)
    assert exported(shared_daemon, backup.id, "bundle").content == data
    listed = shared_daemon.request("GET", "/v1/imports").json()["imports"]
    assert [each["id"] for each in listed[:2]] == [again["id"], found["id"]]


def test_a_file_without_a_session_is_named_as_it_was_called(shared_daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "plain.qwnbak"
    write_v1_file(path)
    for name, session in ((r"C:\chats\Tokyo trip.qwnbak", "Tokyo-trip"), ("../../etc/passwd", "passwd")):
        found = ended(shared_daemon, sent(shared_daemon, name, path.read_bytes()))
        assert (found["state"], found["session_id"]) == ("done", session), found
    mine = ended(shared_daemon, sent(shared_daemon, "x.qwnbak", path.read_bytes(), session_id="mine"))
    assert mine["session_id"] == parse_session_id("mine")


def write_v1_file(path: Path) -> None:
    metadata = {"model_name": "m", "version": "1", "timestamp": 1.0, "format": "qwen-state/v1"}
    document = {"metadata": metadata, "vision_cache": {}, "text_context": STATE["text_context"], "config_snapshot": {}}
    path.write_bytes(lz4.frame.compress(orjson.dumps(document)))


def test_what_is_no_state_is_told_by_its_own_name(shared_daemon: Daemon) -> None:
    staged = shared_daemon.home / "store" / "staging"
    for data in (b"no state at all", os.urandom(100_000), b"\x04\x22\x4d\x18 cut short"):
        found = ended(shared_daemon, sent(shared_daemon, "notes.txt", data))
        assert found["state"] == "failed"
        assert found["problem"]["code"] in ("unknown-format", "file-damaged", "invalid-file")
        assert str(shared_daemon.home) not in str(found)
    assert not [path for path in staged.rglob("*.tmp") if path.stat().st_size]
    events = shared_daemon.request("GET", "/v1/events").json()["events"]
    assert events[0]["kind"] == "import-failed"
    assert "notes.txt" in events[0]["detail"]


def test_what_cannot_be_taken_is_refused_at_once(shared_daemon: Daemon) -> None:
    assert sent(shared_daemon, "x", b"", 422)["code"] == "bad-input"
    assert sent(shared_daemon, "x", b"data", 422, session_id="../x")["code"] == "invalid-id"
    answer = shared_daemon.request("POST", "/v1/imports", content=b"x", headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415
    assert shared_daemon.request("GET", "/v1/imports/nobody").status_code == 404
    assert exported(shared_daemon, "01M81P35719XNDZ4R57NMV9999", "bundle").status_code == 404
    assert exported(shared_daemon, "../../token", "bundle").status_code == 404


def test_a_blob_that_is_gone_is_told_before_anything_is_sent(shared_daemon: Daemon) -> None:
    backup_id, path = one_blob(shared_daemon, "gone")
    path.unlink()
    answer = exported(shared_daemon, backup_id, "bundle")
    assert (answer.status_code, answer.json()["code"]) == (409, "missing-blobs")
    assert exported(shared_daemon, backup_id, "v1").status_code == 200


def test_a_damaged_blob_never_makes_a_whole_file(shared_daemon: Daemon) -> None:
    backup_id, path = one_blob(shared_daemon, "damaged")
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    for _ in range(6):  # more than are sent at once: those that broke off count no longer
        with pytest.raises(httpx.RemoteProtocolError):
            exported(shared_daemon, backup_id, "bundle")


def one_blob(daemon: Daemon, session_id: str) -> tuple[str, Path]:
    """Save a session and return the file of one of its KV blocks."""
    session = CacheSession()
    session.grow(64, hash(session_id) % 1000)
    with daemon.keeper() as keeper:
        backup = keeper.save(session_id, session).wait(60)
    blobs = daemon.request("GET", f"/v1/backups/{backup.id}/blobs").json()["blobs"]
    return backup.id, Path(next(blob["path"] for blob in blobs if blob["layer"] == "kv_cache"))


def test_a_quota_holds_for_what_is_handed_over(home: Path) -> None:
    with Daemon(home, settings={"TORPOR_QUOTA": "4MiB"}) as daemon:
        found = sent(daemon, "large.qwnbak", bytes(8 << 20), 507)
        assert found["code"] == "quota-full"
        assert not list((home / "store" / "staging").rglob("*.tmp"))


def test_who_hangs_up_leaves_nothing_behind(exporting: tuple[Daemon, str]) -> None:
    daemon, backup_id = exporting
    address = ("127.0.0.1", int(daemon.url.rpartition(":")[2]))
    head = f"POST /v1/imports?name=half HTTP/1.1\r\nHost: 127.0.0.1:{address[1]}\r\n"
    head += f"Authorization: Bearer {daemon.token}\r\nContent-Type: application/octet-stream\r\n"
    with socket.create_connection(address) as connection:
        connection.sendall(f"{head}Content-Length: 3000000\r\n\r\n".encode() + bytes(2_000_000))
        until(lambda: staged(daemon) != [])
    until(lambda: staged(daemon) == [])
    for _ in range(6):  # more than are sent at once
        with daemon_stream(daemon, backup_id) as answer:
            assert next(answer.iter_raw(10))
    assert exported(daemon, backup_id, "bundle").status_code == 200


def staged(daemon: Daemon) -> list[Path]:
    """Return the files of the daemon that are in the making."""
    folder = daemon.home / "store" / "staging"
    return [path for each in folder.glob(f"w{daemon.listening['pid']}-*") for path in each.glob("*.tmp")]


@contextmanager
def daemon_stream(daemon: Daemon, backup_id: str) -> Iterator[httpx.Response]:
    headers = {"Authorization": f"Bearer {daemon.token}"}
    with httpx.stream("GET", f"{daemon.url}/v1/backups/{backup_id}/export", headers=headers) as answer:
        yield answer
