"""A whole home in one process: what an SDK does with files and what a daemon does with them and the index.

Without HTTP between the two, a fault can be put at every single call of every operation. What was acknowledged is
kept in a ledger; `verify` compares a home with it.
"""

from __future__ import annotations

import copy
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from blake3 import blake3
from torpor.client.blob_access import SharedFiles
from torpor.codec import manifest_file
from torpor.daemon.catalog import Catalog
from torpor.daemon.compose import compose
from torpor.daemon.garbage import Garbage
from torpor.daemon.groups import Groups
from torpor.daemon.index_care import set_aside_if_damaged, settle_index
from torpor.daemon.reconcile import reconcile
from torpor.daemon.repair import Repair
from torpor.daemon.retention import Retention
from torpor.daemon.scrub import FIRST
from torpor.daemon.settings import Settings
from torpor.daemon.trusted_time import TrustedTime
from torpor.db.damage import present_after
from torpor.db.retention import set_expiry
from torpor.state.backup import Backup
from torpor.state.crash_points import no_checkpoint
from torpor.state.errors import BackupNotFound
from torpor.state.manifest import BlobRef, GroupRef, KVCache, manifest_blobs
from torpor.state.retention import Policy
from torpor.store.gentle_reads import GentleReader
from torpor.store.home import Home
from torpor.store.quarantine import Quarantine

from support.manifests import LAYOUT, manifest
from support.old_indexes import age

BLOCK_BYTES = 64 * 64
OLD_S = 2 * 24 * 3600.0


@dataclass(slots=True)
class Ledger:
    """What was acknowledged, and what may be either way because it was being done when something failed.

    `kept` and `unsure` map a backup's id to the digest of its manifest. It learns from notes, one line each, so that
    it can be kept by a process that is killed, and made again for any moment of a recording.
    """

    kept: dict[str, str] = field(default_factory=dict)
    unsure: dict[str, str] = field(default_factory=dict)  # being saved or removed
    pinned: set[str] = field(default_factory=set)
    titles: dict[str, str] = field(default_factory=dict)  # by session, as long as it has a backup
    sessions: dict[str, str] = field(default_factory=dict)
    stays: set[str] = field(default_factory=set)
    groups: dict[str, set[str]] = field(default_factory=dict)  # of which nothing was removed
    vague: set[str] = field(default_factory=set)  # ids and sessions whose pin or title was being changed

    def copy(self) -> Ledger:
        return copy.deepcopy(self)

    def learn(self, note: str) -> None:
        """Take in one note."""
        word, subject, *rest = note.split(" ", 2)
        match word:
            case "begin":
                self.unsure[subject], self.sessions[subject] = rest[0].split()
            case "group":
                self.groups[subject] = set(rest[0].split())
            case "saved":
                self.kept[subject] = self.unsure.pop(subject)
            case "removing":
                self.unsure[subject] = self.kept.pop(subject)
                self.vague |= {subject, self.sessions[subject]}
                self.groups = {group: ids for group, ids in self.groups.items() if subject not in ids}
            case "removed":
                del self.unsure[subject]
                session = self.sessions[subject]
                self.vague.discard(session)
                if session not in {self.sessions[other] for other in self.kept}:
                    self.titles.pop(session, None)
            case "changing":
                self.vague.add(subject)
            case "pinned":
                self.pinned.add(subject)
                self.vague.discard(subject)
            case "titled":
                self.titles[subject] = rest[0]
                self.vague.discard(subject)
            case "stays":
                self.stays.add(subject)
            case _:
                raise AssertionError(note)


