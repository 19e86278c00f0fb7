"""Small saves: all but new KV, cheap enough for every message. What the last whole save wrote is referred to."""

from __future__ import annotations

import pytest
import torch
from support.caches import CacheSession, CacheTarget
from support.daemon import Daemon
from support.switching import ASK, chat, model_a, options, target_of
from torpor.adapters.dynamic_cache import LiveCache
from torpor.client import KVView

SECOND = {"role": "user", "content": "And what is behind it? " * 12}


def grown(tokens: int) -> CacheSession:
    session = CacheSession()
    session.grow(tokens, 1)
    return session


def test_blocks_that_a_whole_save_wrote_are_referred_to_and_none_is_written(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        session = grown(1000)
        whole = keeper.save("s", session).wait(60)
        before, raw = set(daemon.blob_files()), keeper.manifest(whole.id)[1]
        session.grow(300, 2)
        small = keeper.save("s", session, small=True).wait(60)
        assert set(daemon.blob_files()) == before
        made = keeper.manifest(small.id)[1]
        assert raw.kv_cache is not None
        assert made.kv_cache is not None
        assert (made.kv_cache.tokens, made.kv_cache.blocks) == (960, raw.kv_cache.blocks[:15])
        assert (made.parent_id, made.tokens, small.tokens) == (whole.id, 1301, 1301)
        plan = keeper.plan("s", CacheTarget())
        assert (plan.mode, plan.tokens_reused, plan.tokens_prefill) == ("prefix", 960, 341)
        woken = keeper.restore("s", CacheTarget()).session
        assert all(torch.equal(a, b[:, :, :960]) for a, b in zip(woken.tensors(), session.tensors(), strict=True))


def test_the_next_whole_save_writes_as_if_there_had_been_no_small_one(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        session = grown(1000)
        keeper.save("s", session).wait(60)
        for seed in range(3):
            session.grow(20, seed)
            keeper.save("s", session, small=True).wait(60)
        before = set(daemon.blob_files())
        keeper.save("s", session).wait(60)
        written = {path.stat().st_size // (3 * 2 * 2 * 8 * 2) for path in set(daemon.blob_files()) - before}
        assert written == {64, 1060 % 64}
        assert keeper.plan("s", CacheTarget()).mode == "full"


def test_what_was_cut_from_the_cache_is_not_referred_to(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        session = grown(500)
        keeper.save("cut", session).wait(60)
        session.crop_to(200)
        session.grow(100, 2)
        made = keeper.manifest(keeper.save("cut", session, small=True).wait(60).id)[1]
        assert made.kv_cache is not None
        assert made.kv_cache.tokens == 192


def test_without_a_whole_save_before_there_is_no_kv(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        backup = keeper.save("first", grown(500), small=True).wait(60)
        made = keeper.manifest(backup.id)[1]
        assert made.kv_cache is None
        assert "small save" in made.omitted["kv_cache"]
        assert keeper.plan("first", CacheTarget()).mode == "embeddings"


def test_a_block_that_is_gone_ends_what_is_referred_to(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        session = grown(500)
        whole = keeper.manifest(keeper.save("s", session).wait(60).id)[1]
        assert whole.kv_cache is not None
        gone = whole.kv_cache.blocks[3].digest
        next(path for path in daemon.blob_files() if path.name.startswith(gone)).unlink()
        made = keeper.manifest(keeper.save("s", session, small=True).wait(60).id)[1]
        assert made.kv_cache is not None
        assert made.kv_cache.tokens == 3 * 64


def test_nothing_of_the_cache_is_copied_held_or_marked(shared_daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> KVView:
        raise AssertionError("the cache was touched")

    with shared_daemon.keeper() as keeper:
        session = grown(500)
        keeper.save("light", session).wait(60)
        for name in ("copy", "hold", "follow", "mark"):
            monkeypatch.setattr(LiveCache, name, never)
        assert keeper.save("light", session, small=True).wait(60).tokens == 501


def test_a_real_model_goes_on_from_a_small_save(shared_daemon: Daemon) -> None:
    """The ids are those that were; what the blocks do not hold is prefilled, and the next tokens agree."""
    loaded = model_a()
    with shared_daemon.keeper() as keeper:
        session = chat(loaded, ASK, {"role": "user", "content": "Look at every corner. " * 6})
        session.reply(**options(loaded, 16))
        keeper.save("real", session).wait(60)
        session.say(SECOND)
        session.reply(**options(loaded, 16))
        handle = keeper.save("real", session, small=True)
        small = handle.wait(60)
        assert handle.messages == len(session.conversation) == 5
        restored = keeper.restore("real", target_of(loaded))
        woken = restored.session
        assert (restored.backup.id, restored.mode) == (small.id, "prefix")
        assert restored.plan.tokens_reused >= 64
        assert restored.plan.tokens_reused % 64 == 0
        assert torch.equal(woken.token_ids, session.token_ids)
        assert woken.conversation == session.conversation
        more = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "pad_token_id": 0}
        there, here = (each.generate(**more).logits[0] for each in (woken, session))
        assert torch.allclose(there, here, rtol=0.1, atol=0.3)
        again = keeper.save("real", woken).wait(60)
        assert again.parent_id == small.id
        assert keeper.plan("real", target_of(loaded)).mode == "full"
