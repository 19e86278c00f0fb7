"""The bucket over a network that fails: each request succeeds, or ends in time with an error that says what to do.

SeaweedFS stands behind a proxy that spoils what passes. What is stored is looked at past the proxy.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.buckets import s3_bucket
from support.failing_line import KNOWN, PATIENT, SHORT, SIZE, answers, put, read
from support.fault_proxy import Fault, FaultProxy, Kind, Request, is_object, method
from support.s3_servers import Place, Weed, new_room
from torpor.state.errors import (
    BucketNotFound,
    ClockSkewed,
    ObjectExists,
    ObjectNotFound,
    Offline,
    RemoteDenied,
    RemoteFailed,
    RemoteRefused,
    Throttled,
    Timeout,
    TorporError,
)
from torpor.sync.quirks import Quirks
from torpor.sync.s3 import S3Bucket

SOAK = bool(os.environ.get("TORPOR_SOAK"))
LONGEST_S = 6.0  # twice the deadline, and what a busy machine needs
CONTRACT = (
    Offline, Throttled, RemoteFailed, RemoteDenied, ClockSkewed, RemoteRefused, BucketNotFound, ObjectExists, Timeout,
)  # fmt: skip


def is_conditional(request: Request) -> bool:
    return request.is_conditional


def _refuse(proxy: FaultProxy) -> None:
    proxy.refuse()


def _spoil(*faults: Fault) -> Callable[[FaultProxy], None]:
    return lambda proxy: proxy.add(*[dataclasses.replace(fault) for fault in faults])


# What is done to the network, by name; the error that each of put, get and list may end in (None: success).
Outcome = type[TorporError] | None
FAULTS: dict[str, tuple[Callable[[FaultProxy], None], dict[str, tuple[Outcome, ...]]]] = {
    "refused": (_refuse, dict.fromkeys(("put", "get", "list"), (Offline,))),
    "black hole": (_spoil(Fault("black-hole")), dict.fromkeys(("put", "get", "list"), (Timeout,))),
    "reset in mid-upload": (
        _spoil(Fault("reset-up", at=SIZE // 2)),
        {"put": (RemoteFailed,), "get": (None,), "list": (None,)},
    ),
    "one reset in mid-upload": (_spoil(Fault("reset-up", times=1, at=9)), {"put": (None,)}),
    "reset in mid-download": (
        _spoil(Fault("reset-down", hits=method("GET"), at=100)),
        {"put": (None,), "get": (RemoteFailed,), "list": (RemoteFailed,)},
    ),
    "one reset in mid-download": (
        _spoil(Fault("reset-down", times=1, hits=method("GET"), at=150)),
        {"get": (None,), "list": (None,)},
    ),
    "SlowDown five times": (
        _spoil(answers(503, "SlowDown", times=5)),
        dict.fromkeys(("put", "get", "list"), (Throttled,)),
    ),
    "one 500": (_spoil(answers(500, "InternalError", times=1)), dict.fromkeys(("put", "get", "list"), (None,))),
    "500 and lost replies": (
        _spoil(Fault("lost-reply", status=500, code="InternalError")),
        dict.fromkeys(("put", "get", "list"), (RemoteFailed,)),
    ),
    "clock skew": (
        _spoil(answers(403, "RequestTimeTooSkewed")),
        dict.fromkeys(("put", "get", "list"), (ClockSkewed,)),
    ),
    "access denied": (_spoil(answers(403, "AccessDenied")), dict.fromkeys(("put", "get", "list"), (RemoteDenied,))),
    "flipped byte going up": (
        _spoil(Fault("flip-up", hits=method("PUT"), at=SIZE // 3)),
        {"put": (RemoteFailed,), "get": (None,), "list": (None,)},
    ),
    "one flipped byte going up": (_spoil(Fault("flip-up", times=1, hits=method("PUT"), at=7)), {"put": (None,)}),
    "stall of an upload": (
        _spoil(Fault("stall-up", hits=method("PUT"), at=1000)),
        {"put": (Timeout,), "get": (None,), "list": (None,)},
    ),
    "stall of a download": (
        _spoil(Fault("stall-down", hits=method("GET"), at=100)),
        {"put": (None,), "get": (Timeout,), "list": (Timeout,)},
    ),
    "stall before an answer": (_spoil(Fault("stall-down")), {"get": (Timeout,), "list": (Timeout,)}),
    "trickle": (
        _spoil(Fault("throttle", rate=100.0)),
        {"put": (Timeout,), "get": (Timeout,), "list": (Timeout,)},
    ),
    "a server that is full": (_spoil(answers(507, "InsufficientStorage")), {"put": (RemoteFailed,)}),
    "a bucket that is gone": (_spoil(answers(404, "NoSuchBucket")), {"put": (BucketNotFound,), "list": (BucketNotFound,)}),
    "sent elsewhere, always": (
        _spoil(answers(301, "PermanentRedirect")),
        dict.fromkeys(("put", "get", "list"), (RemoteRefused,)),
    ),
    "another write at the same time": (_spoil(answers(409, "ConditionalRequestConflict")), {"put": (Throttled,)}),
    "a page that asks for a login": (
        _spoil(answers(200, "Login", headers=(("Content-Type", "text/html"),))),
        dict.fromkeys(("put", "get", "list"), (RemoteFailed,)),
    ),
}  # fmt: skip
CASES = [(fault, operation) for fault, (_, outcomes) in FAULTS.items() for operation in outcomes]


@dataclasses.dataclass
class Rig:
    """One proxy and two buckets for all cases: each case has its own names."""

    proxy: FaultProxy
    bucket: S3Bucket
    straight: S3Bucket
    cases: Iterator[int] = dataclasses.field(default_factory=itertools.count)


@pytest.fixture(scope="module")
def rig(weed_server: Weed) -> Iterator[Rig]:
    room = new_room(weed_server)
    with FaultProxy(room.endpoint) as proxy, contextlib.closing(s3_bucket(room, quirks=KNOWN)) as straight:
        behind = dataclasses.replace(room, endpoint=proxy.endpoint)
        with contextlib.closing(s3_bucket(behind, quirks=KNOWN, **SHORT)) as bucket:
            yield Rig(proxy, bucket, straight)


@pytest.mark.parametrize(("fault", "operation"), CASES, ids=[f"{f}-{o}" for f, o in CASES])
def test_a_fault_ends_in_success_or_says_what_to_do(fault: str, operation: str, rig: Rig) -> None:
    spoil, outcomes = FAULTS[fault]
    case = f"case-{next(rig.cases)}/"
    old, new = os.urandom(SIZE), os.urandom(SIZE)
    put(rig.straight, case + "old", old)
    ask: Callable[[], Any] = {
        "put": lambda: put(rig.bucket, case + "new", new),
        "get": lambda: read(rig.bucket, case + "old"),
        "list": lambda: {found.name for found in rig.bucket.list(case)},
    }[operation]
    done, failure = None, None
    with _restored(rig.proxy):
        spoil(rig.proxy)
        begun = time.monotonic()
        try:
            done = ask()
        except CONTRACT as error:
            failure = error
        took_s = time.monotonic() - begun
    assert took_s < LONGEST_S
    assert (type(failure) if failure is not None else None) in outcomes[operation]
    if failure is not None:
        assert failure.hint
        assert failure.detail.startswith(f"{operation} {case}")
    elif operation == "put":
        assert rig.straight.head(case + "new").size_bytes == SIZE
    else:
        assert done == {"get": old, "list": {case + "old"}}[operation]
    with contextlib.suppress(ObjectNotFound):
        assert read(rig.straight, case + "new") == new  # wrong bytes never, and none is no wonder


@contextlib.contextmanager
def _restored(proxy: FaultProxy) -> Iterator[None]:
    try:
        yield
    finally:
        proxy.clear()
        proxy.accept()


def test_it_goes_on_when_the_network_is_back(
    opened: Callable[..., S3Bucket], proxy: FaultProxy, straight: S3Bucket
) -> None:
    bucket, data = opened(), os.urandom(SIZE)
    put(bucket, "a", data)
    proxy.refuse()
    with pytest.raises(Offline, match="refuses connections"):
        put(bucket, "b", data)
    proxy.accept()
    put(bucket, "b", data)
    assert read(straight, "b") == read(bucket, "a") == data


def test_a_name_that_does_not_resolve(opened: Callable[..., S3Bucket]) -> None:
    with pytest.raises(Offline, match="cannot be resolved"):
        opened(endpoint="http://storage.invalid:9").now()


def test_slow_down_is_passed_on_with_its_delay(opened: Callable[..., S3Bucket], proxy: FaultProxy) -> None:
    bucket = opened()
    proxy.add(answers(503, "SlowDown", headers=(("Retry-After", "120"),)))
    with pytest.raises(Throttled) as caught:
        bucket.now()
    assert caught.value.retry_after_s == 120
    assert proxy.counts.requests["GET"] == 1  # who is asked to wait two minutes does not ask again at once


def test_a_short_delay_is_waited_for(opened: Callable[..., S3Bucket], proxy: FaultProxy) -> None:
    bucket = opened()
    proxy.add(answers(429, "TooManyRequests", times=1, headers=(("Retry-After", "1"),)))
    begun = time.monotonic()
    bucket.now()
    assert 1 <= time.monotonic() - begun < 3


@pytest.mark.parametrize(("code", "error"), [("RequestTimeTooSkewed", ClockSkewed), ("AccessDenied", RemoteDenied)])
def test_head_asks_why_it_is_refused(
    opened: Callable[..., S3Bucket], proxy: FaultProxy, code: str, error: type[TorporError]
) -> None:
    bucket = opened(**PATIENT)
    proxy.add(answers(403, code))
    with pytest.raises(error, match=code):
        bucket.head("x")


@pytest.mark.parametrize("answer", ["page", "storage"])
def test_only_the_storage_can_say_that_an_object_is_gone(
    opened: Callable[..., S3Bucket], proxy: FaultProxy, straight: S3Bucket, answer: str
) -> None:
    """A hotel's network answers 404 to everything; an odd storage does not name itself in the answer to a HEAD."""
    put(straight, "x", b"1")
    bucket = opened(**PATIENT)
    fault = answers(404, "404", hits=method("HEAD") if answer == "storage" else lambda _: True)
    with proxy.fault(fault):
        for ask in (lambda: bucket.head("gone"), lambda: read(bucket, "gone")):
            with pytest.raises(ObjectNotFound if answer == "storage" else RemoteFailed):
                ask()
    assert bucket.head("x").size_bytes == 1


