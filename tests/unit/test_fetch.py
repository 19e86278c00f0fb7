"""Downloads: in order, in parallel, over resets and stalls, and never a wrong byte under a digest."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path

import pytest
from support.faulty_bucket import FaultyBucket, Get
from support.remote_index import KnownObjects, upload
from torpor.codec.keys import KeyRing, new_ring
from torpor.state.errors import (
    KeyMissing,
    ObjectDamaged,
    ObjectNotFound,
    Offline,
    RemoteDenied,
    RemoteFailed,
    StoreFull,
    Throttled,
    Timeout,
    TorporError,
)
from torpor.state.manifest import BlobRef
from torpor.store.arriving import StoreBlobs
from torpor.store.blobs import BlobStore
from torpor.store.staging import Staging
from torpor.sync.fetch import DOWN_S, Fetcher

MIB = 1 << 20
WAIT_S = 30


class Clock:
    """Time passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, event: threading.Event, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)


class Rig:
    """A fetcher between a faulty bucket and a real store."""

    def __init__(self, folder: Path, workers: int = 4, ring: KeyRing | None = None) -> None:
        self.bucket, self.known, self.clock, self.ring = FaultyBucket(), KnownObjects(), Clock(), ring
        (folder / "staging").mkdir()
        self.store, self.staging = BlobStore(folder / "blobs"), Staging(folder / "staging")
        self.local = StoreBlobs(self.store, self.staging)
        self.threads = ThreadPoolExecutor(workers)
        self.arrived: list[str] = []
        self.fetcher = Fetcher(
            self.bucket,
            self.known,  # type: ignore[arg-type]
            self.local,
            self.threads,
            ring=lambda: self.ring,
            arrived=lambda ref: self.arrived.append(ref.digest),
            random=lambda: 1.0,
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    def upload(self, data: bytes) -> BlobRef:
        return upload(self.bucket, self.known, data, self.ring)

    def fetch(self, ref: BlobRef) -> None:
        self.fetcher.ask(ref).result.result(WAIT_S)

    def left_over(self) -> list[str]:
        return [p.name for p in self.staging.folder.iterdir() if p.name != "lock"]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.fetcher.close()
    made.threads.shutdown()
    made.staging.close()


def flip(at: int) -> object:
    return lambda get, data: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("size", [0, 1, 70_000, 3 * MIB + 17])
def test_a_blob_comes_back(rig: Rig, size: int) -> None:
    data = os.urandom(size)
    ref = rig.upload(data)
    rig.fetch(ref)
    assert bytes(rig.store.read(ref)) == data
    assert rig.arrived == [ref.digest]
    assert rig.left_over() == []


def test_what_is_here_is_not_fetched(rig: Rig) -> None:
    ref = rig.upload(b"here")
    rig.fetch(ref)
    rig.fetch(ref)
    assert len(rig.bucket.gets) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty"])
def test_a_damaged_file_is_replaced_by_a_whole_one(rig: Rig, damage: str) -> None:
    data = os.urandom(5000)
    ref = rig.upload(data)
    rig.fetch(ref)
    bad = {"flip": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1], "grow": data + b"x", "empty": b""}[damage]
    rig.store.path(ref.digest).write_bytes(bad)
    rig.fetch(ref)
    assert rig.store.path(ref.digest).read_bytes() == data


def test_a_damaged_file_stays_until_the_new_one_is_whole(rig: Rig) -> None:
    ref = rig.upload(os.urandom(5000))
    rig.store.path(ref.digest).parent.mkdir(parents=True)
    rig.store.path(ref.digest).write_bytes(b"half of it may be of use")
    rig.bucket.change = flip(3000)  # type: ignore[assignment]
    with pytest.raises(ObjectDamaged):
        rig.fetch(ref)
    assert rig.store.path(ref.digest).read_bytes() == b"half of it may be of use"
    assert rig.left_over() == []


@pytest.mark.parametrize("error", [RemoteFailed("reset"), Timeout("stall"), Throttled("slow"), Offline("reset")])
def test_a_reset_goes_on_where_it_was(rig: Rig, error: TorporError) -> None:
    data = os.urandom(3 * MIB)
    ref = rig.upload(data)
    rig.bucket.fault = lambda get: (MIB - get.offset, error) if get.offset < MIB else None
    rig.fetch(ref)
    assert [get.offset for get in rig.bucket.gets] == [0, MIB]
    assert bytes(rig.store.read(ref)) == data


def test_resets_without_end_are_survived_as_long_as_it_gets_on(rig: Rig) -> None:
    data = os.urandom(4 * MIB)
    ref = rig.upload(data)
    rig.bucket.fault = lambda get: (100_000, RemoteFailed("reset"))
    rig.fetch(ref)
    assert len(rig.bucket.gets) > 40
    assert bytes(rig.store.read(ref)) == data
    assert max(rig.clock.slept) <= 0.5


def test_a_reset_behind_the_last_byte_is_no_failure(rig: Rig) -> None:
    data = os.urandom(100_000)
    ref = rig.upload(data)
    rig.bucket.fault = lambda get: (1 << 40, RemoteFailed("reset"))
    rig.fetch(ref)
    assert len(rig.bucket.gets) == 1


