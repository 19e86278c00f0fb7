"""Keys in a bucket: nothing is locked out by a kill, a race, a slip of the finger or a damaged document."""

from __future__ import annotations

import io

import orjson
import pytest
from support.memory_bucket import MemoryBucket, MemoryServer
from torpor.codec.keys import KeyRing, new_ring, ring_of
from torpor.codec.objects import seal_document
from torpor.codec.passphrase import Work
from torpor.state.errors import (
    BadInput,
    Conflict,
    KeyMissing,
    NewerFormat,
    ObjectDamaged,
    Offline,
    TorporError,
    WrongPassphrase,
)
from torpor.state.remote import RepoInfo
from torpor.sync.keys import Unlocked, described, init_keys, load_documents, rotate_keys, unlock
from torpor.sync.repository import create_info, has_keys

FAST = Work(n=2, r=1, p=1)
WORDS, OTHER = "correct horse battery staple", "another passphrase"
RECORD = "manifests/0123456789abcdef/01HZZZZZZZZZZZZZZZZZZZZZZZ.000001-01234567.json"


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket(MemoryServer(clock=lambda: 1_800_000_000.0))


def put(bucket: MemoryBucket, name: str, data: bytes) -> None:
    bucket.put(name, io.BytesIO(data), len(data))


def init(bucket: MemoryBucket, passphrase: str = WORDS, recovered: KeyRing | None = None) -> Unlocked:
    return init_keys(bucket, passphrase, recovered=recovered, work=FAST)


def rotate(bucket: MemoryBucket, ring: KeyRing, passphrase: str = WORDS, *, new: bool = False) -> KeyRing:
    kept: list[KeyRing] = []
    made = rotate_keys(bucket, ring, passphrase, kept.append, new_passphrase=new, work=FAST)
    assert kept == [made]
    return made


def names(bucket: MemoryBucket) -> list[str]:
    return sorted(info.name for info in bucket.list("keys/"))


def test_the_first_key_and_a_second_machine(bucket: MemoryBucket) -> None:
    assert not has_keys(bucket)
    with pytest.raises(KeyMissing):
        unlock(bucket, WORDS)
    made = init(bucket)
    assert made.made
    assert not made.was_plain
    assert not made.ring.takes_plain
    assert has_keys(bucket)
    assert unlock(bucket, WORDS) == made.ring
    again = init(bucket)
    assert not again.made
    assert again.ring == made.ring
    assert len(names(bucket)) == 1


def test_a_wrong_passphrase_changes_nothing(bucket: MemoryBucket) -> None:
    ring = init(bucket).ring
    before = dict(bucket.server.objects)
    for attempt in (lambda: unlock(bucket, OTHER), lambda: init(bucket, OTHER), lambda: rotate(bucket, ring, OTHER)):
        with pytest.raises(WrongPassphrase):
            attempt()
    assert bucket.server.objects == before


def test_a_short_passphrase_makes_no_key(bucket: MemoryBucket) -> None:
    with pytest.raises(BadInput):
        init(bucket, "short")
    assert bucket.server.objects == {}


@pytest.mark.parametrize("name", [RECORD, "blobs/ab/" + "ab" * 32 + ".01hzzzzzzzzzzzzzzzzzzzzzzz"])
def test_a_bucket_that_held_unencrypted_backups_stays_readable(bucket: MemoryBucket, name: str) -> None:
    put(bucket, name, seal_document(b"{}", name.encode(), None))
    found = init(bucket)
    assert found.was_plain
    assert found.ring.takes_plain
    assert unlock(bucket, WORDS).takes_plain


def test_an_empty_unencrypted_repository_takes_a_key(bucket: MemoryBucket) -> None:
    create_info(bucket, RepoInfo("0" * 26, 1.0, False))
    assert not init(bucket).was_plain


def test_an_encrypted_bucket_without_its_key_documents_gets_no_new_key(bucket: MemoryBucket) -> None:
    ring = init(bucket).ring
    create_info(bucket, RepoInfo("0" * 26, 1.0, True))
    bucket.delete(names(bucket)[0])
    with pytest.raises(KeyMissing, match="documents are gone"):
        init(bucket)
    found = init(bucket, OTHER, recovered=ring)
    assert found.ring == ring == unlock(bucket, OTHER)


