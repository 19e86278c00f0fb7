"""The SDK as from a container: a URL and a token, no file of the home."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.caches import CacheSession, CacheTarget
from support.daemon import Daemon
from torpor.adapters.demo_model import small_model, start_session
from torpor.adapters.transformers import TransformersTarget
from torpor.client import Keeper, connect
from torpor.state.errors import BlobDamaged, RestoreRefused


@pytest.fixture
def keeper(shared_daemon: Daemon) -> Iterator[Keeper]:
    with shared_daemon.remote_keeper() as keeper:
        yield keeper


def test_a_session_goes_there_and_back(keeper: Keeper) -> None:
    loaded = small_model()
    torch.manual_seed(11)
    session = start_session(loaded, prompt_tokens=300)
    options = {"do_sample": True, "pad_token_id": 0, "max_new_tokens": 20}
    session.generate(**options)
    assert keeper.api.endpoint.home is None
    backup = keeper.save("container", session).wait(60)
    session.generate(**options)
    target = TransformersTarget(small_model().model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)
    woken = keeper.restore("container", target, require="full")
    woken.session.generate(**options)
    assert woken.backup.id == backup.id
    assert torch.equal(woken.session.token_ids, session.token_ids)


def test_only_the_new_part_is_sent(shared_daemon: Daemon, keeper: Keeper) -> None:
    session = CacheSession()
    session.grow(1000, 1)
    keeper.save("incremental", session).wait(60)
    before = set(shared_daemon.blob_files())
    session.grow(3, 2)
    keeper.save("incremental", session).wait(60)
    assert len(set(shared_daemon.blob_files()) - before) == 1


def test_both_ways_see_the_same_backups(shared_daemon: Daemon, keeper: Keeper) -> None:
    session = CacheSession()
    session.grow(200, 9)
    with shared_daemon.keeper() as local:
        over_http, over_files = keeper.save("both", session).wait(60), local.save("both-too", session).wait(60)
        assert local.restore(over_http.id, CacheTarget()).session.digest() == session.digest()
        assert keeper.restore(over_files.id, CacheTarget()).session.digest() == session.digest()


def test_a_damaged_blob_is_noticed_on_this_side(shared_daemon: Daemon, keeper: Keeper) -> None:
    session = CacheSession()
    session.grow(64, 77)
    backup = keeper.save("damaged", session).wait(60)
    digest = keeper.manifest(backup.id)[1].kv_cache.blocks[0].digest  # type: ignore[union-attr]
    path = shared_daemon.home / "store" / "blobs" / digest[:2] / digest
    data = bytearray(path.read_bytes())
    data[0] ^= 128
    path.write_bytes(data)
    target = CacheTarget()
    with pytest.raises(RestoreRefused) as caught:
        keeper.restore(backup.id, target, require="full")
    assert isinstance(caught.value.__cause__, BlobDamaged)
    assert target.adopted == 0
    path.unlink()


def test_the_environment_names_the_daemon(shared_daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORPOR_URL", shared_daemon.url + "/")
    monkeypatch.setenv("TORPOR_TOKEN", shared_daemon.token)
    with connect() as keeper:
        assert keeper.api.status()["pid"] == shared_daemon.listening["pid"]
        assert keeper.api.endpoint.home is None


def test_a_blob_whose_bytes_are_not_its_digest_is_refused(shared_daemon: Daemon) -> None:
    before = len(shared_daemon.blob_files())
    answer = shared_daemon.request("PUT", "/v1/blobs/" + "a" * 64, content=b"other bytes")
    assert answer.status_code == 422
    assert len(shared_daemon.blob_files()) == before
    staging = shared_daemon.home / "store" / "staging"
    assert [p for p in staging.rglob("*") if p.suffix == ".tmp"] == []


def test_a_part_of_a_blob_can_be_asked_for(shared_daemon: Daemon, keeper: Keeper) -> None:
    ref = keeper.blobs.put([memoryview(b"0123456789")]).ref
    answer = shared_daemon.request("GET", f"/v1/blobs/{ref.digest}", headers={"Range": "bytes=3-5"})
    assert (answer.status_code, answer.content) == (206, b"345")