@pytest.mark.parametrize("behind", [0, 10])
def test_what_does_not_get_on_ends_with_its_error(rig: Rig, behind: int) -> None:
    ref = rig.upload(os.urandom(MIB))
    rig.bucket.fault = lambda get: (behind, Throttled("slow down")) if behind else Throttled("slow down")
    with pytest.raises(Throttled):
        rig.fetch(ref)
    assert 5 < len(rig.bucket.gets) < 40
    assert rig.clock.slept[:4] == [0.5, 1.0, 2.0, 4.0]  # the jitter is at its most here
    assert rig.left_over() == []
    rig.bucket.fault = lambda get: None
    rig.fetch(ref)


def test_a_byte_that_flips_on_its_way_is_asked_for_again(rig: Rig) -> None:
    data = os.urandom(2 * MIB)
    ref = rig.upload(data)
    rig.bucket.change = lambda get, raw: raw if get.number else raw[:900_000] + b"?" + raw[900_001:]
    rig.fetch(ref)
    assert [get.offset for get in rig.bucket.gets] == [0, 0]
    assert bytes(rig.store.read(ref)) == data


@pytest.mark.parametrize("at", [0, 3, 20, 60_000, -1])
def test_a_byte_that_is_wrong_in_the_bucket_never_gets_a_name(rig: Rig, at: int) -> None:
    ref = rig.upload(os.urandom(100_000))
    rig.bucket.change = lambda get, raw: raw[: at % len(raw)] + bytes([raw[at] ^ 16]) + raw[at % len(raw) + 1 :]
    with pytest.raises(ObjectDamaged):
        rig.fetch(ref)
    assert not rig.store.path(ref.digest).exists()
    assert rig.left_over() == []
    assert len(rig.bucket.gets) == 2


@pytest.mark.parametrize("how", ["damaged", "cut", "gone", "other"])
def test_the_next_object_of_the_blob_is_tried(rig: Rig, how: str) -> None:
    data = os.urandom(200_000)
    ref = rig.upload(data)
    rig.upload(data)
    newest = rig.known.every_object(ref.digest)[0].name
    other = rig.upload(b"other bytes")
    if how == "gone":
        rig.bucket.delete(newest)
    changed = {"damaged": lambda raw: b"?" + raw[1:], "cut": lambda raw: raw[:-50], "gone": lambda raw: raw}
    stored = rig.bucket.server.objects[rig.known.every_object(other.digest)[0].name].data
    rig.bucket.change = lambda get, raw: raw if get.name != newest else changed.get(how, lambda raw: stored)(raw)
    rig.fetch(ref)
    assert bytes(rig.store.read(ref)) == data
    assert len(rig.known.every_object(ref.digest)) == 2


def test_a_blob_that_the_bucket_does_not_have(rig: Rig) -> None:
    with pytest.raises(ObjectNotFound):
        rig.fetch(BlobRef("a" * 64, 5))
    ref = rig.upload(b"gone")
    rig.bucket.delete(rig.known.every_object(ref.digest)[0].name)
    with pytest.raises(ObjectNotFound):
        rig.fetch(ref)


def test_what_was_not_there_for_a_moment_is_fetched_later(rig: Rig) -> None:
    ref = rig.upload(b"a captive portal answers 404 to everything")
    name = rig.known.every_object(ref.digest)[0].name
    kept = rig.bucket.server.objects.pop(name)
    with pytest.raises(ObjectNotFound):
        rig.fetch(ref)
    rig.bucket.server.objects[name] = kept
    rig.fetch(ref)
    assert bytes(rig.store.read(ref)) == b"a captive portal answers 404 to everything"


def test_a_manifest_that_lies_about_the_size_gets_nothing(rig: Rig) -> None:
    ref = rig.upload(bytes(50 * MIB))  # a few bytes in the bucket
    for size in (0, 3, 50 * MIB - 1, 50 * MIB + 1):
        with pytest.raises(ObjectDamaged):
            rig.fetch(BlobRef(ref.digest, size))
    assert not rig.store.path(ref.digest).exists()


def test_encrypted_blobs_need_their_key(rig: Rig) -> None:
    rig.ring = new_ring(0.0)
    ref = rig.upload(b"secret" * 1000)
    kept, rig.ring = rig.ring, None
    with pytest.raises(KeyMissing):
        rig.fetch(ref)
    rig.ring = new_ring(1.0)
    with pytest.raises(KeyMissing):
        rig.fetch(ref)
    rig.ring = kept
    rig.fetch(ref)
    assert bytes(rig.store.read(ref)) == b"secret" * 1000


def test_many_who_wait_share_one_download(rig: Rig) -> None:
    ref = rig.upload(os.urandom(MIB))
    go = threading.Event()
    rig.bucket.gate = lambda get: assert_set(go)
    asked = [rig.fetcher.ask(ref, urgent=i % 2 == 0) for i in range(20)]
    go.set()
    for each in asked:
        each.result.result(WAIT_S)
    assert len(rig.bucket.gets) == 1
    assert len(set(map(id, asked))) == 1


