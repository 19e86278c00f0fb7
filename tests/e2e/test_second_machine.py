"""Two machines, one bucket: real daemons and a real S3 server. What one saved, the other wakes bit for bit."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from support.caches import CacheSession, CacheTarget
from support.commands import as_json
from support.daemon import Daemon
from support.s3_servers import Place
from support.second_copy import in_bucket, machine
from support.waiting import until
from torpor.adapters.demo_model import Loaded, small_model, start_session
from torpor.adapters.transformers import TransformersSession, TransformersTarget
from torpor.state.errors import KeyMissing, Offline, WrongPassphrase


@pytest.fixture
def homes() -> Iterator[tuple[Path, Path]]:
    with TemporaryDirectory(prefix="torpor-") as folder:
        yield Path(folder) / "a", Path(folder) / "b"


def grown(tokens: int = 300, seed: int = 1) -> CacheSession:
    session = CacheSession(note={"pad": torch.randn(20_000, generator=torch.Generator().manual_seed(seed))})
    session.grow(tokens, seed)
    return session


def saved(daemon: Daemon, session: CacheSession, name: str = "s") -> str:
    with daemon.keeper() as keeper:
        backup = keeper.save(name, session).wait(60)
        in_bucket(keeper, backup.id)
    return backup.id


def woken_digest(daemon: Daemon, ref: str = "s") -> str:
    with daemon.keeper() as keeper:
        restored = keeper.restore(ref, CacheTarget(), require="full")
    return restored.session.digest()


def go_on(session: TransformersSession) -> tuple[list[int], torch.Tensor]:
    out = session.generate(max_new_tokens=24, output_logits=True, do_sample=False, pad_token_id=0)
    return session.token_ids[0, -24:].tolist(), torch.stack(out.logits)


def target_of(loaded: Loaded) -> TransformersTarget:
    return TransformersTarget(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)


def test_another_machine_wakes_a_session_bit_for_bit(weed_room: Place, homes: tuple[Path, Path]) -> None:
    torch.manual_seed(7)
    session = start_session(small_model(), prompt_tokens=200)
    session.generate(max_new_tokens=20, do_sample=False, pad_token_id=0)
    with machine(homes[0], weed_room) as a, a.keeper() as keeper:
        backup = keeper.save("chat", session).wait(60)
        in_bucket(keeper, backup.id)
    expected = go_on(session)
    with machine(homes[1], weed_room) as b, b.keeper() as keeper:
        assert b.blob_files() == []
        target = target_of(small_model())
        plan = keeper.plan("chat", target)
        assert (plan.mode, plan.bytes_fetch) == ("full", plan.bytes_read)
        woken = keeper.restore("chat", target, require="full")
        assert woken.plan.bytes_fetch == plan.bytes_read > 0
        assert keeper.plan("chat", target).bytes_fetch == 0
        until(lambda: keeper.api.backup("chat").absent_bytes == 0, "a file is read before the index knows of it")
        assert [m.data for m in woken.session.media] == [m.data for m in session.media]
    tokens, logits = go_on(woken.session)
    assert tokens == expected[0]
    assert len(set(tokens)) > 8  # the text does not repeat itself, so equality says something
    assert torch.equal(logits, expected[1])


def test_what_is_missing_or_damaged_here_is_healed_in_place(weed_room: Place, homes: tuple[Path, Path]) -> None:
    session = grown(500)
    with machine(homes[0], weed_room) as a:
        saved(a, session)
        files = a.blob_files()
        whole = {path: path.read_bytes() for path in files}
        gone, flipped, cut, empty = sorted(files, key=lambda path: -path.stat().st_size)[:4]
        gone.unlink()
        flipped.write_bytes(whole[flipped][:-1] + bytes([whole[flipped][-1] ^ 1]))
        cut.write_bytes(whole[cut][:100])
        empty.write_bytes(b"")
        assert woken_digest(a) == session.digest()
        assert {path: path.read_bytes() for path in a.blob_files()} == whole
        with a.remote_keeper() as keeper:  # and for a process that shares no files
            gone.unlink()
            flipped.write_bytes(bytes(len(whole[flipped])))
            assert keeper.restore("s", CacheTarget(), require="full").session.digest() == session.digest()
        assert {path: path.read_bytes() for path in a.blob_files()} == whole


def test_without_a_network_a_restore_says_what_it_lacks(weed_room: Place, homes: tuple[Path, Path]) -> None:
    session = grown(500)
    with machine(homes[0], weed_room) as a:
        backup_id = saved(a, session)
    with socket.socket() as closed:  # nobody listens there
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with machine(homes[0], weed_room, S3_ENDPOINT=address) as a, a.keeper() as keeper:
            assert keeper.restore("s", CacheTarget()).session.digest() == session.digest()  # all is here
            kv = keeper.manifest("s")[1].kv_cache
            assert kv is not None
            (homes[0] / "store" / "blobs" / kv.blocks[3].digest[:2] / kv.blocks[3].digest).unlink()
            woken = keeper.restore("s", CacheTarget())
            assert (woken.mode, woken.plan.tokens_reused) == ("prefix", 192)
            assert "block 3 is in S3, which cannot be reached" in woken.plan.layers["kv_cache"][1]
            assert "in S3, which cannot be reached" in keeper.plan("s", CacheTarget()).layers["kv_cache"][1]
            with pytest.raises(Offline, match="gives prefix, not full"):
                keeper.restore("s", CacheTarget(), require="full")
            with pytest.raises(Offline, match="not on this machine"):
                keeper.restore("01M81P35719XNDZ4R57NMV6DYZ", CacheTarget())
    with machine(homes[0], weed_room) as a:
        assert woken_digest(a, backup_id) == session.digest()


def test_a_fetch_that_was_killed_goes_on(weed_room: Place, homes: tuple[Path, Path]) -> None:
    session = grown(64 * 40)
    with machine(homes[0], weed_room) as a:
        backup_id = saved(a, session)
        total = len(a.blob_files())
    with machine(homes[1], weed_room) as b, b.keeper() as keeper:
        keeper.api.json("PUT", "/v1/sync/limits", json={"down": 500_000})
        keeper.api.backup(backup_id)
        keeper.api.json("POST", f"/v1/backups/{backup_id}/fetch", json={})
        until(lambda: len(b.blob_files()) >= 3, "nothing arrives")
        b.kill()
        kept = {path: path.stat().st_ino for path in b.blob_files()}
        assert 3 <= len(kept) < total
    with Daemon(homes[1], settings=b.settings) as b, b.keeper() as keeper:
        keeper.api.json("PUT", "/v1/sync/limits", json={"down": None})
        done = as_json(homes[1], "fetch", backup_id)
        assert (done["state"], done["blobs"]) == ("done", total - len(kept))
        assert {path: path.stat().st_ino for path in kept} == kept
        assert keeper.restore("s", CacheTarget(), require="full").session.digest() == session.digest()


def test_the_bucket_is_listed_and_its_backups_enter_the_index(weed_room: Place, homes: tuple[Path, Path]) -> None:
    sessions = {f"s-{n}": grown(100 + n, seed=n) for n in range(3)}
    with machine(homes[0], weed_room) as a, a.keeper() as keeper:
        ids = {name: keeper.save(name, session).wait(60).id for name, session in sessions.items()}
        for backup_id in ids.values():
            in_bucket(keeper, backup_id)
    with machine(homes[1], weed_room) as b, b.keeper() as keeper:
        listed = as_json(homes[1], "ls", "--remote")
        assert {row["session_id"]: (row["id"], row["here"]) for row in listed["backups"]} == {
            name: (backup_id, False) for name, backup_id in ids.items()
        }
        assert keeper.api.backups() == []
        for expected in (sorted(ids.values()), []):
            done = as_json(homes[1], "index", "rebuild", "--from", "s3")
            assert (done["adopted"], done["skipped"]) == (expected, [])
        assert [(b.id, b.absent_bytes > 0) for b in keeper.api.backups()] == [
            (backup_id, True) for backup_id in sorted(ids.values(), reverse=True)
        ]
        assert b.blob_files() == []
        for name, session in sessions.items():
            assert keeper.restore(name, CacheTarget(), require="full").session.digest() == session.digest()
        woken = keeper.restore("s-0", CacheTarget(), require="full").session  # it goes on here, and back there
        woken.grow(70, 9)
        newer = keeper.save("s-0", woken).wait(60)
        forked = keeper.fork(ids["s-1"], "other")
        assert keeper.restore(forked.id, CacheTarget()).session.digest() == sessions["s-1"].digest()
        in_bucket(keeper, newer.id)
    with machine(homes[0], weed_room) as a, a.keeper() as keeper:
        assert keeper.restore(newer.id, CacheTarget(), require="full").session.digest() == woken.digest()


def test_an_encrypted_bucket_opens_with_its_passphrase_alone(weed_room: Place, homes: tuple[Path, Path]) -> None:
    session = grown()
    secret = {"passphrase": "correct horse battery staple"}
    with machine(homes[0], weed_room) as a, a.keeper() as keeper:
        keeper.api.json("POST", "/v1/key/init", json=secret)
        backup_id = saved(a, session)
    with machine(homes[1], weed_room) as b, b.keeper() as keeper:
        with pytest.raises(KeyMissing):
            keeper.restore(backup_id, CacheTarget())
        with pytest.raises(WrongPassphrase):
            keeper.api.json("POST", "/v1/key/init", json={"passphrase": "wrong horse battery staple"})
        keeper.api.json("POST", "/v1/key/init", json=secret)
        assert woken_digest(b) == session.digest()
        blob = b.blob_files()[0]
        blob.write_bytes(os.urandom(blob.stat().st_size))
        assert woken_digest(b) == session.digest()
