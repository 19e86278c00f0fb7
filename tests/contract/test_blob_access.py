"""One suite over both ways to the blobs: shared files, and HTTP without any; each also with a bucket behind it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3
from support.daemon import Daemon
from torpor.client.api import Api
from torpor.client.blob_access import BlobAccess, OverHttp, SharedFiles
from torpor.client.discover import Endpoint
from torpor.client.fetching import Fetching
from torpor.state.crash_points import no_checkpoint
from torpor.state.errors import BlobDamaged, BlobNotFound, SnapshotLost
from torpor.state.manifest import BlobRef
from torpor.store.home import Home


@pytest.fixture(params=["files", "http", "files-bucket-off", "http-bucket-off"])
def access(request: pytest.FixtureRequest, shared_daemon: Daemon) -> Iterator[BlobAccess]:
    """The bucket was turned off since the process connected: what it would have brought is lost as without it."""
    api = Api(lambda: Endpoint(shared_daemon.url, shared_daemon.token))
    over_files = request.param.startswith("files")
    plain: BlobAccess = SharedFiles(Home(shared_daemon.home), no_checkpoint) if over_files else OverHttp(api)
    access = Fetching(plain, api) if request.param.endswith("off") else plain
    yield access
    access.close()
    api.close()


@pytest.fixture
def place(shared_daemon: Daemon) -> Callable[[str], Path]:
    """Where a blob lies, found without the code under test."""
    return lambda digest: shared_daemon.home / "store" / "blobs" / digest[:2] / digest


def views(*parts: bytes) -> list[memoryview]:
    return [memoryview(part) for part in parts]


@pytest.mark.parametrize("size", [1, 100, 4096, 1 << 20, (9 << 20) + 5])
def test_bytes_come_back(access: BlobAccess, place: Callable[[str], Path], size: int) -> None:
    data = os.urandom(size)
    while place(blake3(data).hexdigest()).exists():  # one byte may well be there, from another kind of access
        data = os.urandom(size)
    result = access.put(views(data))
    access.settle()
    assert result.written
    assert result.ref == BlobRef(blake3(data).hexdigest(), size)
    assert place(result.ref.digest).read_bytes() == data
    assert place(result.ref.digest).stat().st_mode & 0o777 == 0o600
    assert bytes(access.read(result.ref)) == data


def test_an_empty_blob_is_a_blob(access: BlobAccess) -> None:
    assert access.read(access.put([]).ref).nbytes == 0


def test_thousands_of_buffers_are_one_blob(access: BlobAccess) -> None:
    parts = [os.urandom(17) for _ in range(3000)]  # more than one vectored call takes
    ref = access.put(views(*parts)).ref
    into = [memoryview(bytearray(51)) for _ in range(1000)]
    access.read_into(ref, into)
    assert b"".join(into) == b"".join(parts)


def test_equal_bytes_are_written_once(access: BlobAccess) -> None:
    data = os.urandom(500)
    assert access.put(views(data)).written
    assert not access.put(views(data[:200], data[200:])).written


def one_by_one(data: bytes, size: int, breaks_at: int | None = None) -> Iterator[memoryview]:
    """Yield data in pieces that are all in the same memory, perhaps not to the end."""
    memory = bytearray(size)
    for at in range(0, len(data), size):
        if at == breaks_at:
            raise SnapshotLost("the cache was changed")
        part = data[at : at + size]
        memory[: len(part)] = part
        yield memoryview(memory)[: len(part)]


def test_pieces_in_the_same_memory_are_one_blob(access: BlobAccess, place: Callable[[str], Path]) -> None:
    data = os.urandom((3 << 20) + 7)
    result = access.put_pieces(one_by_one(data, 1 << 20))
    access.settle()
    assert (result.ref, result.written) == (BlobRef(blake3(data).hexdigest(), len(data)), True)
    assert place(result.ref.digest).read_bytes() == data
    assert place(result.ref.digest).stat().st_mode & 0o777 == 0o600
    assert not access.put_pieces(one_by_one(data, 1000)).written
    assert not access.put(views(data)).written


def test_pieces_heal_a_damaged_blob_and_a_break_leaves_nothing(shared_daemon: Daemon) -> None:
    home, data = Home(shared_daemon.home), os.urandom(50_000)
    access = SharedFiles(home, no_checkpoint)
    place = home.store / "blobs" / blake3(data).hexdigest()[:2] / blake3(data).hexdigest()
    with pytest.raises(SnapshotLost):
        access.put_pieces(one_by_one(data, 10_000, breaks_at=30_000))
    assert not place.exists()
    [mine] = [folder for folder in (home.store / "staging").glob(f"w{os.getpid()}-*") if any(folder.iterdir())]
    assert [file.name for file in mine.iterdir()] == ["lock"]
    ref = access.put_pieces(one_by_one(data, 10_000)).ref
    place.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert access.put_pieces(one_by_one(data, 10_000)).written
    assert bytes(access.read(ref)) == data
    assert [file.name for file in mine.iterdir()] == ["lock"]
    access.close()


def test_pieces_are_synced_before_they_are_named(shared_daemon: Daemon) -> None:
    passed = list[str]()
    access = SharedFiles(Home(shared_daemon.home), passed.append)
    access.put_pieces(one_by_one(os.urandom(5000), 1000))
    access.settle()
    access.close()
    assert passed == ["blob.created", "blob.written", "blob.synced", "blob.replaced", "blob.directory-synced"]


def test_missing_names_what_is_missing(access: BlobAccess) -> None:
    here = access.put(views(os.urandom(10))).ref
    gone = BlobRef("0" * 64, 10)
    other_size = BlobRef(here.digest, 11)
    assert access.missing([here]) == []
    assert access.missing([gone, here]) == [gone.digest]
    assert access.missing([other_size]) == [here.digest]
    assert access.missing([]) == []


def test_a_blob_that_is_not_there(access: BlobAccess) -> None:
    with pytest.raises(BlobNotFound):
        access.read(BlobRef("1" * 64, 5))
    with pytest.raises(BlobNotFound):
        access.read_into(BlobRef("1" * 64, 5), [memoryview(bytearray(5))])


def test_being_told_what_is_read_changes_nothing(access: BlobAccess) -> None:
    here = access.put(views(os.urandom(10))).ref
    access.expect("01M81P35719XNDZ4R57NMV6DYZ", [here, BlobRef("0" * 64, 10), BlobRef("1" * 64, 10)])
    assert access.missing([here]) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "zero"])
def test_a_damaged_blob_is_never_taken_for_whole(access: BlobAccess, place: Callable[[str], Path], damage: str) -> None:
    data = os.urandom(5000)
    ref = access.put(views(data)).ref
    bad = bytearray(data)
    if damage == "flip":
        bad[4321] ^= 4
    place(ref.digest).write_bytes({"cut": data[:-1], "grow": data + b"x", "zero": bytes(5000)}.get(damage, bytes(bad)))
    with pytest.raises(BlobDamaged):
        access.read_into(ref, [memoryview(bytearray(5000))])


def test_a_damaged_blob_is_healed_by_the_next_writer(shared_daemon: Daemon, place: Callable[[str], Path]) -> None:
    files = SharedFiles(Home(shared_daemon.home), no_checkpoint)
    data = os.urandom(700)
    ref = files.put(views(data)).ref
    place(ref.digest).write_bytes(bytes(700))
    assert files.put(views(data)).written
    assert bytes(files.read(ref)) == data
    files.close()


def test_many_threads_write_the_same_and_other_blobs(access: BlobAccess) -> None:
    blocks = [os.urandom(3000) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        refs = list(threads.map(lambda i: access.put(views(blocks[i % 8])).ref, range(64)))
    access.settle()
    assert [bytes(access.read(ref)) for ref in refs] == [blocks[i % 8] for i in range(64)]


def test_nothing_is_left_in_staging(shared_daemon: Daemon) -> None:
    files = SharedFiles(Home(shared_daemon.home), no_checkpoint)
    files.put(views(b"x"))
    before = set((shared_daemon.home / "store" / "staging").iterdir())
    files.close()
    after = set((shared_daemon.home / "store" / "staging").iterdir())
    assert len(before - after) == 1
    assert [p.name for folder in after for p in folder.iterdir() if p.name != "lock"] == []