def assert_set(event: threading.Event) -> None:
    assert event.wait(WAIT_S)


@pytest.fixture
def single(tmp_path: Path) -> Iterator[Rig]:
    """One download at a time."""
    made = Rig(tmp_path, workers=1)
    yield made
    made.fetcher.close()
    made.threads.shutdown()
    made.staging.close()


def test_they_come_in_the_order_asked_and_urgent_ones_first(single: Rig) -> None:
    refs = [single.upload(os.urandom(100)) for _ in range(6)]
    go, begun = threading.Event(), threading.Event()
    single.bucket.gate = lambda get: (begun.set(), assert_set(go))[1]
    asked = [single.fetcher.ask(ref) for ref in refs[:5]]
    assert begun.wait(WAIT_S)
    asked += [single.fetcher.ask(refs[5], urgent=True), single.fetcher.ask(refs[3], urgent=True)]
    go.set()
    for each in asked:
        each.result.result(WAIT_S)
    assert single.arrived == [refs[i].digest for i in (0, 5, 3, 1, 2, 4)]
    assert len(single.bucket.gets) == 6


def test_offline_is_told_at_once_to_all_and_tried_again_later(single: Rig) -> None:
    refs = [single.upload(os.urandom(100)) for _ in range(50)]
    go = threading.Event()

    def nobody(get: Get) -> TorporError:
        assert_set(go)
        return Offline("no route to host")

    single.bucket.fault = nobody
    asked = [single.fetcher.ask(ref) for ref in refs]
    go.set()
    for each in asked:
        with pytest.raises(Offline):
            each.result.result(WAIT_S)
    assert len(single.bucket.gets) == 1
    assert single.clock.slept == []
    single.bucket.fault = lambda get: None
    with pytest.raises(Offline):
        single.fetch(refs[0])
    assert isinstance(single.fetcher.down(), Offline)
    single.clock.now += DOWN_S
    assert single.fetcher.down() is None
    for ref in refs:
        single.fetch(ref)


def test_refused_credentials_are_told_at_once(rig: Rig) -> None:
    ref = rig.upload(b"x")
    rig.bucket.fault = lambda get: RemoteDenied("AccessDenied")
    with pytest.raises(RemoteDenied):
        rig.fetch(ref)
    assert len(rig.bucket.gets) == 1


def test_a_full_disk_is_told_and_leaves_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = rig.upload(os.urandom(100_000))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("torpor.store.arriving.os.write", full)
        with pytest.raises(StoreFull):
            rig.fetch(ref)
    assert rig.left_over() == []


def test_what_nobody_wants_any_more_ends_soon(single: Rig) -> None:
    refs = [single.upload(os.urandom(2 * MIB)) for _ in range(3)]
    go, begun = threading.Event(), threading.Event()
    single.bucket.gate = lambda get: (begun.set(), assert_set(go))[1]
    first, shared, last = (single.fetcher.ask(ref) for ref in refs)
    again = single.fetcher.ask(refs[1])
    assert begun.wait(WAIT_S)
    for each in (first, shared, last):
        single.fetcher.leave(each)
    with pytest.raises(CancelledError):
        first.result.result(0)  # at once, though its thread is still in a request
    go.set()
    again.result.result(WAIT_S)
    assert [get.name for get in single.bucket.gets] == [single.known.every_object(r.digest)[0].name for r in refs[:2]]
    assert single.left_over() == []
    assert not single.store.path(refs[0].digest).exists()


def test_a_closed_fetcher_lets_everybody_go(single: Rig) -> None:
    refs = [single.upload(os.urandom(100)) for _ in range(3)]
    go, begun = threading.Event(), threading.Event()
    single.bucket.gate = lambda get: (begun.set(), assert_set(go))[1]
    asked = [single.fetcher.ask(ref) for ref in refs]
    assert begun.wait(WAIT_S)
    single.fetcher.close()
    for each in asked:
        with pytest.raises(CancelledError):
            each.result.result(0)
    go.set()


def test_storms_of_faults_end_in_the_right_bytes(rig: Rig) -> None:
    """Resets, damage on the way and throttling, at random places."""
    import random

    chance = random.Random(5)
    blobs = [os.urandom(chance.randrange(200_000)) for _ in range(100)]
    refs = [rig.upload(data) for data in blobs]

    def fault(get: Get) -> TorporError | tuple[int, TorporError] | None:
        kinds = [None, Throttled("slow"), (chance.randrange(100_000), RemoteFailed("reset"))]
        return chance.choice(kinds) if get.number < 6 else None

    rig.bucket.fault = fault
    rig.bucket.change = lambda get, raw: raw if get.number != 0 or len(raw) % 3 else raw[:-1] + b"?"
    asked = [rig.fetcher.ask(ref) for ref in refs]
    for each in asked:
        each.result.result(WAIT_S)
    assert [bytes(rig.store.read(ref)) for ref in refs] == blobs
    assert rig.left_over() == []
