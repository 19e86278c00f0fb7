"""Transfers over a line that fails in the middle: taken up again, broken off at once, or ended with the reason."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable

import pytest
from support.buckets import MemoryJournal
from support.failing_line import MIB, SIZE, put, read
from support.fault_proxy import Fault, FaultProxy, Kind, is_object, method
from torpor.codec.objects import open_document, seal_document
from torpor.state.errors import BadInput, Damaged, Offline, RemoteFailed, TorporError
from torpor.sync.limiter import Limiter
from torpor.sync.multipart import LEAST_PART_BYTES, put_object
from torpor.sync.ports import Interrupted
from torpor.sync.s3 import S3Bucket


def test_a_flipped_byte_on_the_way_down_is_seen(
    opened: Callable[..., S3Bucket], proxy: FaultProxy, straight: S3Bucket
) -> None:
    """The bucket hands over what arrives; the cold form tells."""
    stored = seal_document(os.urandom(SIZE), b"it", None)
    put(straight, "x", stored)
    bucket = opened()
    for at in (0, 7, 100, 150_000, len(stored) - 1):
        with proxy.fault(Fault("flip-down", hits=is_object, at=at)), pytest.raises((Damaged, BadInput)):
            open_document(read(bucket, "x"), b"it", None)


def test_a_download_is_taken_up_where_it_broke_off(
    opened: Callable[..., S3Bucket], proxy: FaultProxy, straight: S3Bucket
) -> None:
    data = os.urandom(6 * MIB)
    put(straight, "x", data)
    proxy.add(Fault("reset-down", times=1, hits=method("GET"), at=5 * MIB, seconds=0.3))
    assert read(opened(), "x") == data
    assert proxy.counts.bytes_down["GET"] < 7 * MIB


def test_an_object_that_changes_while_it_is_read(
    opened: Callable[..., S3Bucket], proxy: FaultProxy, straight: S3Bucket
) -> None:
    put(straight, "x", os.urandom(2 * MIB))
    proxy.add(Fault("reset-down", times=1, hits=method("GET"), at=MIB, seconds=0.3))
    with opened().get("x") as pieces:
        first = next(pieces)
        put(straight, "x", os.urandom(2 * MIB))
        with pytest.raises(RemoteFailed, match="changed while it was read"):
            list(pieces)
    assert first


def test_a_slow_line_gets_the_time_that_it_needs(
    opened: Callable[..., S3Bucket], proxy: FaultProxy, straight: S3Bucket
) -> None:
    data = os.urandom(SIZE)
    bucket = opened(deadline_s=1.0, slowest_bytes_s=60_000.0, stall_s=2.0)
    with proxy.fault(Fault("throttle", rate=200_000.0)):
        put(bucket, "x", data)
        assert read(bucket, "x") == data
    assert read(straight, "x") == data


def test_a_bandwidth_limit_does_not_count_against_the_deadline(
    opened: Callable[..., S3Bucket], straight: S3Bucket
) -> None:
    data = os.urandom(SIZE)
    limiter = Limiter(up=200_000.0, down=200_000.0)
    bucket = opened(deadline_s=1.0, slowest_bytes_s=1e9, limiter=limiter)
    for transfer in (lambda: put(bucket, "x", data), lambda: read(bucket, "x")):
        begun = time.monotonic()
        transfer()
        assert 1.2 < time.monotonic() - begun < 10
    assert read(straight, "x") == data


@pytest.mark.parametrize("way", ["interrupt", "close"])
@pytest.mark.parametrize("kind", ["black-hole", "stall-down", "stall-up"])
def test_what_hangs_is_broken_off_at_once(
    opened: Callable[..., S3Bucket], proxy: FaultProxy, straight: S3Bucket, kind: Kind, way: str
) -> None:
    """The network came back, or the daemon stops: nobody waits for a timeout."""
    data = os.urandom(4 * MIB)
    put(straight, "x", data)
    bucket = opened(stall_s=60.0, deadline_s=60.0)
    proxy.add(Fault(kind, at=MIB))
    failures: list[TorporError] = []
    received: list[bytes] = []

    def transfer() -> None:
        try:
            if kind == "stall-up":
                put(bucket, "y", os.urandom(8 * MIB))
            else:
                received.append(read(bucket, "x"))
        except TorporError as error:
            failures.append(error)

    thread = threading.Thread(target=transfer)
    thread.start()
    until = time.monotonic() + 20
    while not proxy.is_hanging and time.monotonic() < until:
        time.sleep(0.01)
    proxy.clear()
    begun = time.monotonic()
    getattr(bucket, way)()
    thread.join(10)
    assert time.monotonic() - begun < 3
    if way == "interrupt":
        assert received == ([] if kind == "stall-up" else [data])  # a download goes on by itself
        assert [type(failure) for failure in failures] == ([Offline] if kind == "stall-up" else [])
        assert read(bucket, "x") == data
    else:
        assert [type(failure) for failure in failures] == [Offline]
        with pytest.raises(Offline, match="closed"):
            bucket.now()


def test_a_body_may_leave_a_transfer(opened: Callable[..., S3Bucket], straight: S3Bucket) -> None:
    """What a body raises comes out as it is, and the connection is not used again."""

    class Leaving(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1) -> bytes:
            self.reads += 1
            if self.reads > 30:
                raise Interrupted
            return super().read(min(size or 0, 64 << 10))

    bucket = opened()
    with pytest.raises(Interrupted):
        bucket.put("x", Leaving(bytes(MIB)), MIB)
    put(bucket, "y", b"1")
    assert [found.name for found in straight.list("")] == ["y"]


def test_a_file_that_ends_early_is_said(opened: Callable[..., S3Bucket], straight: S3Bucket) -> None:
    with pytest.raises(TorporError, match="ends 5 bytes early") as caught:
        opened().put("x", io.BytesIO(bytes(SIZE)), SIZE + 5)
    assert caught.value.code == "file-changed"
    assert [found.name for found in straight.list("")] == []


def test_a_multipart_upload_goes_on_behind_a_fault(
    opened: Callable[..., S3Bucket], proxy: FaultProxy, straight: S3Bucket
) -> None:
    data, journal = os.urandom(2 * LEAST_PART_BYTES + 99), MemoryJournal()
    bucket = opened(attempts=1, deadline_s=20.0)

    def send() -> None:
        put_object(bucket, journal, "big", "d", io.BytesIO(data), len(data), single_bytes=0)

    proxy.add(Fault("reset-up", times=1, hits=lambda r: "partNumber=2" in r.target, at=MIB))
    proxy.add(Fault("lost-reply", times=1, hits=lambda r: "partNumber=3" in r.target, status=0))
    proxy.add(
        Fault(
            "lost-reply",
            times=1,
            hits=lambda r: r.method == "POST" and "uploadId" in r.target,
            status=500,
            code="InternalError",
        )
    )
    for _ in range(2):
        with pytest.raises(RemoteFailed):
            send()
    send()
    assert read(straight, "big") == data
    assert not journal.uploads
    assert proxy.counts.bytes_up["PUT"] < len(data) + 3 * MIB
