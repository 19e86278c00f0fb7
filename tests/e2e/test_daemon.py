"""The daemon from outside: what it listens on, whom it lets in, how it starts and stops."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import orjson
import pytest
import torch
from support.caches import CacheSession, CacheTarget
from support.daemon import Daemon
from support.ports import free_port
from torpor.client import connect
from torpor.state.errors import (
    BlobDamaged,
    BlobNotFound,
    DaemonNotRunning,
    ManifestDamaged,
    RestoreRefused,
    SessionNotFound,
    TooLarge,
    Unauthorized,
    VersionMismatch,
)
from torpor.state.problems import from_problem


def saved(daemon: Daemon, tokens: int = 100) -> tuple[CacheSession, str]:
    session = CacheSession()
    session.grow(tokens, 1)
    with daemon.keeper() as keeper:
        return session, keeper.save("s", session).wait(60).id


def test_files_and_folders_are_the_owners_alone(daemon: Daemon) -> None:
    saved(daemon)
    modes = {p: stat.S_IMODE(os.lstat(p).st_mode) for p in [daemon.home, *daemon.home.rglob("*")]}
    assert [(str(p), oct(m)) for p, m in modes.items() if m & 0o077] == []
    assert modes[daemon.home / "token"] == 0o600
    assert modes[daemon.home / "torpor.sock"] == 0o600
    assert modes[daemon.home / "daemon.json"] == 0o600


def test_an_open_umask_changes_nothing(home: Path) -> None:
    with Daemon(home, prefix=("sh", "-c", 'umask 0; exec "$@"', "sh")) as daemon:
        saved(daemon)
        assert [p for p in home.rglob("*") if os.lstat(p).st_mode & 0o077] == []


HEAVY = (
    *("torch", "numpy", "boto3", "transformers", "alembic", "PIL", "cryptography"),
    *("typer", "rich", "pygments", "httpx", "torpor.client", "torpor.cli.main"),  # the command line's own
)


def test_nothing_heavy_is_imported_at_start(home: Path) -> None:
    code = (
        "import sys, torpor.cli.entry, torpor.cli.serving\n"
        "import torpor.daemon.service, torpor.daemon.app, torpor.daemon.server, torpor.daemon.observing\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert out.stdout.strip() == "[]"
    with Daemon(home) as daemon:
        saved(daemon)
        maps = Path(f"/proc/{daemon.listening['pid']}/maps").read_text()
        assert "numpy" not in maps
        assert "libtorch" not in maps


def test_everything_lies_under_the_home(home: Path, tmp_path: Path) -> None:
    with Daemon(home, prefix=("env", f"HOME={tmp_path}", f"XDG_DATA_HOME={tmp_path}")) as daemon:
        saved(daemon)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_status_0(daemon: Daemon, number: int) -> None:
    saved(daemon)
    assert daemon.signal(number) == 0
    assert not (daemon.home / "daemon.json").exists()
    assert not (daemon.home / "torpor.sock").exists()
    assert list((daemon.home / "store" / "staging").iterdir()) == []
    with pytest.raises(DaemonNotRunning) as caught:
        connect(home=daemon.home)
    assert "torpor serve" in caught.value.hint


def test_a_request_in_flight_is_finished_before_the_end(daemon: Daemon) -> None:
    """A commit that was being sent when SIGTERM came is answered."""
    with daemon.keeper() as keeper:
        sock = socket.create_connection(("127.0.0.1", int(daemon.url.rsplit(":", 1)[1])))
        sock.sendall(
            f"GET /v1/status HTTP/1.1\r\nHost: {daemon.url[7:]}\r\nAuthorization: Bearer {daemon.token}\r\n".encode()
        )
        keeper.api.status()
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
    sock.close()
    assert daemon.join() == 0


def test_a_second_daemon_on_the_same_home_is_refused(daemon: Daemon) -> None:
    second = Daemon(daemon.home).start()
    assert second.join() == 6
    assert second.listening["code"] == "daemon-already-running"
    assert str(daemon.listening["pid"]) in second.listening["detail"]
    assert second.listening["hint"]
    second.errors.close()
    with daemon.keeper() as keeper:
        assert keeper.api.status()["pid"] == daemon.listening["pid"]


def test_a_busy_port_moves_to_another(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Daemon(home, port=port) as daemon:
            assert not daemon.url.endswith(f":{port}")
            assert orjson.loads((home / "daemon.json").read_bytes())["url"] == daemon.url
            assert daemon.request("GET", "/v1/status").status_code == 200


def test_the_port_that_was_asked_for_is_taken(home: Path) -> None:
    with Daemon(home, port=free_port()) as daemon:
        assert daemon.url == f"http://127.0.0.1:{daemon.port}"


def test_a_killed_daemon_starts_again_at_once(home: Path) -> None:
    with Daemon(home) as daemon:
        session, backup_id = saved(daemon)
        daemon.kill()
    with Daemon(home) as daemon, daemon.keeper() as keeper:
        assert keeper.restore(backup_id, CacheTarget()).session.digest() == session.digest()


def test_a_keeper_finds_the_daemon_again_after_a_restart(home: Path) -> None:
    with Daemon(home) as first:
        keeper = first.keeper()
        first.kill()
    session = CacheSession()
    session.grow(10, 1)
    handle = keeper.save("s", session)
    with Daemon(home):
        assert handle.wait(60).tokens == 11
        keeper.close()


ROUTES = ["/v1/status", "/v1/backups", "/v1/events", "/openapi.json", "/nowhere", "/v1/blobs/" + "0" * 64]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("token", ["wrong", "", "x" * 10_000])
def test_no_route_opens_without_the_token(shared_daemon: Daemon, route: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx.get(shared_daemon.url + route, headers=headers, trust_env=False)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert isinstance(from_problem(answer.json()), Unauthorized)
    over_socket = httpx.Client(transport=httpx.HTTPTransport(uds=str(shared_daemon.home / "torpor.sock")))
    with over_socket as client:
        assert client.get("http://localhost" + route, headers=headers).status_code == 401


def test_a_wrong_token_in_the_sdk_is_a_typed_error(shared_daemon: Daemon) -> None:
    with pytest.raises(Unauthorized) as caught:
        connect(url=shared_daemon.url, token="wrong")
    assert "TORPOR_TOKEN" in caught.value.hint


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "127.0.0.1"}, {"Host": "127.0.0.1:1"}, {"Host": "localhost.evil.example"},
        {"Host": ""}, {"Host": "[::1]:7717"}, {"Host": "0.0.0.0:7717"}, {"Origin": "https://evil.example"},
        {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
    ],
    ids=str,
)  # fmt: skip
def test_foreign_hosts_and_pages_are_refused_even_with_the_token(
    shared_daemon: Daemon, headers: dict[str, str]
) -> None:
    answer = shared_daemon.request("GET", "/v1/status", headers=headers)
    assert answer.status_code == 403
    assert answer.json()["code"] == "host-not-allowed"


def test_another_api_version_is_told_apart(shared_daemon: Daemon) -> None:
    answer = shared_daemon.request("GET", "/v1/status", headers={"Torpor-Api-Version": "99"})
    assert answer.status_code == 426
    assert isinstance(from_problem(answer.json()), VersionMismatch)


@pytest.mark.parametrize("path", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "a%00b", "x" * 200, "no-such-session", "%ff"])
def test_hostile_ids_over_http_are_problems(shared_daemon: Daemon, path: str) -> None:
    for method, suffix in (("GET", ""), ("GET", "/manifest"), ("DELETE", ""), ("PUT", "")):
        answer = shared_daemon.request(method, f"/v1/backups/{path}{suffix}")
        assert answer.status_code in (404, 405, 422)
        assert answer.json()["hint"]
    assert shared_daemon.request("GET", f"/v1/blobs/{path}").status_code in (404, 422)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"id": "../x"}', b"[" * 100_000])
def test_hostile_manifests_over_http_are_problems(shared_daemon: Daemon, body: bytes) -> None:
    answer = shared_daemon.request("PUT", "/v1/backups/01M81P35719XNDZ4R57NMV6DYZ", content=body)
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid-manifest"


def test_too_large_a_body_is_refused_before_it_is_read(shared_daemon: Daemon) -> None:
    port = int(shared_daemon.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        head = "PUT /v1/backups/01M81P35719XNDZ4R57NMV6DYZ HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n"
        head += "Content-Length: 999999999999\r\n\r\n"
        sock.sendall(head.format(shared_daemon.url[7:], shared_daemon.token).encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert b"413" in answer.split(b"\r\n")[0]
    assert isinstance(from_problem(orjson.loads(answer.split(b"\r\n\r\n", 1)[1])), TooLarge)


def test_an_index_that_was_deleted_comes_back_from_the_manifests(home: Path) -> None:
    with Daemon(home) as daemon:
        session, backup_id = saved(daemon)
        daemon.request("PATCH", f"/v1/backups/{backup_id}", json={"pinned": True})
        before = daemon.request("GET", "/v1/backups").json()
        daemon.stop()
    for file in home.glob("index.sqlite*"):
        file.unlink()
    with Daemon(home) as daemon, daemon.keeper() as keeper:
        assert daemon.request("GET", "/v1/backups").json() == before
        assert keeper.restore("s", CacheTarget()).session.digest() == session.digest()


def test_an_index_of_garbage_is_made_again_and_kept_aside(home: Path) -> None:
    with Daemon(home) as daemon:
        saved(daemon)
        before = daemon.request("GET", "/v1/backups").json()
        daemon.stop()
    (home / "index.sqlite").write_bytes(b"not a database" * 1000)
    with Daemon(home) as daemon:
        assert daemon.request("GET", "/v1/backups").json() == before
        (event,) = daemon.request("GET", "/v1/events").json()["events"]
    (aside,) = home.glob("index.damaged-*.sqlite")
    assert event["kind"] == "index-rebuilt"
    assert str(aside) in event["detail"]
    assert aside.read_bytes() == b"not a database" * 1000


def test_an_index_of_a_newer_version_is_left_alone(home: Path) -> None:
    import sqlite3

    with Daemon(home) as daemon:
        saved(daemon)
        daemon.stop()
    with sqlite3.connect(home / "index.sqlite") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = (home / "index.sqlite").read_bytes()
    second = Daemon(home).start()
    assert second.join() == 4
    assert "9999" in second.listening["detail"]
    second.errors.close()
    assert (home / "index.sqlite").read_bytes() == before


def test_an_emptied_store_does_not_empty_the_index(home: Path) -> None:
    with Daemon(home) as daemon:
        saved(daemon)
        daemon.stop()
    shutil.rmtree(home / "store")
    second = Daemon(home).start()
    assert second.join() == 7
    assert "no manifest" in second.listening["detail"]
    second.errors.close()


def test_a_home_that_is_a_symbolic_link_is_refused(home: Path, tmp_path: Path) -> None:
    home.symlink_to(tmp_path)
    second = Daemon(home).start()
    assert second.join() == 4
    assert second.listening["code"] == "unsafe-home"
    second.errors.close()
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_is_told(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text("ttl_days = -3\n")
    second = Daemon(home).start()
    assert second.join() == 2
    assert "ttl_days" in second.listening["detail"]
    second.errors.close()


@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_blob_is_a_typed_error_and_the_target_is_untouched(daemon: Daemon, damage: str) -> None:
    session, backup_id = saved(daemon, 300)
    with daemon.keeper() as keeper:
        digest = keeper.manifest(backup_id)[1].kv_cache.blocks[3].digest  # type: ignore[union-attr]
        path = daemon.home / "store" / "blobs" / digest[:2] / digest
        data = bytearray(path.read_bytes())
        if damage == "cut":
            path.write_bytes(data[:-1])
        elif damage == "flip":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        else:
            path.unlink()
        target = CacheTarget()
        with pytest.raises(RestoreRefused) as caught:
            keeper.restore(backup_id, target, require="full")
        assert isinstance(caught.value.__cause__, BlobNotFound if damage == "gone" else BlobDamaged)
        assert caught.value.hint
        assert target.adopted == 0
        woken = keeper.restore(backup_id, target)  # what lies before the lost block is as good as ever
        assert (woken.mode, woken.plan.tokens_reused, target.adopted) == ("prefix", 192, 1)
        assert "block 3 is missing or damaged" in woken.plan.layers["kv_cache"][1]
        for mine, theirs in zip(woken.session.tensors(), session.tensors(), strict=True):
            assert torch.equal(mine, theirs[:, :, :192])


def test_a_damaged_manifest_is_a_typed_error(daemon: Daemon) -> None:
    _, backup_id = saved(daemon)
    path = daemon.home / "store" / "manifests" / f"{backup_id}.qwnbak"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with daemon.keeper() as keeper, pytest.raises(ManifestDamaged):
        keeper.restore(backup_id, CacheTarget())


def test_an_unknown_session_is_a_typed_error(daemon: Daemon) -> None:
    with daemon.keeper() as keeper, pytest.raises(SessionNotFound) as caught:
        keeper.restore("never-saved", CacheTarget())
    assert "torpor ls" in caught.value.hint


def test_removed_backups_free_their_blobs_after_the_grace_time(home: Path) -> None:
    with Daemon(home) as daemon, daemon.keeper() as keeper:
        session = CacheSession()
        session.grow(128, 1)
        first = keeper.save("s", session).wait(60)
        session.grow(64, 2)
        second = keeper.save("s", session).wait(60)
        daemon.request("DELETE", f"/v1/backups/{second.id}").raise_for_status()
        assert len(daemon.blob_files()) == 3
        daemon.stop()
    from contextlib import ExitStack

    from torpor.daemon.compose import compose
    from torpor.daemon.garbage import Garbage
    from torpor.daemon.settings import load_settings
    from torpor.store.home import Home

    with ExitStack() as stack:
        catalog = compose(Home(home), load_settings(), stack)
        assert not Garbage(catalog, grace_s=3600).collect().anything()
        garbage = Garbage(catalog, grace_s=0, trash_s=0)
        assert garbage.collect().trashed == 1
        assert garbage.collect().freed == 1
        assert catalog.index.backup(first.id).id == first.id
    with Daemon(home) as daemon, daemon.keeper() as keeper:
        assert keeper.restore(first.id, CacheTarget()).session.tokens == 128


def test_a_home_with_a_long_path_does_without_the_socket(home: Path) -> None:
    deep = home / ("d" * 60) / ("e" * 60)
    with Daemon(deep) as daemon, daemon.keeper() as keeper:
        assert daemon.listening["socket"] is None
        assert keeper.api.status()["home"] == str(deep)


def test_an_open_folder_of_other_things_is_not_taken_as_home(home: Path) -> None:
    home.mkdir(mode=0o755)
    (home / "thesis.txt").write_text("mine")
    second = Daemon(home).start()
    assert second.join() == 4
    assert second.listening["code"] == "unsafe-home"
    second.errors.close()
    assert stat.S_IMODE(home.stat().st_mode) == 0o755


def test_an_empty_open_folder_is_closed(home: Path) -> None:
    home.mkdir(mode=0o755)
    with Daemon(home):
        assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_a_removed_backup_leaves_no_text_behind(daemon: Daemon) -> None:
    session = CacheSession(note={"text": "TOPSECRET"})
    session.grow(10, 1)
    with daemon.keeper() as keeper:
        backup = keeper.save("s", session).wait(60)
        assert daemon.request("DELETE", f"/v1/backups/{backup.id}").status_code == 204
    assert list((daemon.home / "store" / "trash").iterdir()) == []
    assert list((daemon.home / "store" / "manifests").iterdir()) == []


def test_blobs_of_a_manifest_that_cannot_be_used_are_spared(home: Path) -> None:
    """The manifest is of a version that nobody knows yet, and the index is rebuilt: its blobs are not garbage."""
    from contextlib import ExitStack

    from torpor.codec import manifest_file
    from torpor.daemon.compose import compose
    from torpor.daemon.garbage import Garbage
    from torpor.daemon.reconcile import reconcile
    from torpor.daemon.settings import load_settings
    from torpor.store.home import Home

    with Daemon(home) as daemon:
        saved(daemon, 300)
        daemon.stop()
    (path,) = (home / "store" / "manifests").iterdir()
    value = orjson.loads(manifest_file.unpack(path.read_bytes()))
    path.write_bytes(manifest_file.pack(orjson.dumps(value | {"format": "qwen-state/v9"})))
    for file in home.glob("index.sqlite*"):
        file.unlink()
    with ExitStack() as stack:
        catalog = compose(Home(home), load_settings(), stack)
        assert reconcile(catalog).unusable == 1
        assert Garbage(catalog, grace_s=0).collect().trashed == 0
        assert [e["kind"] for e in catalog.index.recent_events()] == ["manifest-unusable"]


def test_a_backup_whose_blob_is_lost_stays_listed_when_the_index_is_rebuilt(home: Path) -> None:
    from contextlib import ExitStack

    from torpor.daemon.compose import compose
    from torpor.daemon.garbage import Garbage
    from torpor.daemon.reconcile import reconcile
    from torpor.daemon.settings import load_settings
    from torpor.store.home import Home

    with Daemon(home) as daemon:
        _, backup_id = saved(daemon, 300)
        files = daemon.blob_files()
        daemon.stop()
    lost = files[0].stat().st_size
    files[0].unlink()
    for file in home.glob("index.sqlite*"):
        file.unlink()
    with ExitStack() as stack:
        catalog = compose(Home(home), load_settings(), stack)
        assert reconcile(catalog).imported == 1
        assert Garbage(catalog, grace_s=0).collect().trashed == 0
        assert [(b.id, b.absent_bytes) for b in catalog.index.list_backups()] == [(backup_id, lost)]
        assert catalog.index.totals().blobs == len(files) - 1
        assert [e["kind"] for e in catalog.index.recent_events()] == ["blobs-absent"]


def test_a_manifest_with_numbers_that_no_index_can_hold_changes_nothing(daemon: Daemon) -> None:
    _, backup_id = saved(daemon)
    with daemon.keeper() as keeper:
        value = orjson.loads(keeper.api.manifest(backup_id))
    other = "01M81P35719XNDZ4R57NMV6DYZ"
    body = orjson.dumps(value | {"id": other, "tokens": 2**63})
    assert daemon.request("PUT", f"/v1/backups/{other}", content=body).status_code == 422
    assert len(list((daemon.home / "store" / "manifests").iterdir())) == 1


def test_a_body_without_a_length_is_counted(shared_daemon: Daemon) -> None:
    def endless() -> object:
        for _ in range(64):
            yield bytes(1 << 20)

    try:
        answer = shared_daemon.request("POST", "/v1/blobs/missing", content=endless())
        assert answer.status_code == 413
    except httpx.TransportError:
        pass  # the daemon closed the connection in the middle of the body
    memory = Path(f"/proc/{shared_daemon.listening['pid']}/status").read_text()
    assert int(memory.split("VmHWM:")[1].split()[0]) < 200_000


def test_sigterm_as_soon_as_it_is_ready_drains(home: Path) -> None:
    for _ in range(3):
        with Daemon(home) as daemon:
            assert daemon.stop() == 0
            assert not (home / "daemon.json").exists()
