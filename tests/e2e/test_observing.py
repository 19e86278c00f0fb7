"""What is to be seen of a real daemon: its metrics, its events as they come, and its log."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.caches import CacheSession, CacheTarget
from support.commands import as_json, run
from support.daemon import Daemon
from support.forked import clean_environment, start
from support.waiting import until
from torpor.cli.events import following
from torpor.client.api import Api
from torpor.client.discover import find_endpoint
from torpor.state.errors import Conflict


@pytest.fixture
def logged(home: Path) -> Daemon:
    return Daemon(home, settings={"TORPOR_LOG_FORMAT": "json"})


def values(daemon: Daemon) -> dict[tuple[str, str], float]:
    """Every sample by its name and the value of its first label."""
    answer = daemon.request("GET", "/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.text)
    return {(s.name, next(iter(s.labels.values()), "")): s.value for each in families for s in each.samples}


def test_a_save_and_a_restore_are_measured(logged: Daemon) -> None:
    with logged as daemon, daemon.keeper() as keeper:
        session = CacheSession()
        session.grow(70, 1)
        saved = keeper.save("measured", session).wait(60)
        keeper.restore("measured", CacheTarget())
        keeper.save_group("both", {"a": session, "b": CacheSession()}).wait(60)
        with pytest.raises(Conflict):
            keeper.fork("measured", "measured")
        until(lambda: ("torpor_restore_seconds_count", "full") in values(daemon))
        found = values(daemon)
        assert found["torpor_backups_total", "success"] == 3
        assert found["torpor_backups_total", "conflict"] == 1
        assert found["torpor_save_seconds_count", ""] == found["torpor_stall_seconds_count", ""] == 2
        assert 0 < found["torpor_stall_seconds_sum", ""] < found["torpor_save_seconds_sum", ""] < 60
        assert found["torpor_save_seconds_sum", ""] > found["torpor_commit_seconds_sum", ""] > 0
        assert found["torpor_backups_stored", ""] == 3
        assert found["torpor_session_last_success_timestamp_seconds", "measured"] == saved.created_at
        assert found["torpor_http_request_seconds_count", "/v1/backups/{backup_id}"] == 2  # a save and the fork
        assert found["torpor_metric_errors", ""] == 0
        assert daemon.request("GET", "/metrics", token="wrong").status_code == 401
        assert all(name.startswith(("torpor_", "process_")) for name, _ in found)
        entries = [orjson.loads(line) for line in (daemon.home / "logs" / "daemon.log").read_bytes().splitlines()]
        assert {"at", "level", "logger", "message", "thread"} == set(entries[0])


def test_events_as_they_come(home: Path, tmp_path: Path) -> None:
    """A wait ends with the event, not with its time; a stop of the daemon ends it, and the next daemon goes on."""
    seen: list[str] = []
    with Daemon(home) as daemon:
        assert run(home, "events") == "Nothing has happened yet.\n"
        api = Api(lambda: find_endpoint({}, home=home))
        follower = threading.Thread(target=_follow, args=(api, seen), daemon=True)
        follower.start()
        watch(daemon, tmp_path / "one")
        until(lambda: len(seen) == 1)
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 10  # somebody waits for an event
    with Daemon(home) as daemon:
        watch(daemon, tmp_path / "two")
        until(lambda: len(seen) == 2)
        follower.join(20)
        api.close()
        found = as_json(home, "events")["events"]
        assert [event["detail"] for event in reversed(found)] == seen
        assert all(name in run(home, "events") for name in ("one", "two"))
        with (tmp_path / "said").open("w+b") as said, (tmp_path / "errors").open("w+b") as errors:
            words = ["events", "--follow", "--json", "--limit", "1"]
            running = start(words, clean_environment() | {"TORPOR_HOME": str(home)}, stdout=said, stderr=errors)
            until(lambda: (tmp_path / "said").stat().st_size > 0)
            watch(daemon, tmp_path / "three")
            until(lambda: len((tmp_path / "said").read_bytes().splitlines()) == 2)
            running.send_signal(2)
            assert running.wait(20) == 130
        assert [orjson.loads(line)["level"] for line in (tmp_path / "said").read_bytes().splitlines()] == [
            "warning"
        ] * 2


def _follow(api: Api, seen: list[str]) -> None:
    for event in following(api, 0):
        seen.append(event["detail"])
        if len(seen) == 2:
            return


def watch(daemon: Daemon, folder: Path) -> None:
    """Have an event: a file that is no backup."""
    folder.mkdir()
    (folder / "no-backup.qwnbak").write_bytes(b"{")
    assert daemon.request("POST", "/v1/watches", json={"folder": str(folder)}).status_code in (200, 201)


@pytest.mark.parametrize("query", ["after=-1", "after=x", "after=0&wait_s=1000", "after=99999999999999999999"])
def test_a_question_that_is_none(shared_daemon: Daemon, query: str) -> None:
    assert shared_daemon.request("GET", f"/v1/events?{query}").status_code == 422


def test_ids_that_began_anew(shared_daemon: Daemon) -> None:
    """A follower that knows a later id than there is: the index was made anew, and all of its events are new."""
    newest = shared_daemon.request("GET", "/v1/events").json()
    found = shared_daemon.request("GET", f"/v1/events?after={newest['after'] + 100}&limit=1000").json()
    assert [e["id"] for e in found["events"]][-50:] == [e["id"] for e in reversed(newest["events"])]
