"""Retention in a real daemon: what was let go of comes back from the bucket, or is computed again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.caches import CacheSession, CacheTarget
from support.commands import as_json, run
from support.daemon import Daemon
from support.s3_servers import Place
from support.second_copy import in_bucket, machine
from support.waiting import until
from torpor.state.manifest import manifest_blobs

AT_ONCE = {"TORPOR_TTL_DAYS": "0.00000001"}  # a millisecond


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="torpor-") as made:
        yield Path(made) / "home"


def grown(tokens: int = 300, seed: int = 1) -> CacheSession:
    session = CacheSession()
    session.grow(tokens, seed)
    return session


def collected(home: Path) -> dict[str, int]:
    found = as_json(home, "gc")
    return {name: found[name] for name in ("removed", "dropped")}


def test_what_the_bucket_has_comes_back_by_a_restore(moto_room: Place, folder: Path) -> None:
    session = grown()
    with machine(folder, moto_room, **AT_ONCE) as daemon, daemon.keeper() as keeper:
        first = keeper.save("s", session).wait(60)
        session.grow(80, 2)
        second = keeper.save("s", session).wait(60)
        for each in (first, second):
            in_bucket(keeper, each.id)
        assert [each["what"] for each in as_json(folder, "gc", "--dry-run")["actions"]] == ["remove", "drop"]
        assert collected(folder) == {"removed": 1, "dropped": 1}
        assert "KV let go" in run(folder, "ls")
        row = keeper.api.backup("s")
        assert row.id == second.id
        assert row.absent_bytes > 0
        plan = keeper.plan("s", CacheTarget())
        assert plan.mode == "full"
        assert 0 < plan.bytes_fetch <= row.absent_bytes
        woken = keeper.restore("s", CacheTarget(), require="full")
        assert woken.session.digest() == session.digest()
        until(lambda: keeper.api.backup("s").dropped_at is None, "what is used is wanted here again")
        assert keeper.restore(first.id, CacheTarget(), require="full").backup.id == first.id  # adopted again


def test_without_a_bucket_the_plan_says_rebuild(folder: Path) -> None:
    session = grown()
    with Daemon(folder, settings=AT_ONCE) as daemon, daemon.keeper() as keeper:
        keeper.save("s", session).wait(60)
        assert collected(folder) == {"removed": 0, "dropped": 1}
        plan = keeper.plan("s", CacheTarget())
        assert plan.layers["kv_cache"] == (
            "rebuild",
            "block 0 is no longer kept here (its TTL was over, or the room was short)",
        )
        assert plan.layers["text_context"][0] == "reuse"
        assert keeper.restore("s", CacheTarget()).mode == plan.mode
        session.grow(80, 2)
        again = keeper.save("s", session).wait(60)  # reuses unread blocks that are gone: they are written again
        named = manifest_blobs(keeper.manifest(again.id)[1])
        assert {path.name for path in daemon.blob_files()} >= named.keys()
        assert keeper.restore("s", CacheTarget(), require="full").session.digest() == session.digest()


def test_a_quota_lets_go_of_the_kv_cache_that_was_used_least_lately(folder: Path) -> None:
    with Daemon(folder, settings={"TORPOR_QUOTA": "12MB"}) as daemon, daemon.keeper() as keeper:
        saved = [keeper.save(f"s{n}", grown(20_000, n)).wait(60) for n in range(2)]
        keeper.restore("s0", CacheTarget(), require="full")
        until(lambda: keeper.api.backup("s0").used_at > saved[1].used_at, "the restore counts")
        third = grown(20_000, 3)
        keeper.save("s2", third).wait(60)
        rows = {each.session_id: each for each in keeper.api.backups(limit=10)}
        assert {name: row.dropped_at is not None for name, row in rows.items()} == {
            "s0": False,
            "s1": True,
            "s2": False,
        }
        assert keeper.restore("s2", CacheTarget(), require="full").session.digest() == third.digest()
        assert [keeper.plan(f"s{n}", CacheTarget()).mode for n in range(3)] == ["full", "embeddings", "full"]


def test_commands(folder: Path) -> None:
    with Daemon(folder) as daemon, daemon.keeper() as keeper:
        made = keeper.save("s", grown(10)).wait(60)
        run(folder, "keep", "s", "--ttl", "30d", "--newest", "2")
        row = keeper.api.backup("s")
        assert row.expires_at == pytest.approx(made.created_at + 30 * 86_400)
        assert "for 30 days, and the newest 2 for ever" in run(folder, "keep", "s", "--newest", "2")
        assert "is kept until" in run(folder, "keep", made.id, "--ttl", "12h")
        assert as_json(folder, "keep", "s", "--ttl", "forever")["ttl_s"] == 1e10
        assert as_json(folder, "keep", "s", "--ttl", "default", "--newest", "default")["keep_newest"] is None
        for words in (
            ["keep", "s"],
            ["keep", made.id, "--newest", "1"],
            ["keep", "s", "--ttl", "soon"],
            ["keep", "s", "--newest", "-1"],
        ):
            assert as_json(folder, *words, status=2)["hint"]
        assert as_json(folder, "keep", "nobody", "--ttl", "1d", status=None)["code"] == "session-not-found"
        assert "Nothing goes." in run(folder, "gc", "--dry-run")
        assert as_json(folder, "gc", "--trust-clock")["distrust"] is None
