"""The summary in the status: from the parts of a daemon, and to each as much as they may know."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from sqlalchemy import insert
from starlette.testclient import TestClient
from support.bucket_daemon import URL, BucketDaemon
from support.kept import leaf
from support.manifests import manifest
from torpor.daemon.care import Care
from torpor.daemon.settings import load_settings
from torpor.daemon.summary import SummaryWatch
from torpor.daemon.sync_memory import SyncMemory
from torpor.daemon.tokens import Tokens
from torpor.db.damage import mark_damaged
from torpor.db.remembered import Remembered
from torpor.db.schema import outbox
from torpor.db.standing import standing
from torpor.state.errors import IndexDamaged
from torpor.state.ids import parse_digest
from torpor.state.manifest import BlobRef
from torpor.state.summary import Facts, summarise
from ulid import ULID

ORIGIN = "https://page.example"


class Status:
    def __init__(self, folder: Path) -> None:
        self.daemon = BucketDaemon(folder / "home")
        self.tokens = Tokens(self.daemon.home.tokens_json, "owner", lambda: 1.0)
        settings = load_settings()
        memory = SyncMemory(Remembered(self.daemon.catalog.index), time.time)
        self.care = Care(self.daemon.home, self.daemon.catalog, memory, None, settings)
        gate = self.daemon.gate(self.tokens, care=self.care)
        self.client = TestClient(gate, raise_server_exceptions=False, base_url=URL)

    def summary(self, token: str = "owner") -> Any:
        answer = self.client.get("/v1/status", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        return answer.json()["summary"]


@pytest.fixture
def status(tmp_path: Path) -> Iterator[Status]:
    made = Status(tmp_path)
    yield made
    made.daemon.close()


def test_it_says_what_is_worst(status: Status) -> None:
    assert status.summary()["sentence"] == "Nothing sleeps here yet"
    data = b"of a backup"
    ref = BlobRef(parse_digest(blake3(data).hexdigest()), len(data))
    path = status.daemon.catalog.staging.new_path()
    path.write_bytes(data)
    status.daemon.catalog.blobs.publish(path, ref, set())
    layers = {"metadata": {}, "text_context": {"messages": []}, "media": [], "vision_cache": {"0": leaf(ref)}}
    status.daemon.catalog.commit_all([manifest(session_id="s", kv_cache=None, layers=layers)])
    assert status.summary()["sentence"].startswith("1 session saved on this machine, last ")
    with status.daemon.catalog.index.writing() as connection:
        mark_damaged(connection, ref.digest, 1.0)
    assert status.summary()["sentence"] == "1 backup is damaged"


def test_a_backup_without_its_manifest_is_damaged_until_it_is_removed(status: Status) -> None:
    layers = {"metadata": {}, "text_context": {"messages": []}, "media": [], "vision_cache": {}}
    made = manifest(session_id="s", kv_cache=None, layers=layers)
    status.daemon.catalog.commit_all([made])
    care = status.care.manifests
    status.daemon.catalog.manifests.path(made.id).write_bytes(b"torn")
    assert care.look(made.id) == "damaged"
    assert status.summary()["sentence"] == "1 backup is damaged"
    status.daemon.catalog.index.remove_backup(made.id)
    assert status.summary()["sentence"] == "Nothing sleeps here yet"


def test_uploads_and_removals_that_were_given_up_are_told_apart(status: Status) -> None:
    index = status.daemon.catalog.index
    for backup_id, kind in (("01", "push"), ("02", "remove")):
        with index.writing() as connection:
            row = {"backup_id": backup_id, "session_id": "s", "kind": kind, "stage": "text" if kind == "push" else ""}
            row |= {"priority": 1, "size_bytes": 1, "state": "dead", "attempts": 9, "next_at": 0.0, "created_at": 0.0}
            connection.execute(insert(outbox).values(row))
    with index.reading() as connection:
        found = standing(connection)
    assert (found.given_up, found.removals_given_up) == (1, 1)


def test_a_session_that_stays_here_is_not_counted_as_safe(status: Status) -> None:
    layers = {"metadata": {}, "text_context": {"messages": []}, "media": [], "vision_cache": {}}
    status.daemon.catalog.commit_all(
        [manifest(id=str(ULID()), session_id=each, kv_cache=None, layers=layers) for each in ("goes", "stays")]
    )
    status.daemon.catalog.index.set_no_sync("stays", True)
    with status.daemon.catalog.index.reading() as connection:
        found = standing(connection)
    assert (found.sessions, found.staying) == (2, 1)
    assert status.summary()["sentence"].startswith("2 sessions saved on this machine")


def test_a_stream_of_an_index_that_cannot_be_read_fails_with_its_reason(
    status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn() -> None:
        raise IndexDamaged("it is torn")

    monkeypatch.setattr(status.daemon.catalog.index, "reading", torn)
    answer = status.client.get("/v1/events/stream", headers={"Authorization": "Bearer owner"})
    assert (answer.status_code, answer.json()["detail"]) == (500, "it is torn")


def test_what_became_other_by_itself_is_noted_once() -> None:
    facts, noted = [Facts()], list[int]()
    watch = SummaryWatch(lambda: summarise(facts[0]), lambda: noted.append(1))
    for full, times in ((False, 1), (False, 1), (True, 2), (True, 2), (False, 3)):
        facts[0] = Facts(disk_full=full)
        watch.look()
        assert len(noted) == times


def test_who_may_not_approve_hears_of_no_other_page(status: Status) -> None:
    ask = {"label": "A page", "scopes": ["read"]}
    asked = status.client.post("/v1/pair", json=ask, headers={"Origin": ORIGIN})
    assert asked.status_code == 201, asked.text
    found = status.summary()
    assert (found["level"], found["asking"], found["sentence"]) == ("attention", [ORIGIN], f"{ORIGIN} asks for access")
    _, reader = status.tokens.new("reader", ["read"])
    assert (status.summary(reader)["level"], status.summary(reader)["asking"]) == ("ok", [])
