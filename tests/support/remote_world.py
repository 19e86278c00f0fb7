"""A few machines, one bucket, and everything that may come between: the world of tests/stateful/test_collection.py.

The code that runs is the real one: pusher, repository, fetcher and collector. What a machine has on its disk outlives a
kill; what it has in memory does not. The bucket's clock is turned by hand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torpor.codec import manifest_file
from torpor.codec.objects import Decoder
from torpor.codec.remote_files import load_record
from torpor.state.errors import BackupNotFound, ObjectNotFound, TorporError
from torpor.state.ids import BackupId
from torpor.state.manifest import BlobRef, Manifest
from torpor.state.outbox import Item, Stage
from torpor.state.remote import CONDEMNED_PREFIX, RecordName, RemoteRecord, RepoInfo, blob_associated, stage_blobs
from torpor.sync.collect import Collector
from torpor.sync.fetch import Fetcher, Patience
from torpor.sync.push import BucketPusher
from torpor.sync.repository import Repository, create_info
from torpor.sync.spool import Spool
from torpor.sync.upload import Uploader

from support.memory_bucket import MemoryBucket, MemoryServer
from support.remote_doubles import FreeTurn, InlinePool, MemoryBackups, MemoryBlobs, MemoryIndex, MemoryJournal
from support.stepping import Actor, Fate, Killed, SteppedBucket

INFO = RepoInfo("r", 0.0, False)
HOUR, DAY = 3600.0, 86400.0
START = 1.7e9
BLOBS = 4
CONTENT = {n: f"blob {n} ".encode() * 30 for n in range(BLOBS)}
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def backup_id(number: int) -> BackupId:
    return BackupId(f"01M81P35719XNDZ4R57NMV6D{number:02d}")


def _layer(blobs: tuple[int, ...], add: Callable[[bytes], BlobRef]) -> Any:
    refs = [add(CONTENT[n]) for n in blobs]
    return [
        {"$bytes": {"size_bytes": r.size_bytes, "blocks": [{"digest": r.digest, "size_bytes": r.size_bytes}]}}
        for r in refs
    ]


@dataclass
class Machine:
    """A machine: its disk, and the actors that run on it."""

    number: int
    skew_s: float = 0.0
    index: MemoryIndex = field(default_factory=MemoryIndex)
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    backups: MemoryBackups = field(default_factory=MemoryBackups)
    todo: dict[str, set[Stage]] = field(default_factory=dict)
    whole: dict[str, set[Stage]] = field(default_factory=dict)  # stages that this machine had, and is to send
    actors: dict[str, Actor] = field(default_factory=dict)
    pushing: str | None = None

    @property
    def id(self) -> str:
        return f"{self.number:016x}"


class World:
    """What there is, what was promised, and the check of it."""

    def __init__(self, machines: int = 3, collector: type[Collector] = Collector, page_size: int = 3) -> None:
        self.now = START
        self.server = MemoryServer(clock=lambda: self.now, page_size=page_size)
        create_info(MemoryBucket(self.server), INFO)
        self.machines = [Machine(n) for n in range(machines)]
        self.made: list[str] = []
        self.removed: set[str] = set()
        self.late: list[Callable[[], None]] = []
        self.names = 0
        self.collector = collector
        self._decoded: dict[str, str | None] = {}
        self._records: dict[str, RemoteRecord] = {}
        self.seen: dict[str, int] = {}
        self._promises: set[str] = set()
        self.synced: dict[tuple[str, Stage], set[str]] = {}  # a promise that was made once

    # what machines do

    def save(self, machine: Machine, text: tuple[int, ...], vision: tuple[int, ...]) -> None:
        """A backup is made, as the daemon would commit it."""
        name = backup_id(len(self.made))
        self.made.append(name)
        layers = {"text_context": _layer(text, machine.blobs.add), "vision_cache": _layer(vision, machine.blobs.add)}
        machine.backups.add(Manifest(id=name, session_id="s", created_at=self.now, adapter="dict", layers=layers))
        machine.todo[name], machine.whole[name] = {"text", "vision"}, {"text", "vision"}

    def start(self, machine: Machine, kind: str, argument: Any = None) -> None:
        if kind in machine.actors or (kind == "remove" and "push" in machine.actors):
            return
        work = {
            "push": self._push,
            "remove": self._remove,
            "collect": self._collect,
            "read": self._read,
            "refresh": self._refresh,
        }[kind]
        slot = "push" if kind == "remove" else kind
        machine.actors[slot] = Actor(lambda actor: work(machine, actor, argument))
        self._count(kind)

    def step(self, machine: Machine, slot: str, fate: Any = "go") -> None:
        actor = machine.actors[slot]
        changes = actor.at[0] in ("put", "delete")
        actor.step(fate)
        self.late += actor.late
        actor.late = []
        if actor.done:
            self._ended(machine, slot)
        if changes or actor.done:  # nothing else makes a promise or breaks one
            self.check()

    def run(self, machine: Machine, slot: str, until: str) -> None:
        """Step until the actor stands before a request whose name begins so, or is done."""
        for _ in range(2000):
            if slot not in machine.actors:
                return
            self.step(machine, slot)
            if slot in machine.actors and until and " ".join(machine.actors[slot].at).startswith(until):
                return
        raise AssertionError("it comes to no end")

    def act(self, machine: Machine, kind: str, until: str = "", argument: Any = None) -> None:
        """Begin something, or go on with it, until it stands before a request, or is done."""
        slot = "push" if kind == "remove" else kind
        if slot not in machine.actors:
            self.start(machine, kind, argument)
        self.run(machine, slot, until)

    def fault(self, machine: Machine, slot: str, until: str, fate: Fate) -> None:
        """Let something come before a request, and that one go wrong."""
        if slot in machine.actors or slot != "read":
            self.act(machine, slot, until)
        if slot in machine.actors:
            self.step(machine, slot, fate)

    def weeks(self, machine: Machine, days: tuple[float, ...]) -> None:
        """Time passes, and a machine collects in between."""
        for each in days:
            self.now += each * DAY
            self.act(machine, "collect")

    def kill(self, machine: Machine, *, behind: bool = False) -> None:
        """The process ends, with all that runs in it."""
        for slot in list(machine.actors):
            self.step(machine, slot, "kill-behind" if behind else "kill")
            if slot in machine.actors:  # it stood before nothing yet
                self.run(machine, slot, "")

    def _ended(self, machine: Machine, slot: str) -> None:
        actor = machine.actors.pop(slot)
        error = actor.error
        if error is not None and not isinstance(error, (TorporError, Killed)):
            raise error
        self._count(f"{slot}:{'done' if error is None else type(error).__name__}")

    def _count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    def evict(self, machine: Machine) -> None:
        """Let go of local blobs that only checked backups name."""
        keep: set[str] = set()
        for held in machine.backups.held.values():
            promised = self.promised(machine, held.manifest.id)
            for stage, blobs in stage_blobs(held.manifest).items():
                if stage not in promised:
                    keep |= blobs.keys()
        gone = machine.blobs.data.keys() - keep
        for digest in gone:
            del machine.blobs.data[digest]
        self._count("evicted" if gone else "nothing to evict")

    def drop_local(self, machine: Machine, name: str) -> None:
        """Retention removes a backup here; the bucket keeps it."""
        if machine.pushing != name:
            machine.backups.held.pop(name, None)
            machine.todo.pop(name, None)
            machine.whole.pop(name, None)

    # what runs in actors

    def _repository(self, machine: Machine, actor: Actor) -> Repository:
        bucket = SteppedBucket(self.server, actor)
        return Repository(bucket, machine.id, None, machine.index, InlinePool(), INFO)

    def _pusher(self, machine: Machine, actor: Actor) -> BucketPusher:
        repository = self._repository(machine, actor)
        spool = Spool(Path("/nonexistent"))
        uploader = Uploader(repository.bucket, machine.blobs, None, spool, MemoryJournal(), new_upload=self._new_upload)
        mark = lambda: hashlib.md5(self._new_upload().encode()).hexdigest()[:8]  # noqa: E731
        return BucketPusher(
            repository, machine.backups, uploader, InlinePool(), lambda: self.now + machine.skew_s, mark
        )

    def _new_upload(self) -> str:
        self.names += 1
        digits, rest = "", self.names
        while rest:
            digits, rest = _ALPHABET[rest % 32] + digits, rest // 32
        return digits.rjust(26, "0")

    def _items(self, name: str, stages: set[Stage]) -> list[Item]:
        return [Item(n, "push", name, "s", stage, 0, 0) for n, stage in enumerate(sorted(stages))]

    def _push(self, machine: Machine, actor: Actor, only: Stage | None) -> None:
        for name in sorted(machine.todo):
            stages = {s for s in machine.todo.get(name, ()) if only in (None, s)}
            if not stages or name in self.removed or name not in machine.backups.held:
                continue
            items = self._items(name, stages)
            machine.pushing = name
            try:
                pushed = self._pusher(machine, actor).push(items, FreeTurn(), {})
            finally:
                machine.pushing = None
            done = {i.stage for i in items if i.id not in pushed.failed}
            machine.todo.get(name, set()).difference_update(stage for stage in done if stage)

    def _remove(self, machine: Machine, actor: Actor, name: str) -> None:
        self.removed.add(name)
        for each in self.machines:
            each.todo.pop(name, None)
        self._pusher(machine, actor).push([Item(1, "remove", name, "s", None, 0, 0)], FreeTurn(), {})

    def _collect(self, machine: Machine, actor: Actor, argument: Any) -> Any:
        repository = self._repository(machine, actor)
        return self.collector(repository, InlinePool(), clock=lambda: self.now + machine.skew_s).run()

    def _refresh(self, machine: Machine, actor: Actor, argument: Any) -> None:
        damaged = self._repository(machine, actor).refresh()
        assert damaged == []

    def _read(self, machine: Machine, actor: Actor, name: str) -> None:
        """Fetch a backup that another machine made, whole; then it is this machine's too."""
        repository = self._repository(machine, actor)
        for attempt in range(3):
            repository.refresh()
            found = [machine.index.records[n][0] for n in machine.index.records_of(name)]
            if not found:
                raise BackupNotFound(name)
            try:
                self._fetch(machine, repository, found[0])
            except ObjectNotFound:
                if attempt == 2:
                    raise
                continue
            manifest = found[0].manifest
            machine.backups.add(manifest_file.load(manifest))
            if name not in self.removed:
                machine.todo.setdefault(name, set()).update(found[0].stages)
                machine.whole.setdefault(name, set()).update(found[0].stages)
            self._count("adopted")
            return

    def _fetch(self, machine: Machine, repository: Repository, record: RemoteRecord) -> None:
        class Inline:
            def submit(self, work: Callable[[], None], /) -> None:
                work()

        fetcher = Fetcher(
            repository.bucket,
            machine.index,
            machine.blobs,
            Inline(),
            ring=lambda: None,
            arrived=lambda ref: None,
            random=lambda: 0.0,
            clock=lambda: 0.0,
            sleep=lambda event, delay: None,
            patience=Patience(limit_s=-1.0),
        )
        manifest = manifest_file.load(record.manifest)
        for stage, blobs in stage_blobs(manifest).items():
            if stage in record.stages:
                for digest, size in blobs.items():
                    fetcher.ask(BlobRef(digest, size)).result.result()

    # the promise

    def promised(self, machine: Machine, name: str) -> set[Stage]:
        """Return the stages of a backup that are synced as this machine sees it."""
        records = [r for r, checked in machine.index.records.values() if checked]
        return {s for r in records if r.backup_id == name and r.machine == machine.id for s in r.stages}

    def check(self) -> None:
        """What was synced once, and was not removed, can be read from the bucket, whole, whatever else is going on."""
        readable = self._readable()
        for machine in self.machines:
            for name, (record, checked) in machine.index.records.items():
                if checked and record.machine == machine.id and name not in self._promises:
                    self._promises.add(name)
                    blobs = stage_blobs(manifest_file.load(record.manifest))
                    self.synced.update(((record.backup_id, stage), set(blobs[stage])) for stage in record.stages)
        for (name, stage), needed in self.synced.items():
            if name not in self.removed:
                assert needed <= readable.get(name, set()), f"{name} was synced, and {stage} has a hole"

    def _readable(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for record in self.records().values():
            there = {d for d, each in record.objects.items() if self._holds(each.name) == d}
            found.setdefault(record.backup_id, set()).update(there)
        return found

    def records(self) -> dict[str, RemoteRecord]:
        found = {}
        for name in [n for n in self.server.objects if RecordName.parse(n)]:
            if name not in self._records:
                self._records[name] = load_record(self.server.objects[name].data, name, None)
            found[name] = self._records[name]
        return found

    def _holds(self, name: str) -> str | None:
        """Return the digest of the blob that an object holds."""
        stored = self.server.objects.get(name)
        if stored is None:
            return None
        if name not in self._decoded:
            digest = name.split("/")[2].split(".")[0]
            decoder = Decoder(blob_associated(digest), None)
            raw = b"".join(decoder.feed(stored.data))
            decoder.finish()
            assert raw in CONTENT.values()
            self._decoded[name] = digest
        return self._decoded[name]

    # the end

    def settle(self) -> None:
        """All is quiet and time passes: what was saved is whole in the bucket, and nothing else is."""
        for machine in self.machines:
            self.kill(machine)
            machine.skew_s = 0.0
        for each in self.late:
            each()
        for _ in range(3):
            self._quiet_round()
        named = {found.name for record in self.records().values() for found in record.objects.values()}
        there = {name for name in self.server.objects if name.startswith("blobs/")}
        assert there == named, f"garbage {sorted(there - named)}, holes {sorted(named - there)}"
        left = [n for n in self.server.objects if n.startswith(CONDEMNED_PREFIX)]
        assert {n.removeprefix(CONDEMNED_PREFIX) for n in left} <= {n.split("/")[2] for n in named}
        readable = self._readable()
        for machine in self.machines:
            for name in machine.whole.keys() - self.removed:
                blobs = stage_blobs(machine.backups.held[name].manifest)
                needed = {digest for stage in machine.whole[name] for digest in blobs[stage]}
                assert needed <= readable.get(name, set()), f"{name} did not get whole: {machine.todo[name]}"

    def _quiet_round(self) -> None:
        for machine in self.machines:
            for kind in ("refresh", "push"):
                self.start(machine, kind)
                self.run(machine, kind, "")
        for days in (4, 2, 40):
            self.now += days * DAY
            for machine in self.machines:
                self.act(machine, "collect")