class World:
    """A home, its daemon's parts (when open), and an SDK's files."""

    def __init__(self, root: Path, seed: int = 0, note: Callable[[str], None] = lambda text: None) -> None:
        self.home, self.ledger, self.rng = Home(root), Ledger(), random.Random(seed)
        self._count, self._note = seed * 1000, note
        self._saving: tuple[str, bytes] | None = None
        self._removing: str | None = None
        self._data: dict[str, bytes] = {}
        self._stack = ExitStack()
        self.catalog: Catalog | None = None

    def say(self, note: str) -> None:
        """Note something in the ledger, and where else it is to be known."""
        self.ledger.learn(note)
        self._note(note)

    def note_with(self, note: Callable[[str], None]) -> None:
        self._note = note

    # ---- the daemon

    def open(self) -> Catalog:
        """Start, as `torpor serve` does."""
        with ExitStack() as stack:
            self.home.create()
            aside = set_aside_if_damaged(self.home, time.time())
            catalog = compose(self.home, Settings(), stack)
            catalog.queue_with(lambda: None)
            settle_index(catalog, aside, reconcile(catalog))
            files = SharedFiles(self.home, no_checkpoint)
            stack.callback(files.close)
            self._stack = stack.pop_all()
        self.catalog, self.files, self.groups = catalog, files, Groups(catalog)
        return catalog

    def close(self) -> None:
        self.catalog = None
        self._stack.close()

    @contextmanager
    def opened(self) -> Iterator[Catalog]:
        try:
            yield self.open()
        finally:
            self.close()

    @property
    def daemon(self) -> Catalog:
        assert self.catalog is not None
        return self.catalog

    # ---- what is done with it

    def new_id(self) -> str:
        self._count += 1
        return f"01M81P35719XNDZ4R57NM{self._count:05d}"

    def skip_ids(self) -> None:
        """Leave room for what a forked copy of this world makes."""
        self._count += 50
        self.rng.seed(self._count)

    def write_blobs(self, number: int) -> list[BlobRef]:
        """Write blobs as a save does: the first is shared with other backups."""
        shared = bytes([self.rng.randrange(4)]) * BLOCK_BYTES
        own = [self.rng.randbytes(BLOCK_BYTES) for _ in range(number - 1)]
        self._data |= {blake3(data).hexdigest(): data for data in (shared, *own)}
        return [self.files.put([memoryview(data)]).ref for data in (shared, *own)]

    def body(self, session: str, blobs: list[BlobRef], group: GroupRef | None = None) -> tuple[str, bytes]:
        """Return the id and the manifest of a new backup."""
        kv = KVCache(LAYOUT, 64 * len(blobs), "DynamicCache", tuple(blobs))
        layers = {"metadata": {}, "text_context": {"text": self.rng.randbytes(200).hex()}, "tokens": {}}
        made = manifest(
            id=self.new_id(),
            session_id=session,
            layers=layers,
            kv_cache=kv,
            tokens=64 * len(blobs),
            created_at=time.time(),
            group=group,
        )
        return made.id, manifest_file.dump(made)

    def save(self, session: str = "a") -> str:
        """Save a session; return the backup's id. After a failure the same backup is tried again, as an SDK does."""
        if self._saving is None:
            self._saving = self.body(session, self.write_blobs(3))
            self.begun([self._saving])
        else:
            self.write_again(self._saving[1])
        self.files.settle()
        backup_id, raw = self._saving
        self.daemon.commit(backup_id, raw)
        self.say(f"saved {backup_id}")
        self._saving = None
        return backup_id

    def save_beside(self, session: str, lock: threading.Lock) -> None:
        """Save a session while other threads do so too; the lock is the world's own books'."""
        with lock:
            data = [self.rng.randbytes(BLOCK_BYTES) for _ in range(2)]
        blobs = [self.files.put([memoryview(part)]).ref for part in data]
        self.files.settle()
        with lock:
            backup_id, raw = self.body(session, blobs)
            self.begun([(backup_id, raw)])
        self.daemon.commit(backup_id, raw)
        with lock:
            self.say(f"saved {backup_id}")

    def save_group(self) -> None:
        """Save two sessions as one."""
        group = GroupRef(self.new_id(), "g", 2)
        members = [self.body(session, self.write_blobs(2), group) for session in ("g1", "g2")]
        self.files.settle()
        self.begun(members)
        self.say(f"group {group.id} " + " ".join(backup_id for backup_id, _ in members))
        self.groups.commit(group.id, b'{"manifests":[' + b",".join(raw for _, raw in members) + b"]}")
        for backup_id, _ in members:
            self.say(f"saved {backup_id}")

    def begun(self, bodies: list[tuple[str, bytes]]) -> None:
        for backup_id, raw in bodies:
            self.say(f"begin {backup_id} {blake3(raw).hexdigest()} {manifest_file.load(raw).session_id}")

    def write_again(self, raw: bytes) -> None:
        for digest, (size, _) in manifest_blobs(manifest_file.load(raw)).items():
            put = self.files.put([memoryview(self._data[digest])])
            assert put.ref == BlobRef(digest, size)

    def restore(self, backup_id: str | None = None) -> None:
        """Read a backup whole."""
        backup_id = backup_id or self.some()
        raw = self.daemon.manifest_json(backup_id)
        assert blake3(raw).hexdigest() == self.ledger.kept[backup_id], "another manifest than the one that was saved"
        for digest, (size, _) in manifest_blobs(manifest_file.load(raw)).items():
            assert blake3(self.files.read(BlobRef(digest, size))).hexdigest() == digest, "wrong bytes"

    def remove(self, backup_id: str | None = None) -> None:
        """Remove a backup; after a failure the same one again."""
        if self._removing is None:
            self._removing = backup_id or self.some()
            self.say(f"removing {self._removing}")
        with suppress(BackupNotFound):  # it went, although that failed
            self.daemon.remove(self._removing)
        self.say(f"removed {self._removing}")
        self._removing = None

    def pin(self) -> None:
        """Pin a backup and give its session a title."""
        backup_id = self.some()
        session, title = self.daemon.index.backup(backup_id).session_id, f"title {self.rng.random()}"
        self.say(f"changing {backup_id}")
        self.say(f"changing {session}")
        self.daemon.set_pinned(backup_id, True)
        self.say(f"pinned {backup_id}")
        self.daemon.set_title(session, title)
        self.say(f"titled {session} {title}")

    def stay(self) -> None:
        """Keep a session on this machine."""
        session = f"private{self.rng.randrange(3)}"
        self.daemon.set_no_sync(session, True)
        self.say(f"stays {session}")

    def collect(self) -> None:
        """Collect what nobody needs: blobs that were written and never committed, some of them long ago."""
        self.age_blobs(self.write_blobs(3)[1:])
        self.files.settle()
        garbage = Garbage(self.daemon, grace_s=OLD_S / 2, trash_s=0.0)
        garbage.collect()  # to the trash
        garbage.collect()  # and out of it

    def reuse(self) -> None:
        """Save a session whose blobs were collected between their writing and the commit."""
        blobs = self.write_blobs(3)
        self.files.settle()
        self.age_blobs(blobs)
        Garbage(self.daemon, grace_s=OLD_S / 2).collect()
        backup_id, raw = self.body("reused", blobs)
        self.begun([(backup_id, raw)])
        self.daemon.commit(backup_id, raw)
        self.say(f"saved {backup_id}")

    def scrub(self) -> None:
        """Read every blob again. A disk that fails once is no damage."""
        reader = GentleReader(lambda count: None, lambda seconds: None)
        repair = Repair(self.daemon, Quarantine(self.home.store / "quarantine", self.daemon.blobs), [])
        with self.daemon.index.reading() as connection:
            refs = present_after(connection, FIRST, 10_000)
        for ref in refs:
            seen = reader.examine(self.daemon.blobs.path(ref.digest), ref)
            if seen.verdict != "sound":
                repair.put_right(ref, seen, reader)
        repair.try_again(reader)
        repair.tidy()

    def retain(self) -> None:
        """Let the TTL of a backup be over that is not the newest of its session, and keep to the TTLs."""
        if self._removing is None:
            listed = sorted(self.listed().items())
            newest = {record.session_id: backup_id for backup_id, record in listed}
            old = [b for b, record in listed if b not in newest.values() and not record.pinned]
            if not old:
                return
            self._removing = old[0]
            self.say(f"removing {old[0]}")
        session = self.ledger.sessions[self._removing]
        sidecar = self.daemon.sidecars.read(session)
        sidecar.expires_at[self._removing] = 1.0
        self.daemon.sidecars.write(sidecar)
        with self.daemon.index.writing() as connection:
            set_expiry(connection, self._removing, 1.0)
        trusted = TrustedTime(self.home.clock_json, lambda: None)
        Retention(self.daemon, trusted, Policy(0), lambda: None, sleep=lambda seconds: None).run()
        if not self.daemon.index.has_backup(self._removing):  # a failure is told in the log, and tried again
            self.say(f"removed {self._removing}")
            self._removing = None

    def age_blobs(self, refs: list[BlobRef]) -> None:
        for ref in refs:
            with suppress(OSError):  # the disk may fail here too
                os.utime(self.daemon.blobs.path(ref.digest), (time.time() - OLD_S,) * 2)

    def start(self) -> None:
        """Stop and start again."""
        self.close()
        self.open()

    def before_migrate(self) -> None:
        """Make the index one of an older version; the daemon is stopped."""
        self.close()
        age(self.home.index, "0004")

    def migrate(self) -> None:
        """Start a daemon, unless it runs."""
        if self.catalog is None:
            self.open()

    def some(self) -> str:
        return self.rng.choice(sorted(self.ledger.kept))

    # ---- what must be

    def listed(self) -> dict[str, Backup]:
        return {backup.id: backup for backup in self.daemon.index.list_backups(limit=100_000)}

    def verify(self) -> None:
        """Everything that was acknowledged is there and whole, and nothing that is listed is broken."""
        listed, ledger = self.listed(), self.ledger
        lost, unknown = ledger.kept.keys() - listed.keys(), listed.keys() - ledger.kept.keys() - ledger.unsure.keys()
        assert not lost, f"lost: {sorted(lost)}"
        assert not unknown, f"not removed: {sorted(unknown)}"
        for backup_id, record in sorted(listed.items()):
            try:
                raw = self.daemon.manifests.read(backup_id)
            except BackupNotFound:
                assert backup_id in ledger.unsure, f"{backup_id} has no manifest"
                continue  # neither its removal nor putting it back was possible
            assert blake3(raw).hexdigest() == (ledger.kept | ledger.unsure)[backup_id] == record.manifest_digest
            for digest, (size, _) in manifest_blobs(manifest_file.load(raw)).items():
                ref = BlobRef(digest, size)
                if backup_id in ledger.unsure and record.dropped_at is not None:
                    continue  # its TTL is over, and all of it may go
                assert self.daemon.blobs.has(ref), f"{backup_id} lacks {digest[:8]}"
                assert self.daemon.blobs.is_sound(ref), f"{backup_id} has a damaged {digest[:8]}"
            if not ledger.vague & {backup_id, record.session_id}:
                assert record.pinned == (backup_id in ledger.pinned), f"pin of {backup_id}"
                assert record.title == ledger.titles.get(record.session_id, record.title), "titles"
        for members in ledger.groups.values():
            assert members & listed.keys() in (set(), members), "a part of a group"
        for session in ledger.stays:
            assert self.daemon.sidecars.read(session).no_sync, "what must stay on this machine"

    def settle(self) -> None:
        """Take what is there for what was meant: from now on it is sure. Keep the home small, and not too small."""
        ledger, listed = self.ledger, self.listed()
        for backup_id in [b for b in ledger.unsure if b in listed and listed[b].dropped_at is not None]:
            self.daemon.remove(backup_id)  # what is left of it
            del listed[backup_id]
        ledger.kept |= {backup_id: digest for backup_id, digest in ledger.unsure.items() if backup_id in listed}
        ledger.pinned = {backup_id for backup_id, record in listed.items() if record.pinned}
        ledger.titles = {record.session_id: record.title for record in listed.values() if record.title is not None}
        ledger.unsure.clear()
        ledger.vague.clear()
        self._saving = self._removing = None
        while len(ledger.kept) > 8:
            self.remove(min(ledger.kept))
        while len(ledger.kept) < 5:
            self.save()
        if len(self._data) > 200:
            self._data.clear()
            Garbage(self.daemon, grace_s=-1.0, trash_s=-1.0).collect()
