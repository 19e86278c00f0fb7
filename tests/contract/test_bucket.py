"""One suite over every bucket: in memory, SeaweedFS, and moto."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import pytest
from support.buckets import MemoryJournal, options, s3_bucket
from support.fault_proxy import FaultProxy
from support.memory_bucket import MemoryBucket, MemoryServer
from support.s3_servers import Place
from torpor.state.errors import ObjectExists, ObjectNotFound, TorporError
from torpor.sync.bucket import Bucket
from torpor.sync.multipart import LEAST_PART_BYTES, MOST_PARTS, give_up, part_bytes_for, put_object
from torpor.sync.quirks import InProcess, Quirks
from torpor.sync.s3 import S3Bucket

MIB = 1 << 20
QUIRKS = {"weed": Quirks(True, "crc32"), "moto": Quirks(True, "none")}


@dataclass
class Servers:
    """A bucket, and a way to open it again as another process would."""

    bucket: Bucket
    again: Any


@pytest.fixture(params=["memory", "weed", "moto"])
def servers(request: pytest.FixtureRequest) -> Iterator[Servers]:
    opened: list[Any] = []
    if request.param == "memory":
        server = MemoryServer()

        def again() -> Bucket:
            return MemoryBucket(server)
    else:
        place = request.getfixturevalue(f"{request.param}_room")

        def again() -> Bucket:
            opened.append(s3_bucket(place, quirks=QUIRKS[request.param]))
            return opened[-1]

    yield Servers(again(), again)
    for bucket in opened:
        bucket.close()


@pytest.fixture
def bucket(servers: Servers) -> Bucket:
    return servers.bucket


def put(bucket: Bucket, name: str, data: bytes, **options: Any) -> None:
    bucket.put(name, io.BytesIO(data), len(data), **options)


def read(bucket: Bucket, name: str, offset: int = 0) -> bytes:
    with bucket.get(name, offset=offset) as pieces:
        return b"".join(pieces)


def test_bytes_come_back(bucket: Bucket) -> None:
    """Small objects go in one piece with the headers, larger ones as a stream."""
    for size in (0, 1, 65_536, 65_537, 3 * MIB + 7):
        data, name = os.urandom(size), f"blobs/ab/{size}"
        put(bucket, name, data)
        assert read(bucket, name) == data
        assert bucket.head(name).size_bytes == size
        assert [(found.name, found.size_bytes) for found in bucket.list(name)] == [(name, size)]


def test_a_real_file_goes_up_from_its_beginning(bucket: Bucket) -> None:
    data = os.urandom(MIB)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        bucket.put("a", file, len(data))
        bucket.put("b", file, 1000)
    assert read(bucket, "a") == data
    assert read(bucket, "b") == data[:1000]


def test_reading_begins_at_an_offset(bucket: Bucket) -> None:
    data = os.urandom(700_000)
    put(bucket, "x", data)
    for offset in (1, 300_000, len(data) - 1, len(data), len(data) + 5):
        assert read(bucket, "x", offset) == data[offset:]


def test_a_reader_may_leave_early(bucket: Bucket) -> None:
    put(bucket, "x", os.urandom(2 * MIB))
    for _ in range(3):
        with bucket.get("x") as pieces:
            assert next(iter(pieces))
    assert bucket.head("x").size_bytes == 2 * MIB


def test_what_is_not_there(bucket: Bucket) -> None:
    for ask in (lambda: bucket.head("no/such"), lambda: read(bucket, "no/such"), lambda: read(bucket, "no/such", 5)):
        with pytest.raises(ObjectNotFound, match="no/such"):
            ask()
    bucket.delete("no/such")
    assert list(bucket.list("no/")) == []


def test_a_deleted_object_is_gone(bucket: Bucket) -> None:
    put(bucket, "d/x", b"1")
    put(bucket, "d/y", b"2")
    bucket.delete("d/x")
    bucket.delete("d/x")
    assert [found.name for found in bucket.list("d/")] == ["d/y"]
    with pytest.raises(ObjectNotFound):
        bucket.head("d/x")


def test_a_conditional_put_takes_only_new_names(bucket: Bucket) -> None:
    put(bucket, "x", b"first", only_new=True)
    with pytest.raises(ObjectExists, match="x"):
        put(bucket, "x", b"second", only_new=True)
    assert read(bucket, "x") == b"first"
    put(bucket, "x", b"third")
    assert read(bucket, "x") == b"third"


def test_one_of_sixteen_wins(bucket: Bucket) -> None:
    def attempt(number: int) -> int | None:
        try:
            put(bucket, "race", b"%d" % number, only_new=True)
        except ObjectExists:
            return None
        return number

    with ThreadPoolExecutor(16) as pool:
        won = [number for number in pool.map(attempt, range(16)) if number is not None]
    assert len(won) == 1
    assert read(bucket, "race") == b"%d" % won[0]


def test_a_listing_of_many_pages(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torpor.sync.s3.PAGE", 100)
    names = {f"many/{number:04d}" for number in range(305)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: put(bucket, name, b""), names))
    put(bucket, "other", b"")
    found = [each.name for each in bucket.list("many/")]
    assert len(found) == len(names)
    assert set(found) == names
    assert {each.name for each in bucket.list("many/000")} == {name for name in names if name.startswith("many/000")}


def test_a_listing_of_more_than_a_thousand(weed_room: Place) -> None:
    with contextlib.closing(s3_bucket(weed_room)) as bucket, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: put(bucket, f"many/{number}", b""), range(1005)))
        found = [each.name for each in bucket.list("many/")]
    assert len(found) == 1005
    assert set(found) == {f"many/{number}" for number in range(1005)}


@pytest.mark.parametrize("server", ["weed", "moto"])
def test_quirks_are_found_out_once(server: str, request: pytest.FixtureRequest) -> None:
    place: Place = request.getfixturevalue(server)
    memory = InProcess()
    with contextlib.closing(S3Bucket(options(place), memory=memory)) as bucket:
        put(bucket, "x", b"1")
        assert [found.name for found in bucket.list("")] == ["x"]
    assert {key: (memory.read() or {})[key] for key in ("conditional_put", "checksum")} == dataclasses.asdict(
        QUIRKS[server]
    )
    other = {**(memory.read() or {}), "checksum": "md5"}
    memory.write(other)
    with FaultProxy(place.endpoint) as proxy:
        there = dataclasses.replace(options(place), endpoint=proxy.endpoint)
        memory.write({**other, "server": there.server})
        with contextlib.closing(S3Bucket(there, memory=memory)) as behind:
            put(behind, "z", b"1")
        assert proxy.counts.requests == {"PUT": 1}
    with contextlib.closing(S3Bucket(dataclasses.replace(options(place), prefix="elsewhere"), memory=memory)) as moved:
        put(moved, "x", b"2")
        assert (memory.read() or {})["checksum"] == QUIRKS[server].checksum  # another repository was asked anew
        assert [found.name for found in moved.list("")] == ["x"]


def test_names_come_back_as_they_are(bucket: Bucket) -> None:
    for name in ("blobs/ab/" + "a" * 64 + ".01h", "keys/a b+c&d=é.json", "gc/condemned/x%20y"):
        put(bucket, name, b"1")
        assert [found.name for found in bucket.list(name[:4])] == [name]
        assert bucket.head(name).name == name
        assert read(bucket, name) == b"1"


def test_times_are_the_servers(bucket: Bucket) -> None:
    before = bucket.now()
    put(bucket, "x", b"1")
    after = bucket.now()
    assert before - 1 <= bucket.head("x").modified_at <= after + 1
    (found,) = bucket.list("x")
    assert abs(found.modified_at - bucket.head("x").modified_at) <= 1
    assert abs(before - time.time()) < 60


def test_parts_are_joined(bucket: Bucket) -> None:
    data = os.urandom(11 * MIB)
    file = io.BytesIO(data)
    upload = bucket.start_upload("big")
    assert bucket.parts("big", upload) == {}
    etags = {
        2: bucket.put_part("big", upload, 2, file, 6 * MIB, 5 * MIB),
        1: bucket.put_part("big", upload, 1, file, 0, 6 * MIB),
    }
    assert {number: size for number, (_, size) in bucket.parts("big", upload).items()} == {1: 6 * MIB, 2: 5 * MIB}
    assert {number: etag for number, (etag, _) in bucket.parts("big", upload).items()} == etags
    with pytest.raises(ObjectNotFound):
        bucket.head("big")
    bucket.finish_upload("big", upload, etags)
    assert read(bucket, "big") == data
    bucket.finish_upload("big", upload, etags)
    with pytest.raises(ObjectNotFound):
        bucket.parts("big", upload)


def test_an_aborted_upload_is_gone(bucket: Bucket) -> None:
    upload = bucket.start_upload("big")
    bucket.put_part("big", upload, 1, io.BytesIO(bytes(5 * MIB)), 0, 5 * MIB)
    bucket.abort_upload("big", upload)
    bucket.abort_upload("big", upload)
    with pytest.raises(ObjectNotFound):
        bucket.parts("big", upload)
    with pytest.raises(TorporError):
        bucket.finish_upload("big", upload, {1: '"x"'})
    with pytest.raises(ObjectNotFound):
        bucket.head("big")


class Stopped(Exception):
    """What ends an upload in its middle."""


def stop_behind(parts: int) -> Any:
    left = iter([None] * parts)

    def next_part() -> None:
        try:
            next(left)
        except StopIteration:
            raise Stopped from None

    return next_part


@pytest.fixture
def large() -> Iterator[tuple[BinaryIO, bytes]]:
    data = os.urandom(2 * LEAST_PART_BYTES + 12_345)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        yield file, data


def test_an_upload_goes_on_in_another_process(servers: Servers, large: tuple[BinaryIO, bytes]) -> None:
    file, data = large
    journal = MemoryJournal()
    with pytest.raises(Stopped):
        put_object(
            servers.bucket,
            journal,
            "big",
            "d",
            file,
            len(data),
            next_part=stop_behind(2),
            single_bytes=LEAST_PART_BYTES,
        )
    sent: list[int] = []
    put_object(servers.again(), journal, "big", "d", file, len(data), next_part=lambda: sent.append(1), single_bytes=0)
    assert len(sent) == 1
    assert read(servers.bucket, "big") == data
    assert journal.read("big") is None


def test_a_part_that_was_sent_and_not_remembered_is_not_sent_again(
    servers: Servers, large: tuple[BinaryIO, bytes]
) -> None:
    file, data = large
    journal = MemoryJournal()
    with pytest.raises(Stopped):
        put_object(servers.bucket, journal, "big", "d", file, len(data), next_part=stop_behind(2), single_bytes=0)
    parts = journal.uploads["big"]
    journal.uploads["big"] = dataclasses.replace(parts, etags={1: parts.etags[1]})
    sent: list[int] = []
    put_object(servers.bucket, journal, "big", "d", file, len(data), next_part=lambda: sent.append(1), single_bytes=0)
    assert len(sent) == 1
    assert read(servers.bucket, "big") == data


def test_a_part_of_other_bytes_is_sent_again(servers: Servers, large: tuple[BinaryIO, bytes]) -> None:
    file, data = large
    journal = MemoryJournal()
    with pytest.raises(Stopped):
        put_object(servers.bucket, journal, "big", "d", file, len(data), next_part=stop_behind(1), single_bytes=0)
    upload = journal.uploads["big"].upload_id
    servers.bucket.put_part("big", upload, 1, io.BytesIO(bytes(LEAST_PART_BYTES)), 0, LEAST_PART_BYTES)
    put_object(servers.bucket, journal, "big", "d", file, len(data), single_bytes=0)
    assert read(servers.bucket, "big") == data


def test_a_lost_upload_begins_anew(servers: Servers, large: tuple[BinaryIO, bytes]) -> None:
    file, data = large
    journal = MemoryJournal()
    with pytest.raises(Stopped):
        put_object(servers.bucket, journal, "big", "d", file, len(data), next_part=stop_behind(1), single_bytes=0)
    servers.bucket.abort_upload("big", journal.uploads["big"].upload_id)
    put_object(servers.again(), journal, "big", "d", file, len(data), single_bytes=0)
    assert read(servers.bucket, "big") == data
    assert not journal.uploads


def test_an_upload_that_was_joined_is_done(servers: Servers, large: tuple[BinaryIO, bytes]) -> None:
    """The answer to the joining was lost."""
    file, data = large
    journal = MemoryJournal()
    kept = journal.forget
    journal.forget = lambda name: None  # type: ignore[method-assign]
    put_object(servers.bucket, journal, "big", "d", file, len(data), single_bytes=0)
    journal.forget = kept  # type: ignore[method-assign]
    sent: list[int] = []
    put_object(servers.again(), journal, "big", "d", file, len(data), next_part=lambda: sent.append(1), single_bytes=0)
    assert not sent
    assert not journal.uploads
    assert read(servers.bucket, "big") == data


def test_an_upload_that_is_given_up_leaves_nothing(servers: Servers, large: tuple[BinaryIO, bytes]) -> None:
    file, data = large
    journal = MemoryJournal()
    with pytest.raises(Stopped):
        put_object(servers.bucket, journal, "big", "d", file, len(data), next_part=stop_behind(1), single_bytes=0)
    upload = journal.uploads["big"].upload_id
    give_up(servers.bucket, journal, "big")
    give_up(servers.bucket, journal, "big")
    assert not journal.uploads
    with pytest.raises(ObjectNotFound):
        servers.bucket.parts("big", upload)


def test_parts_are_neither_too_small_nor_too_many() -> None:
    for size in (1, 65 * MIB, 80_000 * MIB, 80_000 * MIB + 1, 5 << 40):
        part = part_bytes_for(size)
        assert part >= LEAST_PART_BYTES
        assert part % MIB == 0
        assert -(-size // part) <= MOST_PARTS