def test_our_own_lost_write_is_found(opened: Callable[..., S3Bucket], proxy: FaultProxy, straight: S3Bucket) -> None:
    """The reply is lost; the next try meets our own object, and its bytes are ours."""
    bucket, data = opened(), os.urandom(SIZE)
    proxy.add(Fault("lost-reply", times=1, hits=is_conditional, status=0))
    with pytest.raises(RemoteFailed):
        put(bucket, "x", data, only_new=True)
    assert proxy.counts.requests["PUT"] == 1  # a conditional write is never sent twice unasked
    with pytest.raises(ObjectExists):
        put(bucket, "x", data, only_new=True)
    assert read(bucket, "x") == read(straight, "x") == data


@pytest.mark.parametrize("remembered", [None, KNOWN])
def test_a_storage_without_conditional_writes(
    opened: Callable[..., S3Bucket], proxy: FaultProxy, straight: S3Bucket, remembered: Quirks | None
) -> None:
    """It answers 501, found out at the beginning or later, or says yes and overwrites."""
    bucket = opened(quirks=remembered)
    proxy.add(answers(501, "NotImplemented", hits=is_conditional))
    put(bucket, "x", b"first", only_new=True)
    with pytest.raises(ObjectExists):
        put(bucket, "x", b"second", only_new=True)
    put(bucket, "y", b"other", only_new=True)
    assert (read(straight, "x"), read(straight, "y")) == (b"first", b"other")
    before = proxy.counts.requests["PUT"]
    put(bucket, "z", b"", only_new=True)
    assert proxy.counts.requests["PUT"] == before + 1  # it does not ask for what it knows that there is not
    assert [found.name for found in straight.list("probes/")] == []


