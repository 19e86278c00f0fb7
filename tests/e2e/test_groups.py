"""Several sessions saved and restored as one: all or none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from support.caches import CacheSession, CacheTarget
from support.daemon import Daemon
from support.manifests import manifest
from torpor.client import Woken
from torpor.codec import manifest_file
from torpor.state.errors import (
    BadInput,
    BlobDamaged,
    GroupIncomplete,
    GroupNotFound,
    InvalidId,
    MissingBlobs,
    RestoreRefused,
    UnsupportedState,
)
from torpor.state.manifest import GroupRef

GROUP = "01M81P35719XNDZ4R57NMVGR0P"


def sessions(*names: str, tokens: int = 100) -> dict[str, CacheSession]:
    made = {name: CacheSession(note={"name": name}) for name in names}
    for seed, session in enumerate(made.values()):
        session.grow(tokens, seed)
    return made


def targets(*names: str) -> dict[str, CacheTarget]:
    return {name: CacheTarget() for name in names}


def test_a_group_comes_back_as_it_was(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        agents = sessions("planner", "coder", "critic")
        handle = keeper.save_group("run-7", agents)
        before = {name: session.digest() for name, session in agents.items()}
        for session in agents.values():
            session.grow(30, 9)
        backups = handle.wait(60)
        assert {name: b.id for name, b in backups.items()} == handle.backup_ids
        assert {(b.group_id, b.group_name) for b in backups.values()} == {(handle.group_id, "run-7")}
        assert handle.done()
        for ref in ("run-7", handle.group_id):
            woken = keeper.restore_group(ref, targets(*agents), require="full")
            assert {name: r.session.digest() for name, r in woken.items()} == before
            assert {name: r.session.note["name"] for name, r in woken.items()} == {name: name for name in agents}
        assert keeper.restore("coder", CacheTarget()).session.digest() == before["coder"]  # a member alone, as ever
        member = keeper.manifest("coder")[1]
        assert member.group == GroupRef(handle.group_id, "run-7", 3)
        assert list((shared_daemon.home / "store" / "groups").iterdir()) == []


def test_a_member_of_a_restored_group_writes_only_what_is_new(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        keeper.save_group("g", sessions("a", "b", tokens=640)).wait(60)
        woken = keeper.restore_group("g", targets("a", "b"))
        again = {name: r.session for name, r in woken.items()}
        for session in again.values():
            session.grow(10, 5)
        backups = keeper.save_group("g", again).wait(60)
        assert all(b.parent_id == woken[name].backup.id for name, b in backups.items())
        assert max(b.bytes_written for b in backups.values()) < 640 * 3 * 2 * 2 * 8 * 2 / 4


def test_the_newest_of_two_groups_of_one_name(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        agents = sessions("a", "b")
        first = keeper.save_group("twice", agents)
        agents["a"].grow(5, 8)
        second = keeper.save_group("twice", agents)
        first.wait(60), second.wait(60)
        assert keeper.api.group("twice").id == second.group_id
        assert keeper.restore_group("twice", targets("a", "b"))["a"].session.tokens == 105
        assert keeper.restore_group(first.group_id, targets("a", "b"))["a"].session.tokens == 100
        listed = [g for g in keeper.api.groups() if g["name"] == "twice"]
        assert [(g["id"], g["name"], g["size"], g["present"]) for g in listed] == [
            (second.group_id, "twice", 2, 2),
            (first.group_id, "twice", 2, 2),
        ]
        assert [g["id"] for g in keeper.api.groups(limit=1)] == [second.group_id]


def test_a_removed_member_is_named_and_nothing_is_touched(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        backups = keeper.save_group("removed", sessions("a", "b", "c")).wait(60)
        shared_daemon.request("DELETE", f"/v1/backups/{backups['b'].id}").raise_for_status()
        given = targets("a", "b", "c")
        with pytest.raises(GroupIncomplete, match=r"1 of the 3 backups .* removed \(b\); there are: a, c"):
            keeper.restore_group("removed", given)
        with pytest.raises(GroupIncomplete, match="there are: a, c"):
            keeper.restore_group("removed", targets("a", "c"))
        assert [t.adopted for t in given.values()] == [0, 0, 0]
        assert keeper.restore("a", CacheTarget()).mode == "full"
        assert [(g["size"], g["present"]) for g in keeper.api.groups() if g["name"] == "removed"] == [(3, 2)]
        for name in ("a", "c"):
            shared_daemon.request("DELETE", f"/v1/backups/{backups[name].id}").raise_for_status()
        with pytest.raises(GroupNotFound):
            keeper.restore_group("removed", given)
        assert "removed" not in {g["name"] for g in keeper.api.groups()}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("a", "b"), "no target was given for c"),
        (("a", "b", "c", "d"), "it does not hold d"),
        (("a", "b", "x"), "no target was given for c"),
        ((), "no target was given for a, b, c"),
    ],
    ids=["missing", "extra", "another", "none"],
)
def test_each_member_has_its_target(shared_daemon: Daemon, given: tuple[str, ...], said: str) -> None:
    with shared_daemon.keeper() as keeper:
        keeper.save_group("targets", sessions("a", "b", "c")).wait(60)
        wanted = targets(*given)
        with pytest.raises(BadInput, match=said):
            keeper.restore_group("targets", wanted)
        assert all(target.adopted == 0 for target in wanted.values())


def test_a_damaged_member_keeps_all_targets_untouched(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        backups = keeper.save_group("run", sessions("a", "b", "c")).wait(60)
        block = keeper.manifest(backups["c"].id)[1].kv_cache.blocks[0]  # type: ignore[union-attr]
        path = daemon.home / "store" / "blobs" / block.digest[:2] / block.digest
        path.write_bytes(bytes(path.stat().st_size))
        given = targets("a", "b", "c")
        with pytest.raises(RestoreRefused) as caught:
            keeper.restore_group("run", given, require="full")
        assert isinstance(caught.value.__cause__, BlobDamaged)
        assert [t.adopted for t in given.values()] == [0, 0, 0]


class Refusing(CacheTarget):
    def adopt(self, woken: Woken) -> CacheSession:
        raise UnsupportedState("no room")


def test_an_adoption_that_fails_gives_back_none(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        keeper.save_group("refusing", sessions("a", "b")).wait(60)
        with pytest.raises(UnsupportedState, match="no room"):
            keeper.restore_group("refusing", {"a": CacheTarget(), "b": Refusing()})


def test_what_is_no_group_is_refused(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        one = sessions("a")["a"]
        with pytest.raises(BadInput, match="0 sessions"):
            keeper.save_group("g", {})
        with pytest.raises(BadInput, match="twice"):
            keeper.save_group("g", {"a": one, "b": one})
        with pytest.raises(InvalidId):
            keeper.save_group("no/name", {"a": one})
        with pytest.raises(InvalidId):
            keeper.save_group("g", {"../a": one})
        with pytest.raises(GroupNotFound):
            keeper.restore_group("nowhere", targets("a"))
        with pytest.raises(GroupNotFound):
            keeper.restore_group(GROUP, targets("a"))
        with pytest.raises(InvalidId):
            keeper.restore_group("no/name", targets("a"))


class Broken(CacheSession):
    def capture(self) -> Any:
        raise UnsupportedState("a lambda")


def test_a_capture_that_fails_saves_none_and_holds_nothing(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        agents = sessions("a", "b")
        keeper.save_group("g", agents).wait(60)
        for session in agents.values():
            session.grow(3, 1)
        room = keeper._saver.pool._free[:]
        with pytest.raises(UnsupportedState, match="a lambda"):
            keeper.save_group("g", {**agents, "c": Broken()})
        assert keeper._saver.pool._free == room
        assert len(keeper.api.backups()) == 2
        woken = keeper.save_group("g", agents).wait(60)
        assert keeper.restore("a", CacheTarget()).session.digest() == agents["a"].digest()
        assert len(woken) == 2


def test_a_blob_that_goes_before_the_commit_is_written_again(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon.keeper() as keeper:
        real, tries = keeper.api.commit_group, 0

        def losing(group_id: str, raws: list[bytes], **options: Any) -> Any:
            nonlocal tries
            tries += 1
            if tries == 1:
                last = manifest_file.load(raws[-1]).kv_cache
                assert last is not None
                digest = last.blocks[0].digest
                (daemon.home / "store" / "blobs" / digest[:2] / digest).unlink()
            return real(group_id, raws, **options)

        monkeypatch.setattr(keeper.api, "commit_group", losing)
        agents = sessions("a", "b")
        keeper.save_group("g", agents).wait(60)
        assert tries == 2
        woken = keeper.restore_group("g", targets("a", "b"), require="full")
        assert woken["b"].session.digest() == agents["b"].digest()


def test_a_failed_group_leaves_nothing(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(group_id: str, raws: list[bytes], **options: Any) -> Any:
        raise MissingBlobs("gone", digests=())

    with daemon.keeper() as keeper:
        monkeypatch.setattr(keeper.api, "commit_group", lost)
        handle = keeper.save_group("g", sessions("a", "b"))
        with pytest.raises(MissingBlobs):
            handle.wait(60)
        assert keeper.api.backups() == []
        assert daemon.blob_files() == []


def test_a_member_is_exported_and_imported_alone(daemon: Daemon, home: Path, tmp_path: Path) -> None:
    with daemon.keeper() as keeper:
        agents = sessions("a", "b")
        keeper.save_group("run", agents).wait(60)
        keeper.export("a", tmp_path / "a.qwnbak")
    with Daemon(tmp_path / "other") as other, other.keeper() as keeper:
        assert keeper.import_file(tmp_path / "a.qwnbak").backup.group_name == "run"
        assert keeper.restore("a", CacheTarget(), require="full").session.digest() == agents["a"].digest()
        with pytest.raises(GroupIncomplete, match="1 of the 2"):
            keeper.restore_group("run", targets("a", "b"))
        moved = keeper.import_file(tmp_path / "a.qwnbak", "elsewhere").backup
        assert moved.group_id is None


def test_the_command_line(daemon: Daemon) -> None:
    wide = daemon.environment() | {"COLUMNS": "140"}

    def torpor(*words: str) -> str:
        command = [sys.executable, "-m", "torpor.cli.entry", *words]
        done = subprocess.run(command, env=wide, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert torpor("groups") == "No groups yet.\n"
    with daemon.keeper() as keeper:
        backups = keeper.save_group("night-run", sessions("a", "b", "c")).wait(60)
        daemon.request("DELETE", f"/v1/backups/{backups['b'].id}").raise_for_status()
    assert orjson.loads(torpor("groups", "--json"))["groups"][0]["present"] == 2
    shown = torpor("groups")
    assert "night-run" in shown
    assert "2 of 3" in shown
    assert torpor("ls").count("group night-run") == 2


def body(*members: Any) -> bytes:
    return b'{"manifests":[' + b",".join(map(manifest_file.dump, members)) + b"]}"


def member(number: int, session_id: str | None = None, group: GroupRef | None = GroupRef(GROUP, "g", 2)) -> Any:  # noqa: B008
    backup_id = f"01M81P35719XNDZ4R57NMVA{number:03d}"
    return manifest(id=backup_id, session_id=session_id or f"s{number}", layers={}, kv_cache=None, group=group)


ODD: dict[str, tuple[bytes, int]] = {
    "not JSON": (b"{", 422),
    "nothing": (b"", 422),
    "a list": (b"[]", 422),
    "more than manifests": (b'{"manifests": [], "more": 1}', 422),
    "none": (body(), 422),
    "no manifest": (b'{"manifests": [1, {}]}', 422),
    "too many": (b'{"manifests": [' + b",".join([b"1"] * 1025) + b"]}", 422),
    "one backup twice": (body(member(1), member(1)), 422),
    "one session twice": (body(member(1, "s"), member(2, "s")), 422),
    "one too few": (body(member(1)), 422),
    "one too many": (body(member(1), member(2), member(3)), 422),
    "of no group": (body(member(1, group=None), member(2, group=None)), 422),
    "of another group": (body(*(member(n, group=GroupRef(GROUP[:-1] + "Q", "g", 2)) for n in (1, 2))), 422),
    "of two groups": (body(member(1), member(2, group=GroupRef(GROUP, "h", 2))), 422),
    "a blob is missing": (body(member(1), manifest(session_id="t", group=GroupRef(GROUP, "g", 2))), 409),
    "deep": (b'{"manifests":' + b"[" * 100_000, 422),
}


@pytest.mark.parametrize(("raw", "status"), ODD.values(), ids=ODD)
def test_odd_groups_change_nothing(shared_daemon: Daemon, raw: bytes, status: int) -> None:
    answer = shared_daemon.request("PUT", f"/v1/groups/{GROUP}", content=raw)
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] in ("bad-input", "invalid-manifest", "missing-blobs")
    assert shared_daemon.request("GET", f"/v1/groups/{GROUP}").status_code == 404
    assert list((shared_daemon.home / "store" / "groups").iterdir()) == []
    assert shared_daemon.request("PUT", "/v1/groups/x", content=raw).status_code == 422


def test_a_group_is_committed_once(daemon: Daemon) -> None:
    raw = body(member(1), member(2))
    for _ in range(2):
        answer = daemon.request("PUT", f"/v1/groups/{GROUP}", content=raw)
        assert answer.status_code == 201
        assert [b["session_id"] for b in answer.json()["backups"]] == ["s1", "s2"]
    other = body(member(1), member(2, "s3"))
    assert daemon.request("PUT", f"/v1/groups/{GROUP}", content=other).json()["code"] == "conflict"
    daemon.request("DELETE", f"/v1/backups/{member(1).id}").raise_for_status()
    again = daemon.request("PUT", f"/v1/groups/{GROUP}", content=raw)
    assert (again.status_code, again.json()["code"]) == (409, "conflict")
    assert "1 of it were removed" in again.json()["detail"]
    assert len(daemon.request("GET", "/v1/backups").json()["backups"]) == 1


def test_a_backup_that_only_claims_to_be_of_a_group_is_not_restored_with_it(shared_daemon: Daemon) -> None:
    with shared_daemon.keeper() as keeper:
        handle = keeper.save_group("claimed", sessions("a", "b"))
        handle.wait(60)
        more = member(7, "stranger", GroupRef(handle.group_id, "claimed", 2))
        keeper.api.commit(more.id, manifest_file.dump(more))
        with pytest.raises(BadInput, match="no target was given for stranger"):
            keeper.restore_group("claimed", targets("a", "b"))
        again = member(8, "a", GroupRef(handle.group_id, "claimed", 2))
        keeper.api.commit(again.id, manifest_file.dump(again))
        with pytest.raises(BadInput, match="of one session"):
            keeper.restore_group("claimed", targets("a", "b"))


def test_agents_on_one_model(shared_daemon: Daemon) -> None:
    """Two sessions of one model object, woken together, each go on as before."""
    from support.pictures import mixed_session, png, text
    from torpor.adapters.demo_model import small_model
    from torpor.adapters.transformers import TransformersTarget

    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        loaded = small_model()
        agents = {"sees": mixed_session(loaded, text(70), png(1), text(9)), "reads": mixed_session(loaded, text(90, 3))}
        for agent in agents.values():
            agent.generate(**settings)
        with shared_daemon.keeper() as keeper:
            keeper.save_group("agents", agents).wait(60)
            expected = {name: agent.generate(**settings).sequences for name, agent in agents.items()}
            target = TransformersTarget(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)
            woken = keeper.restore_group("agents", dict.fromkeys(agents, target), require="full")
        for name, restored in woken.items():
            assert torch.equal(restored.session.generate(**settings).sequences, expected[name])
    finally:
        torch.set_num_threads(threads)


def test_without_shared_files(shared_daemon: Daemon) -> None:
    with shared_daemon.remote_keeper() as keeper:
        agents = sessions("a", "b")
        keeper.save_group("remote", agents).wait(60)
        woken = keeper.restore_group("remote", targets("a", "b"), require="full")
        assert woken["a"].session.digest() == agents["a"].digest()
