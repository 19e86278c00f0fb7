"""How requests look on the wire under each setting, over a real server."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.buckets import s3_bucket
from support.certificates import make_certificate
from support.fault_proxy import Fault, FaultProxy, method
from support.s3_servers import Place
from torpor.state.errors import Offline, RemoteDenied, RemoteFailed, RemoteRefused, TorporError
from torpor.sync.quirks import Quirks
from torpor.sync.s3 import S3Bucket
from torpor.sync.s3_client import S3Options

KNOWN = Quirks(conditional_put=True, checksum="crc32")


@pytest.fixture
def opened() -> Iterator[Any]:
    with contextlib.ExitStack() as stack:

        def bucket(place: Place, **more: Any) -> S3Bucket:
            return stack.enter_context(contextlib.closing(s3_bucket(place, quirks=KNOWN, **more)))

        yield bucket


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine where boto3 finds nothing."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


def use(bucket: S3Bucket, size: int = 200_000) -> None:
    data = os.urandom(size)
    bucket.put("x", io.BytesIO(data), size)
    with bucket.get("x") as pieces:
        assert b"".join(pieces) == data


def test_over_http_the_body_is_signed(opened: Any, weed_room: Place) -> None:
    with FaultProxy(weed_room.endpoint) as proxy:
        use(opened(dataclasses.replace(weed_room, endpoint=proxy.endpoint)))
        (sent,) = [e.headers for e in proxy.counts.log if e.method == "PUT"]
    assert len(sent["x-amz-content-sha256"]) == 64
    assert "x-amz-checksum-crc32" in sent
    assert not {"x-amz-trailer", "transfer-encoding", "x-amz-sdk-checksum-algorithm"} & set(sent)


def test_over_https_tls_guards_the_body(opened: Any, weed_room: Place, tmp_path: Path) -> None:
    trusted, tls = make_certificate(tmp_path)
    with FaultProxy(weed_room.endpoint, tls) as proxy:
        place = dataclasses.replace(weed_room, endpoint=proxy.endpoint)
        bucket = opened(place, ca_bundle=str(trusted), stall_s=1.0, deadline_s=3.0)
        use(bucket)
        use(bucket, 4 << 20)
        sent = [e.headers for e in proxy.counts.log if e.method == "PUT"]
        assert {headers["x-amz-content-sha256"] for headers in sent} == {"UNSIGNED-PAYLOAD"}
        assert all("x-amz-checksum-crc32" in headers for headers in sent)
        with (
            proxy.fault(Fault("stall-down", hits=method("GET"), at=1000)),
            pytest.raises(TorporError, match="too long"),
        ):
            use(bucket)
        with proxy.fault(Fault("flip-up", hits=method("PUT"), at=5)), pytest.raises(RemoteFailed, match="BadDigest"):
            use(bucket)
        with pytest.raises(Offline, match="certificate") as caught:
            opened(place).now()
        assert "S3_CA_BUNDLE" in caught.value.hint


def test_requests_go_through_a_proxy(opened: Any, weed_room: Place) -> None:
    with FaultProxy(weed_room.endpoint) as proxy:
        use(opened(weed_room, proxy=proxy.endpoint))
        assert proxy.counts.requests["PUT"] == 1
        proxy.refuse()
        with pytest.raises(Offline, match="proxy"):
            opened(weed_room, proxy=proxy.endpoint).now()


@pytest.mark.parametrize("endpoint", ["path", "virtual"])
def test_the_bucket_stands_in_the_path_or_in_the_name(
    opened: Any, weed_room: Place, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(weed_room.endpoint) as proxy:
        place = dataclasses.replace(weed_room, endpoint=proxy.endpoint.replace("127.0.0.1", "localhost"))
        name = f"{weed_room.bucket}.localhost" if endpoint == "virtual" else "localhost"
        monkeypatch.setenv("NO_PROXY", "*")
        bucket = opened(place, addressing=endpoint)
        with contextlib.suppress(TorporError):  # this server has no such names; what matters is what it was asked
            bucket.now()
        if proxy.counts.log:
            assert proxy.counts.log[0].headers["host"].split(":")[0] == name
        else:
            with pytest.raises(Offline, match="resolved"):  # a machine where *.localhost is no name
                bucket.now()
            assert endpoint == "virtual"


def test_keys_that_the_server_does_not_know(opened: Any, weed_room: Place) -> None:
    with pytest.raises(RemoteDenied, match="InvalidAccessKeyId") as caught:
        opened(dataclasses.replace(weed_room, access_key="nobody")).now()
    assert "S3_ACCESS_KEY" in caught.value.hint
    with pytest.raises(RemoteDenied, match="SignatureDoesNotMatch") as caught:
        opened(dataclasses.replace(weed_room, secret_key="hush-hush")).head("x")
    assert "S3_SECRET_KEY" in caught.value.hint
    assert "hush" not in str(caught.value)


def test_a_profile_of_boto3(weed_room: Place, no_credentials: Path) -> None:
    (no_credentials / "credentials").write_text(
        f"[work]\naws_access_key_id={weed_room.access_key}\naws_secret_access_key={weed_room.secret_key}\n"
    )
    plain = S3Options(bucket=weed_room.bucket, endpoint=weed_room.endpoint, prefix=weed_room.prefix)
    with contextlib.closing(S3Bucket(dataclasses.replace(plain, profile="work"))) as bucket:
        use(bucket)
    with pytest.raises(RemoteDenied, match="no such profile"):
        S3Bucket(dataclasses.replace(plain, profile="play"))
    with contextlib.closing(S3Bucket(plain)) as bucket, pytest.raises(RemoteDenied, match="no credentials") as caught:
        bucket.now()
    assert "S3_ACCESS_KEY" in caught.value.hint


def test_a_login_that_has_expired(weed_room: Place, no_credentials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(no_credentials))
    (no_credentials / "config").write_text(
        "[profile sso]\nsso_start_url=https://example.invalid/start\nsso_region=us-east-1\n"
        "sso_account_id=123456789012\nsso_role_name=r\n"
    )
    options = S3Options(bucket=weed_room.bucket, endpoint=weed_room.endpoint, profile="sso")
    with contextlib.closing(S3Bucket(options)) as bucket, pytest.raises(RemoteDenied) as caught:
        bucket.now()
    assert "sso login" in caught.value.hint


def test_an_address_that_is_none() -> None:
    with pytest.raises(RemoteRefused) as caught:
        S3Bucket(S3Options(bucket="b", endpoint="not an address", access_key="a", secret_key="s"))
    assert "S3_ENDPOINT" in caught.value.hint


def test_nothing_of_a_request_is_logged(opened: Any, weed_room: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    use(opened(weed_room, session_token=None))
    assert not [record for record in caplog.records if record.name.split(".")[0] in ("botocore", "boto3", "urllib3")]
