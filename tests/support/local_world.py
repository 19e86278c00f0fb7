"""One machine's store with a collector, saves, restores, removals and evictions at once, a file operation at a time.

All of it is the real code over real files and a real index. Who goes next is decided outside: an actor is a thread that
stops before each operation on a blob's file. The time of day is the world's own, and files are as old as it says.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
from blake3 import blake3
from torpor.client.api import Api
from torpor.client.blob_access import SharedFiles
from torpor.client.digest_memo import DigestMemo
from torpor.client.kv_save import KVJob, Saved
from torpor.client.memory import Pool
from torpor.client.save import SaveWorker
from torpor.client.save_job import SaveHandle, SaveJob
from torpor.codec import manifest_file
from torpor.daemon import garbage
from torpor.daemon.compose import compose
from torpor.daemon.garbage import TRASH_S, Garbage
from torpor.daemon.reconcile import reconcile
from torpor.daemon.settings import load_settings
from torpor.db import marks
from torpor.db.index import Index
from torpor.db.presence import note_present
from torpor.db.records import NewBackup
from torpor.state.backup import Backup
from torpor.state.crash_points import no_checkpoint
from torpor.state.errors import BackupNotFound, BlobNotFound, MissingBlobs, StoreFailed
from torpor.state.manifest import BlobRef, KVLayer, KVLayout
from torpor.store.arriving import StoreBlobs
from torpor.store.home import Home

from support.manifests import FULL
from support.stepping import Actor, Killed

HOUR, DAY, YEAR = 3600.0, 86_400.0, 365 * 86_400.0
GRACE_S = DAY
LAYOUT = KVLayout("uint8", 1, (KVLayer(1, 1, 1),))
BLOCK_BYTES = LAYOUT.block_tokens * LAYOUT.token_bytes()
_ULID = "01M81P35719XNDZ4R57NM{:05d}"


def _in_first_shard(count: int) -> list[bytes]:
    """Return blocks whose digests begin alike, so that a pass has one folder to look into."""
    found: list[bytes] = []
    for number in range(1 << 20):
        block = number.to_bytes(4, "big") * (BLOCK_BYTES // 4)
        if blake3(block).hexdigest().startswith("00"):
            found.append(block)
            if len(found) == count:
                break
    return found


BLOCKS = _in_first_shard(6)
REFS = [BlobRef(blake3(block).hexdigest(), BLOCK_BYTES) for block in BLOCKS]
_thread = threading.local()


@cache
def _empty_index() -> bytes:
    """Return an index without backups: migrations take longer than a short life."""
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        Index(Path(folder) / "index").close()
        return (Path(folder) / "index").read_bytes()


class TurnLock:
    """A lock for actors: who finds it taken lets others have their turn."""

    def __init__(self) -> None:
        self.holder: Actor | None = None
        self.held = False

    def __enter__(self) -> None:
        actor: Actor | None = getattr(_thread, "actor", None)
        while self.held:
            if actor is None:
                assert self.holder is not None
                self.holder.step()
            else:
                actor.request("lock", "", lambda: None)
        self.held, self.holder = True, actor

    def __exit__(self, *_: object) -> None:
        self.held, self.holder = False, None


class AtOnce:
    """Runs in the calling thread what is submitted."""

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


class Blocks:
    """A live cache of blocks."""

    def __init__(self, blocks: Sequence[int]) -> None:
        self._blocks = blocks

    def block(self, start: int, stop: int) -> Sequence[memoryview]:
        return [memoryview(BLOCKS[self._blocks[start // LAYOUT.block_tokens]])]

    def copy(self, start: int, stop: int, into: memoryview, first: int = 0) -> None:
        at = sum(LAYOUT.tensor_bytes()[:first]) * LAYOUT.block_tokens
        into[:] = self.block(start, stop)[0][at : at + into.nbytes]


@dataclass(slots=True)
class Session:
    """A running session: its cache, and what its last save knows to be durable."""

    blocks: list[int] = field(default_factory=list)
    saved: Saved | None = None
    saving: Work | None = None


@dataclass(slots=True)
class Work:
    """What an actor does. `waited_s`: time that passed since it began, or since the backup was removed that it reads."""

    kind: str
    actor: Actor
    backup_id: str
    waited_s: float = 0.0
    removed: bool = False
    commit_fails: bool = False
    in_daemon: bool = False
    lacking: frozenset[str] = frozenset()  # what was not in the store when it began
    unread: frozenset[str] = frozenset()  # what it reuses of an earlier save without a look


class SdkApi:
    """The calls of the daemon that a save makes."""

    def __init__(self, world: World) -> None:
        self._world = world

    def commit(self, backup_id: str, raw: bytes, **_: object) -> Backup:
        work = self._world.mine()
        work.in_daemon = True
        try:
            backup = self._world.catalog.commit(backup_id, raw)
        except MissingBlobs as error:
            for digest in set(error.digests) - (work.lacking & work.unread):
                grace_s = TRASH_S if digest in work.unread else GRACE_S
                assert work.waited_s >= grace_s, "a blob went while a save counted on it"
            self._world.seen["written again"] += 1
            raise error
        finally:
            work.in_daemon = False
            self._world.failing.discard(backup_id)
        kv = manifest_file.load(raw).kv_cache  # a save that fails keeps what is smaller
        self._world.blocks_of[backup_id] = [] if kv is None else [REFS.index(ref) for ref in kv.blocks]
        return backup

    def discard(self, refs: Iterable[BlobRef]) -> None:
        garbage.discard(self._world.catalog, [ref.digest for ref in refs])


class World:
    """A home, its daemon and those who use it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.now, self.made, self.seen = 1_800_000_000.7, 0, Counter[str]()
        self.home = Home(folder)
        self.home.create()
        self.home.index.write_bytes(_empty_index())
        self.sessions = [Session(), Session()]
        self.works: list[Work] = []
        self.blocks_of: dict[str, list[int]] = {}
        self.in_bucket: set[int] = set()
        self.failing: set[str] = set()  # backups whose commit fails
        self._steer_files(patch)
        patch.setattr(garbage, "SHARDS", (0,))
        patch.setattr(garbage, "TURN_S", 0.0)
        self._start()

    def _start(self) -> None:
        self._stack = ExitStack()
        self.catalog = compose(self.home, load_settings(), self._stack)
        self.catalog._clock = lambda: self.now
        self.lock = TurnLock()
        self.catalog._lock = cast(threading.Lock, self.lock)
        self.catalog._together._lock = self.lock
        reconcile(self.catalog)
        self._let_commits_fail()
        self.garbage = Garbage(self.catalog, grace_s=GRACE_S)
        self.files = self._open_files()

    def _open_files(self) -> SharedFiles:
        """Open the store as a process of its own does."""
        files = SharedFiles(self.home, no_checkpoint)
        self._stack.callback(files.close)
        return files

    def close(self) -> None:
        """Kill everybody."""
        for work in self.works:
            if not work.actor.done:
                work.actor.step("kill")
        self.works.clear()
        self._stack.close()

    def restart(self) -> None:
        """Kill everybody and start again; what they were in the middle of stays as it is."""
        self.close()
        self._start()
        self.seen["restart"] += 1
        self.check()

    # files

    def _steer_files(self, patch: pytest.MonkeyPatch) -> None:
        real = {name: getattr(os, name) for name in ("utime", "replace", "link", "unlink", "lstat", "scandir", "open")}
        staging = str(self.home.store / "staging")
        places = (str(self.home.store / "blobs"), str(self.home.trashed_blobs))

        def steered(name: str) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                actor: Actor | None = getattr(_thread, "actor", None)
                if actor is not None and actor.dead:
                    raise Killed
                if actor is not None and str(arguments[0]).startswith(places):
                    actor.request(name, str(arguments[0])[-8:], lambda: None)
                if name == "utime" and len(arguments) == 1 and not options.keys() & {"ns", "times"}:
                    options["times"] = (self.now, self.now)
                if name == "replace" and str(arguments[0]).startswith(staging):
                    real["utime"](arguments[0], (self.now, self.now))
                return real[name](*arguments, **options)

            return call

        for name in real:
            patch.setattr(os, name, steered(name))

    # who does what

    def mine(self) -> Work:
        """Return the work of this thread."""
        return next(work for work in self.works if work.actor is _thread.actor)

    def _begin(self, kind: str, do: Callable[[], Any], backup_id: str = "") -> Work:
        def run(actor: Actor) -> Any:
            _thread.actor = actor
            return do()

        self.works.append(Work(kind, Actor(run), backup_id))
        return self.works[-1]

    def step(self, work: Work, count: int = 1) -> None:
        """Let somebody do some file operations."""
        for _ in range(count):
            if not work.actor.done:
                work.actor.step()
                self.check()
        self._judge()

    def until(self, work: Work, operation: str, name: str = "") -> None:
        """Let somebody go on until he stands before an operation on a file whose name ends so."""
        while not work.actor.done and not (work.actor.at[0] == operation and work.actor.at[1].endswith(name)):
            self.step(work)
        assert not work.actor.done

    def finish(self, work: Work) -> None:
        """Let somebody come to an end; who waits for another lets that one go first."""
        while not work.actor.done:
            self._go_on(work)
        self._judge()

    def _go_on(self, work: Work) -> None:
        self.step(work)
        for other in [other for other in self.works if other is not work and work.actor.at[0] == "lock"]:
            self.step(other)

    def wait(self, seconds: float) -> None:
        """Let time pass; the clock may also be set back."""
        self.now += seconds
        for work in self.works:
            if work.kind != "restore" or work.removed:
                work.waited_s += abs(seconds)

    def collect(self) -> Work:
        """Begin a pass of the collector, or return the one that is under way."""
        passes = (work for work in self.works if work.kind == "collect")
        return next(passes, None) or self._begin("collect", self.garbage.collect)

    def save(self, session: Session, blocks: Sequence[int], *, commit_fails: bool = False) -> Work:
        """Begin to save a session whose cache holds some blocks by now, or return the save that is under way."""
        if session.saving is not None and not session.saving.actor.done:
            return session.saving
        same = next((i for i, (a, b) in enumerate(zip(session.blocks, blocks)) if a != b), None)  # noqa: B905
        start = LAYOUT.block_tokens * (min(len(session.blocks), len(blocks)) if same is None else same)
        before, tokens = session.saved, len(blocks) * LAYOUT.block_tokens
        session.blocks, session.saved = list(blocks), Saved(tokens, {}, LAYOUT)
        live, backup_id = Blocks(session.blocks), f"01M81P35719XNDZ4R57NM{self.made:05d}"
        self.made, self.blocks_of[backup_id] = self.made + 1, session.blocks
        kv = KVJob(LAYOUT, "DynamicCache", tokens, start, "held", live, session.saved, before, live, Pool(1 << 20))
        handle = SaveHandle(backup_id, f"s{self.sessions.index(session)}")
        job = SaveJob(handle, "test", self.now, tokens + 1, {}, lambda: FULL, {}, kv=kv)
        threads = cast(ThreadPoolExecutor, AtOnce())
        worker = SaveWorker(cast(Api, SdkApi(self)), self._open_files(), threads, DigestMemo(), no_checkpoint)
        session.saving = self._begin("save", lambda: worker.run([job]), backup_id)
        if commit_fails:
            session.saving.commit_fails = True
            self.failing.add(backup_id)
        session.saving.unread = frozenset(ref.digest for ref in kv.reusable())
        session.saving.lacking = frozenset(ref.digest for each, ref in enumerate(REFS) if not self._there(each))
        return session.saving

    def _let_commits_fail(self) -> None:
        """Have the commits that are to fail do so at the index, and their manifests stay."""
        index, manifests = self.catalog.index, self.catalog.manifests
        indexed, removed = index.commit_backups, manifests.remove

        def commit_backups(new: Iterable[NewBackup], *, now: float, enqueue: bool) -> list[Backup]:
            together = list(new)
            if self.failing & {each.record.id for each in together}:
                raise StoreFailed("on purpose")
            return indexed(together, now=now, enqueue=enqueue)

        def remove(backup_id: str) -> None:
            if backup_id in self.failing:
                raise StoreFailed("on purpose")
            removed(backup_id)

        index.commit_backups, manifests.remove = commit_backups, remove  # type: ignore[method-assign]

    def restore(self, backup_id: str) -> Work:
        """Begin to read all of a backup."""
        return self._begin("restore", lambda: self._read(backup_id), backup_id)

    def _read(self, backup_id: str) -> None:
        kv = manifest_file.load(self.catalog.manifest_json(backup_id)).kv_cache
        for ref in kv.blocks if kv is not None else ():
            try:
                found = self.files.read(ref)
            except BlobNotFound:
                if REFS.index(ref) not in self.in_bucket:
                    raise
                found = self._fetch(ref)
            assert found == BLOCKS[REFS.index(ref)]

    def _fetch(self, ref: BlobRef) -> memoryview:
        block = memoryview(BLOCKS[REFS.index(ref)])
        with StoreBlobs(self.catalog.blobs, self.catalog.staging).receive(ref) as arriving:
            arriving.write(bytes(block))
        with self.catalog.index.writing() as connection:
            note_present(connection, [ref.digest])
        self.seen["fetched"] += 1
        return block

    def remove(self, backup_id: str, *, purge: bool = False) -> None:
        """Remove a backup; to purge it, clear what nobody else needs at once."""
        try:
            self.catalog.remove(backup_id)
        except BackupNotFound:
            return
        for work in self.works:
            work.removed |= work.backup_id == backup_id
        if purge:
            self._expose(self.blocks_of[backup_id])
            garbage.discard(self.catalog, [REFS[each].digest for each in self.blocks_of[backup_id]])
        self.seen["purge" if purge else "remove"] += 1
        self.check()

    def evict(self, backup_id: str) -> None:
        """Let go what the bucket has of a backup."""
        blocks = self.blocks_of[backup_id]
        with self.catalog.locked():
            if not self.catalog.index.has_backup(backup_id):
                return
            for each in blocks:
                self.catalog.blobs.remove(REFS[each].digest)
            with self.catalog.index.writing() as connection:
                note_present(connection, [REFS[each].digest for each in blocks], present=False)
        self.in_bucket.update(blocks)
        self._expose(blocks)
        self.seen["evict"] += 1

    def _expose(self, blocks: Iterable[int]) -> None:
        """Let those who count on blobs that go at once not find them."""
        for work in self.works:
            if set(blocks) & set(self.blocks_of.get(work.backup_id, ())):
                work.waited_s += YEAR

    def kill(self, work: Work) -> None:
        """Kill somebody; a daemon that he has asked for something goes on with that."""
        while work.in_daemon and not work.actor.done:
            self._go_on(work)
        if not work.actor.done:
            work.actor.step("kill")
        self._judge()

    # what must hold

    def listed(self) -> list[str]:
        """Return the backups of the index."""
        with self.catalog.index.reading() as connection:
            return list(marks.backup_ids(connection))

    def _there(self, each: int) -> bool:
        return self.catalog.blobs.has(REFS[each])

    def check(self) -> None:
        """Every backup of the index is whole, as far as the bucket has not what was let go."""
        for backup_id in self.listed():
            for each in self.blocks_of[backup_id]:
                assert each in self.in_bucket or self._there(each), f"backup {backup_id} has a hole"

    def _judge(self) -> None:
        ended = [work for work in self.works if work.actor.done]
        self.works = [work for work in self.works if not work.actor.done]
        for work in ended:
            error = work.actor.error
            self.seen[f"{work.kind}:{'done' if error is None else type(error).__name__}"] += 1
            if not self._may_fail(work, error):
                raise AssertionError(f"a {work.kind} was harmed") from error

    def _may_fail(self, work: Work, error: BaseException | None) -> bool:
        match error:
            case None | Killed() | BackupNotFound():
                return True
            case StoreFailed():
                return work.commit_fails
            case BlobNotFound() | MissingBlobs():
                return work.waited_s >= TRASH_S and work.kind != "collect"
        return False

    def settle(self) -> None:
        """Let everybody end, and days pass: what is on disk is then what is needed, and nothing else."""
        while self.works:
            self.finish(self.works[0])
        for _ in range(3):
            self.wait(GRACE_S + HOUR)
            self.garbage.collect()
            self.check()
        needed = {each for backup_id in self.listed() for each in self.blocks_of[backup_id]}
        there = {each for each in range(len(BLOCKS)) if self._there(each)}
        spared = {each for each, ref in enumerate(REFS) if self.catalog.spared.has(ref.digest)}
        assert there <= needed | spared, f"garbage {sorted(there - needed)}"
        assert not any(self.home.trashed_blobs.rglob("*")), "garbage in the trash"
        for backup_id in self.listed():
            absent = {each for each in self.blocks_of[backup_id] if not self._there(each)}
            told = self.catalog.index.backup(backup_id).absent_bytes
            assert told == BLOCK_BYTES * len(absent), "presence is told wrongly"
