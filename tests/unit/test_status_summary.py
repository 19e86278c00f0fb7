"""The summary in the status: from the parts of a daemon, and to each as much as they may know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from starlette.testclient import TestClient
from support.bucket_daemon import URL, BucketDaemon
from support.kept import leaf
from support.manifests import manifest
from torpor.daemon.tokens import Tokens
from torpor.db.damage import mark_damaged
from torpor.state.ids import parse_digest
from torpor.state.manifest import BlobRef

ORIGIN = "https://page.example"


class Status:
    def __init__(self, folder: Path) -> None:
        self.daemon = BucketDaemon(folder / "home")
        self.tokens = Tokens(self.daemon.home.tokens_json, "owner", lambda: 1.0)
        self.client = TestClient(self.daemon.gate(self.tokens), raise_server_exceptions=False, base_url=URL)

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


def test_who_may_not_approve_hears_of_no_other_page(status: Status) -> None:
    ask = {"label": "A page", "scopes": ["read"]}
    asked = status.client.post("/v1/pair", json=ask, headers={"Origin": ORIGIN})
    assert asked.status_code == 201, asked.text
    found = status.summary()
    assert (found["level"], found["asking"], found["sentence"]) == ("attention", [ORIGIN], f"{ORIGIN} asks for access")
    _, reader = status.tokens.new("reader", ["read"])
    assert (status.summary(reader)["level"], status.summary(reader)["asking"]) == ("ok", [])
