"""The second copy with a real daemon and a real S3 server: it goes by itself, and says how it is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from support.caches import CacheSession
from support.commands import as_json, run
from support.daemon import Daemon
from support.s3_servers import Place, new_place, running_weed
from support.waiting import until
from torpor.state.crash_points import SYNC_POINTS

POINTS = (
    [point for point in SYNC_POINTS if point != "push.superseded"]
    if os.environ.get("TORPOR_SOAK")
    else ["push.record-sent"]  # tests/faults/test_kill_sync.py has more
)


def sync(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.request("GET", "/v1/sync").json()
    return found


def synced(daemon: Daemon) -> None:
    def done() -> bool:
        found = sync(daemon)
        return found["state"] == "idle" and not found["waiting_count"] and found["last_synced_at"] is not None

    until(done, lambda: sync(daemon))


def save(daemon: Daemon, session_id: str, tokens: int = 70, seed: int = 1) -> str:
    session = CacheSession()
    session.grow(tokens, seed)
    with daemon.keeper() as keeper:
        return keeper.save(session_id, session).wait(60).id


def test_without_s3_everything_says_so(daemon: Daemon, home: Path) -> None:
    assert as_json(home, "sync", "status") == {"on": False, "state": "off", "warnings": []}
    assert "no S3 storage is configured" in run(home, "sync", "status")
    assert "second copy  off" in run(home, "status")
    for method, path in (("POST", "now"), ("POST", "pause"), ("POST", "collect"), ("PUT", "limits"), ("PUT", "policy")):
        answer = daemon.request(method, f"/v1/sync/{path}", json={"kv": "never"} if path == "policy" else {})
        assert answer.json()["code"] == "sync-off", path
    backup_id = save(daemon, "s")
    assert daemon.request("GET", f"/v1/backups/{backup_id}").json()["remote"] is None
    assert "in S3" not in run(home, "ls")
    assert as_json(home, "rm", backup_id, "--purge")["purged"][0]["in_bucket"] == "off"
    assert daemon.request("GET", "/v1/backups").json()["backups"] == []


def test_pause_limit_policy_and_no_sync(home: Path, weed_room: Place) -> None:
    with Daemon(home, settings=weed_room.settings) as daemon:
        as_json(home, "sync", "pause", "1h")
        first = save(daemon, "s")
        assert as_json(home, "sync", "limit", "--up", "2M") == {"up": 2 << 20, "down": None}
        assert as_json(home, "sync", "policy", "never", "--daily", "5G")["kv_daily_bytes"] == 5 << 30
        daemon.stop()
    with Daemon(home, settings=weed_room.settings) as daemon:
        found = sync(daemon)
        assert (found["state"], found["limits"]["up"], found["kv_policy"]) == ("paused", 2 << 20, "never")
        assert [row["stage"] for row in found["waiting"]] == ["text", "kv"]
        assert "paused since" in run(home, "sync", "status")
        assert as_json(home, "sync", "now", "--wait", status=4)["code"] == "refused"
        assert as_json(home, "no-sync", "secret") == {
            "session_id": "secret",
            "no_sync": True,
            "backups": 0,
            "in_bucket": 0,
        }
        hidden = save(daemon, "secret", seed=2)
        with daemon.keeper() as keeper:
            fork = keeper.fork("secret").id  # it says what the other said
        daemon.request("POST", "/v1/sync/resume").raise_for_status()
        assert as_json(home, "sync", "now", "--wait")["state"] == "idle"
        rows = places(daemon)
        assert rows[first]["stages"] == ["text"]
        assert rows[first]["held"] == "the policy is `never`"
        assert [rows[each]["stages"] + rows[each]["waiting"] for each in (hidden, fork)] == [[], []]
        assert "kv kept here" in run(home, "ls")
        assert "the policy is `never`" in run(home, "sync", "status")
        daemon.request("PUT", "/v1/sync/policy", json={"kv": "always"}).raise_for_status()
        daemon.request("PUT", "/v1/sessions/secret/no-sync", json={"no_sync": False}).raise_for_status()
        assert as_json(home, "sync", "now", "--wait")["waiting_count"] == 0
        assert [places(daemon)[each]["stages"] for each in (first, hidden, fork)] == [["text", "kv"]] * 2 + [[]]


def places(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {row["id"]: row["remote"] for row in daemon.request("GET", "/v1/backups").json()["backups"]}


def test_a_backup_leaves_the_bucket_with_purge_alone(home: Path, weed_room: Place) -> None:
    def records() -> list[str]:
        found = weed_room.client().list_objects_v2(Bucket=weed_room.bucket, Prefix=f"{weed_room.prefix}manifests/")
        return [each["Key"] for each in found.get("Contents", [])]

    with Daemon(home, settings=weed_room.settings) as daemon:
        kept, gone = save(daemon, "s"), save(daemon, "t", seed=2)
        synced(daemon)
        whole = {"stages": ["text", "kv"], "checked": True, "waiting": [], "given_up": [], "held": None}
        assert places(daemon) == {kept: whole, gone: whole}
        daemon.request("DELETE", f"/v1/backups/{kept}").raise_for_status()
        as_json(home, "rm", gone, "--purge")
        synced(daemon)
        assert [name.split("/")[-1].split(".")[0] for name in records()] == [kept]
        daemon.request("DELETE", f"/v1/backups/{kept}", params={"purge": True}).raise_for_status()
        until(lambda: not records(), records)
        assert daemon.request("POST", "/v1/sync/collect", json={"dry_run": True}).json()["records"] == 0


def test_the_queue_is_derived_when_s3_comes_later_and_after_the_index_is_lost(home: Path, weed_room: Place) -> None:
    with Daemon(home) as daemon:
        save(daemon, "s")
        daemon.stop()
    with Daemon(home, settings=weed_room.settings) as daemon:
        synced(daemon)
        daemon.stop()
    before = blobs(weed_room)
    assert before
    for file in home.glob("index.sqlite*"):
        file.unlink()
    with Daemon(home, settings=weed_room.settings) as daemon:
        synced(daemon)
    assert blobs(weed_room) == before  # what is there is found, and not sent again


def blobs(place: Place) -> set[str]:
    found = place.client().list_objects_v2(Bucket=place.bucket, Prefix=f"{place.prefix}blobs/")
    return {each["Key"] for each in found.get("Contents", [])}


def test_a_server_that_comes_back_is_noticed_within_seconds(home: Path, tmp_path: Path) -> None:
    with running_weed() as server:
        place = new_place(server)
        with Daemon(home, settings=place.settings) as daemon:
            save(daemon, "s")
            synced(daemon)
            server.kill()
            save(daemon, "s", 140)
            until(lambda: sync(daemon)["state"] == "offline", lambda: sync(daemon))
            assert all(not entry["attempts"] for entry in sync(daemon)["retrying"])
            assert "offline since" in run(home, "status")
            assert as_json(home, "sync", "now", "--wait", status=8)["code"] == "offline"
            server.start()
            at = time.monotonic()
            synced(daemon)
            assert time.monotonic() - at < 15
            assert "sync-well" in {event["kind"] for event in daemon.request("GET", "/v1/events").json()["events"]}


@pytest.mark.parametrize("point", POINTS)
def test_a_daemon_that_is_killed_goes_on(home: Path, weed_room: Place, point: str) -> None:
    with Daemon(home, settings=weed_room.settings, crash_at=point) as daemon:
        save(daemon, "s")
        assert daemon.join(30) == -9
    before = blobs(weed_room)
    assert before
    with Daemon(home, settings=weed_room.settings) as daemon:
        synced(daemon)
        [row] = daemon.request("GET", "/v1/backups").json()["backups"]
        assert (row["remote"]["stages"], row["remote"]["checked"]) == (["text", "kv"], True)
    assert before <= blobs(weed_room)


def test_a_stop_in_mid_transfer_is_prompt(home: Path, weed_room: Place) -> None:
    with Daemon(home, settings=weed_room.settings) as daemon:
        daemon.request("PUT", "/v1/sync/limits", json={"up": 20_000}).raise_for_status()
        save(daemon, "s", 4000)
        until(lambda: sync(daemon)["state"] == "busy", lambda: sync(daemon))
        until(lambda: (sync(daemon)["running"] or {"sent_bytes": 0})["sent_bytes"] > 0, lambda: sync(daemon))
        at = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - at < 12  # the rest would take half a minute


def test_wrong_keys_are_said_and_burn_nothing(home: Path, weed_room: Place) -> None:
    wrong = {**weed_room.settings, "S3_SECRET_KEY": "wrong-" + "x" * 30}
    with Daemon(home, settings=wrong) as daemon:
        save(daemon, "s")
        until(lambda: sync(daemon)["state"] == "denied", lambda: sync(daemon))
        found = sync(daemon)
        assert found["waiting_count"] == 2
        assert "S3_SECRET_KEY" in found["hint"]
        assert "wrong-" not in str(found) + (home / "logs" / "daemon.log").read_text()
        daemon.stop()
    with Daemon(home, settings=weed_room.settings) as daemon:
        synced(daemon)