def test_encrypted_records_alone_are_noticed(bucket: MemoryBucket) -> None:
    ring = new_ring(1.0)
    put(bucket, RECORD, seal_document(b"{}", RECORD.encode(), ring))
    with pytest.raises(KeyMissing, match="documents are gone"):
        init(bucket)
    with pytest.raises(BadInput, match="another bucket"):
        init(bucket, recovered=new_ring(2.0))
    assert names(bucket) == []
    assert init(bucket, recovered=ring).ring == ring


def test_a_lost_passphrase_is_replaced_by_the_recovery_text(bucket: MemoryBucket) -> None:
    ring = init(bucket).ring
    with pytest.raises(BadInput, match="another bucket"):
        init(bucket, OTHER, recovered=new_ring(5.0))
    init(bucket, OTHER, recovered=ring)
    assert len(names(bucket)) == 1
    assert unlock(bucket, OTHER) == ring
    with pytest.raises(WrongPassphrase):
        unlock(bucket, WORDS)


def test_rotation_makes_a_new_key_and_keeps_the_old(bucket: MemoryBucket) -> None:
    ring = init(bucket).ring
    before = names(bucket)
    newer = rotate(bucket, ring)
    assert newer.ids[:-1] == ring.ids
    assert newer.current.id not in ring.ids
    assert names(bucket) != before
    assert len(names(bucket)) == 1
    assert unlock(bucket, WORDS) == newer


def test_rotation_under_a_new_passphrase(bucket: MemoryBucket) -> None:
    newer = rotate(bucket, init(bucket).ring, OTHER, new=True)
    assert unlock(bucket, OTHER) == newer
    with pytest.raises(WrongPassphrase):
        unlock(bucket, WORDS)


def test_rotation_on_a_machine_that_missed_one(bucket: MemoryBucket) -> None:
    first = init(bucket).ring
    second = rotate(bucket, first)
    third = rotate(bucket, first)  # the other machine, which still has the first ring
    assert set(second.ids) < set(third.ids)
    assert third.current.id not in second.ids
    assert unlock(bucket, WORDS) == third
    assert len(names(bucket)) == 1


def test_a_document_with_a_key_that_is_not_known_here_stays(bucket: MemoryBucket) -> None:
    first = init(bucket).ring
    second = rotate(bucket, first, OTHER, new=True)
    mine = rotate(bucket, first, WORDS, new=True)
    assert len(names(bucket)) == 2
    assert unlock(bucket, OTHER) == second
    assert unlock(bucket, WORDS) == mine


class Failing(MemoryBucket):
    """Fails at the n-th change, before or after it was done."""

    def __init__(self, server: MemoryServer, at: int, *, lost_reply: bool) -> None:
        super().__init__(server)
        self._left, self._lost_reply = at, lost_reply

    def _reached(self) -> bool:
        self._left -= 1
        return self._left == 0

    def put(self, name: str, body: io.BytesIO, size_bytes: int, *, only_new: bool = False) -> None:  # type: ignore[override]
        failing = self._reached()
        if not failing or self._lost_reply:
            super().put(name, body, size_bytes, only_new=only_new)
        if failing:
            raise Offline("the network went away")

    def delete(self, name: str) -> None:
        failing = self._reached()
        if not failing or self._lost_reply:
            super().delete(name)
        if failing:
            raise Offline("the network went away")


@pytest.mark.parametrize("lost_reply", [False, True])
@pytest.mark.parametrize("at", [1, 2])
def test_rotation_that_breaks_off_locks_nobody_out(bucket: MemoryBucket, at: int, lost_reply: bool) -> None:
    ring = init(bucket).ring
    kept: list[KeyRing] = []
    with pytest.raises(Offline):
        rotate_keys(Failing(bucket.server, at, lost_reply=lost_reply), ring, WORDS, kept.append, work=FAST)
    opened = unlock(bucket, WORDS)
    assert set(ring.ids) <= set(opened.ids)
    for one in kept:  # whatever is used for writing can be unlocked elsewhere
        assert set(one.ids) <= set(opened.ids)
    assert unlock(bucket, WORDS).ids == rotate(bucket, ring).ids[:-1]
    assert len(names(bucket)) == 1