def test_a_storage_that_refuses_the_newer_checksums(
    opened: Callable[..., S3Bucket], proxy: FaultProxy, straight: S3Bucket
) -> None:
    def newer(request: Request) -> bool:
        return "x-amz-checksum-crc32" in request.headers

    data = os.urandom(SIZE)
    bucket = opened(quirks=None)
    proxy.add(answers(400, "InvalidArgument", hits=newer))
    put(bucket, "x", data)
    assert read(straight, "x") == data
    proxy.add(Fault("flip-up", hits=method("PUT"), at=5))
    with pytest.raises(RemoteFailed, match="BadDigest"):
        put(bucket, "y", data)
    assert [found.name for found in straight.list("y")] == []


def test_errors_hold_nothing_secret(opened: Callable[..., S3Bucket], proxy: FaultProxy, weed_room: Place) -> None:
    bucket = opened()
    for fault in (answers(403, "SignatureDoesNotMatch"), answers(500, "InternalError"), Fault("lost-reply", status=0)):
        with proxy.fault(fault):
            for ask in (bucket.now, lambda: bucket.head("x"), lambda: put(bucket, "x", b"1")):
                with pytest.raises(TorporError) as caught:
                    ask()
                shown: BaseException | None = caught.value
                while shown is not None:
                    text = f"{shown!r} {shown} {getattr(shown, 'hint', '')}"
                    assert weed_room.secret_key not in text
                    assert "Signature=" not in text
                    shown = shown.__cause__


@pytest.mark.soak
def test_random_faults_never_store_or_hand_over_wrong_bytes(
    opened: Callable[..., S3Bucket], proxy: FaultProxy, straight: S3Bucket
) -> None:
    chooser = random.Random(5)
    bucket = opened()
    kinds: list[Kind] = ["answer", "lost-reply", "reset-up", "reset-down", "flip-up", "delay", "throttle"]
    succeeded = 0
    for number in range(2000):
        data = chooser.randbytes(chooser.choice([0, 10, 70_000, 700_000]))
        kind = chooser.choice(kinds)
        at, status = chooser.randrange(max(1, len(data))), chooser.choice([500, 503, 403, 0])
        fault = Fault(
            kind, times=chooser.choice([1, 2, 3]), at=at, status=status or 500, seconds=0.05, rate=1e6,
            hits=chooser.choice([method("PUT"), is_object]) if kind != "reset-down" else method("GET"),
        )  # fmt: skip
        with proxy.fault(fault), contextlib.suppress(*CONTRACT, ObjectNotFound):
            put(bucket, f"{number}", data)
            assert read(straight, f"{number}") == data
            assert read(bucket, f"{number}") == data
            succeeded += 1
    assert succeeded > 200
