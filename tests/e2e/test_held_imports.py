"""Files that are looked at before anybody imports them: what they hold is told, and nothing changes until the word."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.caches import CacheSession
from support.daemon import Daemon
from support.waiting import until
from torpor.client.handing_over import hand_over
from torpor.client.preview import Previewer
from torpor.state.errors import BadInput, FileChanged, TorporError

V1 = Path(__file__).parents[1] / "fixtures" / "v1"
BYTES = {"Content-Type": "application/octet-stream"}


def sent(daemon: Daemon, path: Path, **query: Any) -> str:
    query = {"name": path.name, "hold": True} | query
    answer = daemon.request("POST", "/v1/imports", params=query, content=path.read_bytes(), headers=BYTES)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def named(daemon: Daemon, file: Path, status: int = 202, token: str | None = None, **changed: Any) -> Any:
    seen = os.stat(file)
    body = {"path": str(file), "size_bytes": seen.st_size, "mtime_ns": seen.st_mtime_ns, "inode": seen.st_ino} | changed
    answer = daemon.request("POST", "/v1/imports/local", json=body, token=token)
    assert answer.status_code == status, answer.text
    return answer.json()


def settled(daemon: Daemon, import_id: str) -> dict[str, Any]:
    def look() -> Any:
        found = daemon.request("GET", f"/v1/imports/{import_id}").json()
        return found if found["state"] not in ("waiting", "running") else None

    found = until(look, "the import")
    assert isinstance(found, dict)
    return found


def listed(daemon: Daemon) -> set[str]:
    found = daemon.request("GET", "/v1/backups", params={"limit": 1000}).json()["backups"]
    return {backup["id"] for backup in found}


def staged(daemon: Daemon) -> list[Path]:
    return [path for path in (daemon.home / "store" / "staging").rglob("*.tmp") if path.stat().st_size]


@pytest.fixture(scope="module")
def bundle(shared_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup with a KV cache as a file, and gone from the store."""
    session = CacheSession(note={"text_context": {"messages": [{"role": "user", "content": "the way to the station"}]}})
    session.grow(200, 77_003)  # like no other test's, which would keep what is purged here
    path = tmp_path_factory.mktemp("open") / "walk.bundle.qwnbak"
    with shared_daemon.keeper() as keeper:
        backup = keeper.save("walk", session).wait(60)
        keeper.export(backup.id, path)
    shared_daemon.request("DELETE", f"/v1/backups/{backup.id}", params={"purge": "true"})
    return path


def test_a_file_is_told_and_imported_on_a_word_alone(shared_daemon: Daemon, bundle: Path) -> None:
    before, blobs = listed(shared_daemon), shared_daemon.blob_files()
    found = settled(shared_daemon, named(shared_daemon, bundle)["id"])
    preview = found["preview"]
    assert (found["state"], found["held"], found["backup_id"], found["name"]) == ("ready", True, None, bundle.name)
    told = (preview["format"], preview["saved"], preview["session_id"], preview["tokens"])
    assert told == ("bundle", True, "walk", 201)  # one of them is not fed yet
    assert preview["lines"] == [{"role": "user", "text": "the way to the station"}]
    assert preview["shelf"]["standing"] == "new"
    assert preview["shelf"]["new_bytes"] > 10_000
    assert (listed(shared_daemon), shared_daemon.blob_files()) == (before, blobs)
    assert shared_daemon.request("POST", f"/v1/imports/{found['id']}/accept").status_code == 202
    done = settled(shared_daemon, found["id"])
    assert (done["state"], done["held"], done["backup_id"]) == ("done", False, preview["backup_id"])
    assert listed(shared_daemon) == before | {preview["backup_id"]}
    assert bundle.exists()
    for method, path in (("POST", f"/v1/imports/{found['id']}/accept"), ("DELETE", f"/v1/imports/{found['id']}")):
        assert shared_daemon.request(method, path).json()["code"] == "conflict"
    again = settled(shared_daemon, named(shared_daemon, bundle)["id"])["preview"]["shelf"]
    assert again == {"standing": "known", "backups": 1, "new_bytes": 0}


def test_what_came_as_bytes_goes_with_the_word_no(shared_daemon: Daemon) -> None:
    before = listed(shared_daemon)
    found = settled(shared_daemon, sent(shared_daemon, V1 / "code-8b.qwnbak", session_id="receipts"))
    assert found["state"] == "ready"
    preview = found["preview"]
    assert (preview["format"], preview["session_id"], preview["messages"], preview["images"]) == (
        "v1",
        "receipts",
        3,
        1,
    )
    assert (preview["model_name"], preview["saved"]) == ("qwen3-vl-8b-instruct", False)
    assert preview["lines"][-1] == {"role": "assistant", "text": "总额为 42.00 欧元。🙂"}
    assert len(staged(shared_daemon)) == 1
    for _ in range(2):
        gone = shared_daemon.request("DELETE", f"/v1/imports/{found['id']}").json()
        assert (gone["state"], gone["held"], gone["backup_id"]) == ("discarded", False, None)
    assert staged(shared_daemon) == []
    assert listed(shared_daemon) == before
    assert shared_daemon.request("POST", f"/v1/imports/{found['id']}/accept").json()["code"] == "conflict"


