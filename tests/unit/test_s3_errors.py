"""What boto3 says, and what it becomes."""

from __future__ import annotations

from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from torpor.state import errors
from torpor.sync.s3_errors import LONGEST_TEXT, remote_status, scrubbed, translate, translated

CREDENTIAL = "AKIAIOSFODNN7EXAMPLE"


def answer(status: int, code: str, message: str = "", **headers: str) -> boto.ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return boto.ClientError(response, "PutObject")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", errors.ObjectNotFound),
        (404, "404", errors.RemoteFailed),  # no S3 storage says so little: a page of some other server
        (404, "NoSuchUpload", errors.ObjectNotFound),
        (404, "NoSuchBucket", errors.BucketNotFound),
        (403, "AccessDenied", errors.RemoteDenied),
        (403, "403", errors.RemoteDenied),
        (401, "Unauthorized", errors.RemoteDenied),
        (400, "ExpiredToken", errors.RemoteDenied),
        (400, "AuthorizationHeaderMalformed", errors.RemoteDenied),
        (403, "RequestTimeTooSkewed", errors.ClockSkewed),
        (403, "QuotaExceeded", errors.RemoteFailed),
        (409, "ConditionalRequestConflict", errors.Throttled),
        (409, "SomethingElse", errors.Throttled),
        (412, "PreconditionFailed", errors.ObjectExists),
        (429, "429", errors.Throttled),
        (503, "SlowDown", errors.Throttled),
        (503, "503", errors.Throttled),
        (400, "RequestTimeout", errors.Timeout),
        (408, "408", errors.Timeout),
        (400, "BadDigest", errors.RemoteFailed),
        (400, "InvalidArgument", errors.RemoteRefused),
        (413, "EntityTooLarge", errors.RemoteRefused),
        (301, "PermanentRedirect", errors.RemoteRefused),
        (501, "NotImplemented", errors.RemoteRefused),
        (500, "InternalError", errors.RemoteFailed),
        (502, "502", errors.RemoteFailed),
        (504, "504", errors.RemoteFailed),
        (507, "InsufficientStorage", errors.RemoteFailed),
    ],
)
def test_answers(status: int, code: str, expected: type[errors.TorporError]) -> None:
    error = translate(answer(status, code), "put blobs/ab/x")
    assert type(error) is expected
    assert error.hint
    assert error.detail.startswith("put blobs/ab/x: ")


def test_a_head_that_finds_nothing_has_no_code() -> None:
    error = translate(answer(404, "404", **{"x-amz-request-id": "1"}), "head x")
    assert type(error) is errors.ObjectNotFound


URL = f"https://s3.example.org/b/k?X-Amz-Signature=abc&X-Amz-Credential={CREDENTIAL}"


@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        (boto.EndpointConnectionError(endpoint_url=URL, error="[Errno 111] Connection refused"), errors.Offline, "refuses"),
        (boto.EndpointConnectionError(endpoint_url=URL, error="Failed to resolve 'x'"), errors.Offline, "resolved"),
        (boto.EndpointConnectionError(endpoint_url=URL, error="[Errno 101] Network is unreachable"), errors.Offline, "no network"),
        (boto.ConnectTimeoutError(endpoint_url=URL, error="timed out"), errors.Offline, "in time"),
        (boto.ReadTimeoutError(endpoint_url=URL), errors.Timeout, "in time"),
        (boto.ConnectionClosedError(endpoint_url=URL), errors.RemoteFailed, "broke off"),
        (boto.ResponseStreamingError(error="x"), errors.RemoteFailed, "broke off"),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), errors.RemoteFailed, "broke off"),
        (boto.SSLError(endpoint_url=URL, error="self-signed certificate"), errors.Offline, "self-signed"),
        (boto.ProxyConnectionError(proxy_url="http://me:hush@proxy"), errors.Offline, "proxy"),
        (boto.NoCredentialsError(), errors.RemoteDenied, "no credentials"),
        (boto.PartialCredentialsError(provider="env", cred_var="x"), errors.RemoteDenied, "cannot be read"),
        (boto.CredentialRetrievalError(provider="p", error_msg="hush"), errors.RemoteDenied, "cannot be read"),
        (boto.ProfileNotFound(profile="p"), errors.RemoteDenied, "profile"),
        (boto.UnauthorizedSSOTokenError(), errors.RemoteDenied, "expired"),
        (boto.SSOTokenLoadError(error_msg="x"), errors.RemoteDenied, "expired"),
        (boto.TokenRetrievalError(provider="sso", error_msg="x"), errors.RemoteDenied, "expired"),
        (boto.ParamValidationError(report="x"), errors.RemoteRefused, "x"),
        (boto.HTTPClientError(error=ValueError("x")), errors.RemoteFailed, "broke off"),
        (boto.HTTPClientError(error=errors.FileChanged("it changed")), errors.FileChanged, "it changed"),
        (ResponseParserError("<html>"), errors.RemoteFailed, "does not speak S3"),
        (RecursionError(), errors.RemoteRefused, "elsewhere"),
        (ConnectionResetError(), errors.RemoteFailed, "broke off"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)  # fmt: skip
def test_what_is_no_answer(raised: Exception, expected: type[errors.TorporError], said: str) -> None:
    with pytest.raises(expected) as caught, translated("get x"):
        raise raised
    error = caught.value
    assert type(error) is expected
    assert said in error.detail
    assert error.hint
    for secret in ("hush", CREDENTIAL, "X-Amz"):
        assert secret not in error.detail + error.hint


def test_an_error_that_the_caller_deals_with_is_not_ours() -> None:
    try:
        raise errors.BackupNotFound("b")
    except errors.BackupNotFound:
        with pytest.raises(errors.Offline), translated("get x"):
            refuse()


def refuse() -> None:
    raise boto.EndpointConnectionError(endpoint_url=URL, error="refused")


def test_the_status_of_an_answer_can_be_asked_for() -> None:
    with pytest.raises(errors.RemoteRefused) as caught, translated("put x"):
        raise answer(501, "NotImplemented")
    assert remote_status(caught.value) == 501
    assert remote_status(errors.Offline("x")) == 0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "Mon, 01 Jan 2024 00:00:30 GMT", "date": "Mon, 01 Jan 2024 00:00:10 GMT"}, 20.0),
        ({"retry-after": "Mon, 01 Jan 2024 00:00:00 GMT", "date": "Mon, 01 Jan 2024 00:00:10 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    error = translate(answer(503, "SlowDown", **headers), "put x")
    assert isinstance(error, errors.Throttled)
    assert error.retry_after_s == expected


@pytest.mark.parametrize(
    "text",
    [
        f"The key {CREDENTIAL} is unknown",
        f"see {URL} for more",
        "http://me:hush@proxy:3128/x refused",
        "Authorization: AWS4-HMAC-SHA256 hush, more",
        "x-amz-security-token=hush&x",
        "secret_key: hush",
        "password=hush",
    ],
)
def test_what_is_secret_is_taken_out(text: str) -> None:
    error = translate(answer(400, "InvalidArgument", text), "put x")
    for secret in ("hush", CREDENTIAL, "abc&"):
        assert secret not in error.detail
    assert secret not in scrubbed(text)


def test_a_long_text_is_cut() -> None:
    assert len(scrubbed("word " * 1000)) <= LONGEST_TEXT
