"""What a daemon opened is asked for before anything is sent: a bucket may be emptied, replaced, or given a key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bucket_daemon import BucketDaemon
from torpor.state.errors import KeyMissing, UnknownRepository
from torpor.state.remote import REPO_NAME


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[BucketDaemon]:
    made = BucketDaemon(tmp_path / "home")
    yield made
    made.close()


def test_a_bucket_that_was_emptied_or_replaced_is_not_written_to(daemon: BucketDaemon) -> None:
    opened = daemon.repository()
    opened.assure()
    mine = daemon.bucket.server.objects.pop(REPO_NAME)
    with pytest.raises(UnknownRepository, match="is gone, or another"):
        opened.assure()
    daemon.repository()
    with pytest.raises(UnknownRepository, match="is gone, or another"):
        opened.assure()
    daemon.bucket.server.objects[REPO_NAME] = mine
    opened.assure()


def test_a_bucket_that_got_a_key_takes_nothing_plain(daemon: BucketDaemon) -> None:
    opened = daemon.repository()
    daemon.bucket.server.objects["keys/0011223344556677.json"] = daemon.bucket.server.objects[REPO_NAME]
    with pytest.raises(KeyMissing):
        opened.assure()