def test_hostile_files_are_typed_errors_and_change_nothing(shared_daemon: Daemon) -> None:
    before, blobs = listed(shared_daemon), shared_daemon.blob_files()
    events = shared_daemon.request("GET", "/v1/events").json()["events"]
    bad = sorted(V1.glob("bad-*.qwnbak"))
    assert len(bad) >= 15
    waiting = {path: named(shared_daemon, path)["id"] for path in bad}
    for path, import_id in waiting.items():
        found = settled(shared_daemon, import_id)
        with pytest.raises(TorporError) as expected:
            Previewer().look(path)
        assert (found["state"], found["held"], found["preview"]) == ("failed", False, None), path
        assert found["problem"]["code"] == expected.value.code, path
        assert str(V1) not in str(found)
    assert (listed(shared_daemon), shared_daemon.blob_files()) == (before, blobs)
    assert shared_daemon.request("GET", "/v1/events").json()["events"] == events


def test_what_is_imported_is_what_was_looked_at(shared_daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "changes.qwnbak"
    path.write_bytes((V1 / "text-only.qwnbak").read_bytes())
    found = settled(shared_daemon, named(shared_daemon, path)["id"])
    assert found["state"] == "ready"
    before = listed(shared_daemon)
    path.write_bytes((V1 / "spec-8b.qwnbak").read_bytes())
    shared_daemon.request("POST", f"/v1/imports/{found['id']}/accept")
    assert settled(shared_daemon, found["id"])["problem"]["code"] == "unavailable"
    assert listed(shared_daemon) == before
    for odd in ({"size_bytes": 1}, {"path": str(tmp_path / "away.qwnbak")}, {"path": str(tmp_path)}):
        assert named(shared_daemon, path, 404, **odd)["code"] == "not-found"
    link = tmp_path / "link.qwnbak"
    link.symlink_to(path)
    named(shared_daemon, link, 404)
    named(shared_daemon, path, 422, path="relative.qwnbak")


def tensors(content: bytes) -> bytes:
    header = b'{"t":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (len(content), len(content))
    return len(header).to_bytes(8, "little") + header + content


def rewritten(path: Path, content: bytes) -> None:
    """Write into a file that looks as before, which its owner can always do."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_who_turns_back_the_clock_of_a_file_has_nothing_else_imported(shared_daemon: Daemon, tmp_path: Path) -> None:
    path, before = tmp_path / "forged.safetensors", listed(shared_daemon)
    path.write_bytes(tensors(b"good"))
    with shared_daemon.keeper() as keeper:
        found, seen = settled(shared_daemon, named(shared_daemon, path)["id"]), keeper.preview_file(path)
        rewritten(path, tensors(b"evil"))
        shared_daemon.request("POST", f"/v1/imports/{found['id']}/accept")
        assert settled(shared_daemon, found["id"])["problem"]["code"] == "unavailable"
        with pytest.raises(FileChanged):
            keeper.import_file(path, expected=seen.seen, digest=seen.digest)

        def while_it_is_read(done_bytes: int, total_bytes: int) -> None:
            if path.read_bytes().endswith(b"evil"):
                rewritten(path, tensors(b"good"))

        with pytest.raises(FileChanged):
            keeper.import_file(path, progress=while_it_is_read)
    assert listed(shared_daemon) == before


def test_only_the_owner_names_files_and_only_who_may_restore_sees_what_they_hold(shared_daemon: Daemon) -> None:
    found = settled(shared_daemon, sent(shared_daemon, V1 / "text-only.qwnbak"))
    made = shared_daemon.request("POST", "/v1/tokens", json={"label": "t", "scopes": ["read", "manage"]}).json()
    named(shared_daemon, V1 / "text-only.qwnbak", 403, token=made["token"])
    for path in (f"/v1/imports/{found['id']}", "/v1/imports"):
        assert '"preview":{' in shared_daemon.request("GET", path).text
        assert '"preview":{' not in shared_daemon.request("GET", path, token=made["token"]).text
    gone = shared_daemon.request("DELETE", f"/v1/imports/{found['id']}", token=made["token"])
    assert ('"state":"discarded"' in gone.text, '"preview":{' in gone.text) == (True, False)
    ours = settled(shared_daemon, named(shared_daemon, V1 / "text-only.qwnbak")["id"])["id"]
    said = shared_daemon.request("POST", f"/v1/imports/{ours}/accept", token=made["token"])
    assert (said.status_code, said.json()["code"]) == (403, "scope-denied"), "who may not see it does not import it"
    assert shared_daemon.request("DELETE", f"/v1/imports/{ours}").json()["state"] == "discarded"


def test_a_file_that_the_daemon_cannot_be_told_of_is_sent(shared_daemon: Daemon, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.qwnbak"))
    odd.write_bytes((V1 / "text-only.qwnbak").read_bytes())
    with shared_daemon.keeper() as here, shared_daemon.remote_keeper() as away:
        handed = [hand_over(here.api, odd)["id"], hand_over(away.api, V1 / "text-only.qwnbak", "afar")["id"]]
        found = [settled(shared_daemon, each) for each in handed]
        assert [(each["state"], each["name"]) for each in found] == [
            ("ready", "xff.qwnbak"),
            ("ready", "text-only.qwnbak"),
        ]
        assert found[1]["preview"]["session_id"] == "afar"
        assert len(staged(shared_daemon)) == 2
        for each in handed:
            here.api.json("DELETE", f"/v1/imports/{each}")
        for path in (tmp_path, tmp_path / "gone", Path("/dev/zero")):
            with pytest.raises(BadInput):
                hand_over(here.api, path)
    assert staged(shared_daemon) == []