def test_a_ring_that_cannot_be_kept_here_deletes_nothing(bucket: MemoryBucket) -> None:
    ring = init(bucket).ring

    def full(_: KeyRing) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        rotate_keys(bucket, ring, WORDS, full, work=FAST)
    assert set(ring.ids) < set(unlock(bucket, WORDS).ids)


class Racing(MemoryBucket):
    """Another machine makes its key just behind ours."""

    def __init__(self, server: MemoryServer, passphrase: str) -> None:
        super().__init__(server)
        self._passphrase: str | None = passphrase
        self.theirs: Unlocked | TorporError | None = None

    def put(self, name: str, body: io.BytesIO, size_bytes: int, *, only_new: bool = False) -> None:  # type: ignore[override]
        hidden = dict(self.server.objects)
        super().put(name, body, size_bytes, only_new=only_new)
        mine = dict(self.server.objects)
        if (passphrase := self._passphrase) is not None:
            self._passphrase = None
            self.server.objects = hidden  # it had listed before ours was there
            self.theirs = init(MemoryBucket(self.server), passphrase)
            self.server.objects |= mine


def test_two_first_keys_at_once_under_one_passphrase_are_joined(bucket: MemoryBucket) -> None:
    racing = Racing(bucket.server, WORDS)
    ring = init(racing).ring
    assert isinstance(racing.theirs, Unlocked)
    assert set(racing.theirs.ring.ids) < set(ring.ids)
    assert unlock(bucket, WORDS) == ring


def test_two_first_keys_at_once_under_two_passphrases(bucket: MemoryBucket) -> None:
    racing = Racing(bucket.server, OTHER)
    with pytest.raises(Conflict, match="another passphrase"):
        init(racing)
    assert isinstance(racing.theirs, Unlocked)
    assert unlock(bucket, OTHER) == racing.theirs.ring
    assert len(names(bucket)) == 1


def test_a_storage_that_gives_back_something_else_is_noticed(bucket: MemoryBucket) -> None:
    class Forgetful(MemoryBucket):
        def put(self, name: str, body: io.BytesIO, size_bytes: int, *, only_new: bool = False) -> None:  # type: ignore[override]
            super().put(name, io.BytesIO(bytes(size_bytes)), size_bytes, only_new=only_new)

    with pytest.raises(ObjectDamaged):
        init(Forgetful(bucket.server))


def altered(bucket: MemoryBucket) -> dict[str, bytes]:
    (name,) = names(bucket)
    value = orjson.loads(bucket.server.objects[name].data)
    return {
        "cut": bucket.server.objects[name].data[:100],
        "empty": b"",
        "another name": orjson.dumps({**value, "id": "0" * 16}),
        "large": bytes(1 << 20),
        "newer": orjson.dumps({**value, "format": "torpor-key/v2"}),
    }


@pytest.mark.parametrize("what", ["cut", "empty", "another name", "large", "newer"])
def test_a_damaged_document_is_not_a_wrong_passphrase(bucket: MemoryBucket, what: str) -> None:
    ring = init(bucket).ring
    (name,) = names(bucket)
    put(bucket, name, altered(bucket)[what])
    for attempt in (lambda: unlock(bucket, WORDS), lambda: init(bucket), lambda: rotate(bucket, ring)):
        with pytest.raises(NewerFormat if what == "newer" else ObjectDamaged):
            attempt()
    assert list(load_documents(bucket).unreadable) == [name]
    newer = rotate(bucket, ring, WORDS, new=True)  # the machine that has the key mends it
    assert unlock(bucket, WORDS) == newer
    assert described(load_documents(bucket))[-1]["problem"]


def test_foreign_documents_do_not_keep_ours_from_opening(bucket: MemoryBucket) -> None:
    ring = init(bucket).ring
    put(bucket, "keys/notes.txt", b"somebody's")
    assert unlock(bucket, WORDS) == ring
    with pytest.raises(WrongPassphrase):
        unlock(bucket, OTHER)
    for i in range(70):
        put(bucket, f"keys/{i:016x}.json", b"{}")
    with pytest.raises(ObjectDamaged, match="more than 64"):
        unlock(bucket, WORDS)


def test_what_is_told_of_documents_is_no_secret(bucket: MemoryBucket) -> None:
    ring = ring_of(init(bucket).ring.masters.values())
    text = repr(described(load_documents(bucket)))
    assert ring.current.id in text
    assert "salt" not in text
    assert "wrapped" not in text
