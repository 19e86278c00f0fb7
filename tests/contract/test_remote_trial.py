"""Trying a bucket before anything is configured, on real servers: what works, each reason why not, and nothing left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.certificates import make_certificate
from support.fault_proxy import Fault, FaultProxy, Request, is_object, method
from support.ports import free_port
from support.s3_servers import Place
from torpor.codec.passphrase import Work
from torpor.daemon.remote_settings import S3Settings, settings_of
from torpor.daemon.remote_trial import Trial, opens, try_out
from torpor.state.errors import (
    BucketNotFound,
    Offline,
    RemoteDenied,
    TorporError,
    UnknownRepository,
    WrongPassphrase,
)
from torpor.sync.keys import init_keys
from torpor.sync.s3 import S3Bucket
from ulid import ULID


def settings(place: Place, **changes: str) -> S3Settings:
    names = ("endpoint", "bucket", "prefix", "access_key", "secret_key")
    return settings_of({name: getattr(place, name) for name in names} | {"stall_s": "2"} | changes)


def tried(place: Place, **changes: str) -> Trial:
    return try_out(settings(place, **changes), time.time, lambda: str(ULID()))


def left(place: Place) -> list[str]:
    found = place.client().list_objects_v2(Bucket=place.bucket, Prefix=place.prefix)
    return [row["Key"].removeprefix(place.prefix) for row in found.get("Contents", [])]


@pytest.mark.parametrize("server", ["weed_room", "moto_room"])
def test_a_bucket_that_works(server: str, request: pytest.FixtureRequest) -> None:
    place: Place = request.getfixturevalue(server)
    found = tried(place)
    assert (found.repository, found.encrypted, found.conditional_put) == (None, False, True)
    assert abs(found.ahead_s) < 30
    assert left(place) == []


def test_each_reason_why_not_is_told(moto_room: Place, weed_room: Place, tmp_path: Path) -> None:
    with pytest.raises(RemoteDenied, match="InvalidAccessKeyId") as denied:
        tried(weed_room, access_key="nobody")
    assert "S3_ACCESS_KEY" in denied.value.hint
    with pytest.raises(RemoteDenied, match="SignatureDoesNotMatch") as denied:
        tried(weed_room, secret_key="hush-hush")
    assert "S3_SECRET_KEY" in denied.value.hint
    assert "hush" not in str(denied.value) + repr(denied.value.__cause__)
    with pytest.raises(BucketNotFound):
        tried(weed_room, bucket="nobody-made-this-one")
    with pytest.raises(Offline, match="refuses connections"):
        tried(weed_room, endpoint=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Offline, match="name cannot be resolved"):
        tried(weed_room, endpoint="http://s3.nowhere.invalid")
    moto_room.client().put_object(
        Bucket=moto_room.bucket, Key=f"{moto_room.prefix}repo.json", Body=b'{"layout": "other"}'
    )
    with pytest.raises(UnknownRepository):
        tried(moto_room)


@contextlib.contextmanager
def between(place: Place, fault: Fault) -> Iterator[Place]:
    with FaultProxy(place.endpoint) as proxy, proxy.fault(fault):
        yield replace(place, endpoint=proxy.endpoint)


def is_conditional(request: Request) -> bool:
    return request.is_conditional


def of_object(*methods: str) -> Callable[[Request], bool]:
    return lambda request: is_object(request) and request.method in methods


def test_a_storage_without_conditional_writes_is_taken_and_named(moto_room: Place) -> None:
    with between(moto_room, Fault("answer", hits=is_conditional, status=501, code="NotImplemented")) as place:
        found = tried(place)
    assert not found.conditional_put
    assert left(moto_room) == []


def test_keys_that_may_not_write_or_delete_are_refused_and_nothing_of_it_stays(weed_room: Place) -> None:
    may_not_write = Fault("answer", hits=of_object("PUT"), status=403, code="AccessDenied")
    with between(weed_room, may_not_write) as place, pytest.raises(RemoteDenied) as denied:
        tried(place)
    assert "read, write and delete" in denied.value.hint
    denied_once = Fault("answer", times=1, hits=of_object("GET"), status=403, code="AccessDenied")
    with between(weed_room, denied_once) as place, pytest.raises(TorporError):
        tried(place)
    assert left(weed_room) == []


def test_a_host_that_swallows_everything_is_given_up_soon(weed_room: Place) -> None:
    began = time.monotonic()
    with between(weed_room, Fault("black-hole", hits=method("GET"))) as place, pytest.raises(TorporError):
        tried(place, deadline_s="1")
    assert time.monotonic() - began < 20


def test_a_page_that_is_no_storage(weed_room: Place) -> None:
    with between(weed_room, Fault("answer", status=404, code="")) as place, pytest.raises(TorporError):
        tried(place)


def test_the_passphrase_of_an_encrypted_bucket(moto_room: Place) -> None:
    bucket = S3Bucket(settings(moto_room).options())
    with contextlib.closing(bucket):
        init_keys(bucket, "a passphrase of somebody", work=Work(2**10, 8, 1))
    assert tried(moto_room).encrypted
    opens(settings(moto_room), "a passphrase of somebody")
    with pytest.raises(WrongPassphrase):
        opens(settings(moto_room), "another passphrase here")
    assert [name for name in left(moto_room) if not name.startswith("keys/")] == []


def test_a_certificate_of_ones_own(weed_room: Place, tmp_path: Path) -> None:
    trusted, tls = make_certificate(tmp_path)
    with FaultProxy(weed_room.endpoint, tls) as proxy:
        with pytest.raises(Offline, match="certificate") as caught:
            tried(weed_room, endpoint=proxy.endpoint)
        assert "S3_CA_BUNDLE" in caught.value.hint
        assert tried(weed_room, endpoint=proxy.endpoint, ca_bundle=str(trusted)).conditional_put
