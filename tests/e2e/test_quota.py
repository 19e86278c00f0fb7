"""A quota that is used up: a typed error before anything is written, and text and tokens are kept all the same."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.caches import CacheSession, CacheTarget
from support.commands import as_json, run
from support.daemon import Daemon
from torpor.adapters.plain import PlainSession
from torpor.client import Keeper
from torpor.state.errors import QuotaFull
from ulid import ULID

QUOTA = 24 << 20
MIB_TOKENS = 256  # of `large()`: 4 layers x K, V x 4 heads x 64 dims x 2 bytes = 4 KiB a token


def large(tokens: int, seed: int, **note: object) -> CacheSession:
    session = CacheSession(layers=4, heads=4, dim=64, note=dict(note))
    session.grow(tokens, seed)
    return session


def du(folder: Path) -> int:
    done = subprocess.run(["du", "-s", "--block-size=1", str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    settings = {"TORPOR_QUOTA": str(QUOTA), "TORPOR_FREE_FLOOR": "0"}
    with Daemon(tmp_path_factory.mktemp("quota") / "home", settings=settings) as daemon:
        yield daemon


@pytest.fixture
def keeper(small: Daemon) -> Iterator[Keeper]:
    with small.keeper() as keeper:
        yield keeper
        for backup in keeper.api.backups(limit=1000):
            keeper.api.purge(backup.id)


@pytest.mark.parametrize("over_http", [False, True])
def test_a_save_that_does_not_fit_is_refused_before_it_writes(small: Daemon, keeper: Keeper, over_http: bool) -> None:
    before = small.blob_files()
    saver = small.remote_keeper() if over_http else keeper
    try:
        handle = saver.save("big", large(40 * MIB_TOKENS, 1, said="a long story"))
        with pytest.raises(QuotaFull) as caught:
            handle.wait(60)
    finally:
        if over_http:
            saver.close()
    error = caught.value
    assert "24.0 MiB" in error.detail
    assert error.kept == handle.backup_id
    assert error.kept in error.hint
    assert small.blob_files() == before
    restored = keeper.restore("big", CacheTarget())
    assert (restored.backup.id, restored.mode) == (error.kept, "embeddings")
    assert restored.session.note == {"said": "a long story"}
    assert restored.session.tokens == 0
    assert "kv_cache was not saved: the quota of the store was used up" in restored.plan.notes


def test_the_status_is_what_du_says(small: Daemon, keeper: Keeper) -> None:
    keeper.save("one", large(3 * MIB_TOKENS, 2)).wait(60)
    for number in range(20):
        keeper.save(f"text-{number}", CacheSession(note={"n": number})).wait(60)
    until = time.monotonic() + 60
    while True:  # the index and its log are written to behind a save, too
        found = as_json(small.home, "status")["storage"]
        if abs(found["used_bytes"] / du(small.home) - 1) < 0.01:
            break
        assert time.monotonic() < until
    assert found["used_bytes"] == sum(found["classes"].values())
    assert found["classes"]["blobs"] >= 3 << 20
    assert found["hard_bytes"] == QUOTA
    assert "of at most 24.0 MiB" in run(small.home, "status")


def test_saves_at_once_never_pass_the_quota(small: Daemon) -> None:
    def save(number: int) -> QuotaFull | None:
        with small.keeper() as keeper:
            try:
                keeper.save(f"at-once-{number}", large(5 * MIB_TOKENS, number)).wait(60)
            except QuotaFull as error:
                return error
        return None

    with ThreadPoolExecutor(6) as pool:
        errors = [error for error in pool.map(save, range(6)) if error is not None]
    assert du(small.home) <= QUOTA
    refused = {error.kept for error in errors}
    assert None not in refused
    with small.keeper() as keeper:
        found = keeper.api.backups()
        assert len(found) == 6
        whole = [b for b in found if "kv_cache" in b.layers and not b.absent_bytes]
        assert 1 <= len(whole) <= 4  # four times 5 MiB fit 22.8; of the others the cache was refused, or let go later
        for backup in found:
            mode = keeper.restore(backup.id, CacheTarget()).mode
            assert mode == ("full" if backup in whole else "embeddings")
            keeper.api.purge(backup.id)


def test_what_is_older_makes_room(small: Daemon, keeper: Keeper) -> None:
    for number in range(5):
        session = large(6 * MIB_TOKENS, number, number=number)
        keeper.save(f"turn-{number}", session).wait(60)
        session.grow(MIB_TOKENS // 2, 50 + number)
        keeper.save(f"turn-{number}", session).wait(60)  # what it reuses is not let go for it
        assert du(small.home) <= QUOTA
    assert keeper.restore("turn-4", CacheTarget(), require="full").session.digest() == session.digest()
    assert keeper.restore("turn-0", CacheTarget()).session.note == {"number": 0}
    assert any(event["kind"] == "evicted" for event in small.request("GET", "/v1/events").json()["events"])


def test_an_import_that_does_not_fit_leaves_nothing(small: Daemon, keeper: Keeper, tmp_path: Path) -> None:
    path, before = tmp_path / "large.safetensors", small.blob_files()
    head = b'{"a":{"dtype":"U8","shape":[30,1048576],"data_offsets":[0,31457280]}}'
    path.write_bytes(len(head).to_bytes(8, "little") + head + os.urandom(30 << 20))
    with pytest.raises(QuotaFull):
        keeper.import_file(path)
    assert small.blob_files() == before
    assert as_json(small.home, "status")["storage"]["promised_bytes"] == 0


def test_a_group_is_refused_as_a_whole_and_its_text_is_kept_as_one(keeper: Keeper) -> None:
    agents = {"a": large(30 * MIB_TOKENS, 1, who="a"), "b": large(MIB_TOKENS, 2, who="b")}
    handle = keeper.save_group("agents", agents)
    with pytest.raises(QuotaFull) as caught:
        handle.wait(60)
    assert caught.value.kept == handle.group_id
    woken = keeper.restore_group("agents", {name: CacheTarget() for name in agents})
    assert {name: one.session.note["who"] for name, one in woken.items()} == {"a": "a", "b": "b"}
    assert {one.mode for one in woken.values()} == {"embeddings"}


def test_a_purge_leaves_nothing(small: Daemon, keeper: Keeper) -> None:
    session = large(2 * MIB_TOKENS, 3)
    first = keeper.save("secret-plans", session).wait(60)
    session.grow(MIB_TOKENS, 4)
    second = keeper.save("secret-plans", session).wait(60)
    before = len(small.blob_files())
    purged = as_json(small.home, "rm", "--purge", first.id)["purged"][0]
    assert (purged["freed_bytes"], purged["in_bucket"]) == (0, "off")  # the second one shares all of it
    assert purged["shared_bytes"] == 2 << 20
    assert len(small.blob_files()) == before
    assert keeper.restore("secret-plans", CacheTarget(), require="full").session.digest() == session.digest()
    run(small.home, "rename", "secret-plans", "the title of it")
    run(small.home, "pin", second.id)
    run(small.home, "pin", "--off", second.id)
    assert "3.0 MiB are free" in run(small.home, "rm", "--purge", second.id)
    assert small.blob_files() == []
    for path in small.home.rglob("*"):
        if path.is_file() and path.parent != small.home / "logs":
            raw = path.read_bytes()
            assert not any(
                word in raw for word in (first.id.encode(), second.id.encode(), b"secret-plans", b"title of")
            )


def test_what_a_page_says_at_length_fits_when_nothing_else_does(small: Daemon, keeper: Keeper) -> None:
    def fill(size_bytes: int) -> None:  # with what nothing can rebuild, so that nothing of it goes
        state = {"metadata": {}, "vision_cache": {"x": os.urandom(size_bytes)}}
        keeper.save("fills", PlainSession(state)).wait(60)

    fill(21 << 20)
    with pytest.raises(QuotaFull):
        for _ in range(20):
            fill(200 << 10)
    text = "long " * 60_000
    said = {"id": str(ULID()), "session_id": "page", "created_at": 1.0, "messages": [{"role": "user", "content": text}]}
    answer = small.request("POST", "/api/backup/drain", json={"pending": [said]}).json()
    assert answer["refused"] == []
    found = small.request("GET", "/api/backup/restore/page?text=1").json()
    assert found["conversation"][0]["content"] == text
