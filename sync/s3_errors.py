"""The one place where what boto3 says becomes an error of ours.

Every message names the operation and the object, and nothing else that the library says: its texts may carry addresses
with signatures and keys. What the storage itself says is shown, shortened and scrubbed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from ..state.errors import (
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

LONGEST_TEXT = 300
_SECRETS = re.compile(
    r"(?i)((?:x-amz-(?:signature|credential|security-token)|signature|authorization|secret|token|password)[\w-]*\s*[=:]\s*)"
    r"(?:(?:bearer|aws4-hmac-sha256)\s+)?[^\s&<>,;'\"]+"
)
_KEYS = re.compile(r"\b(?:AKIA|ASIA|AROA)[A-Z0-9]{12,}\b")
_OPAQUE = re.compile(r"[A-Za-z0-9+/=_-]{100,}")  # a session's token by itself; names of objects are shorter
_QUERY = re.compile(r"(https?://[^\s?'\"<>]+)\?[^\s'\"<>]*")
_LOGIN = re.compile(r"(https?://)[^\s/@'\"<>]*@")

_SKEW = {"RequestTimeTooSkewed", "RequestInTheFuture", "RequestExpired"}
_SLOW = {
    "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "ThrottledException",
    "TooManyRequests", "TooManyRequestsException", "RequestLimitExceeded", "RequestThrottled", "ServiceUnavailable",
    "BandwidthLimitExceeded", "ConditionalRequestConflict", "OperationAborted", "Busy",
}  # fmt: skip
_DENIED = {
    "AccessDenied": "The keys are known, but may not do this: they need to list the bucket, and to read, write and "
    "delete objects in it (for multipart uploads too).",
    "InvalidAccessKeyId": "Check S3_ACCESS_KEY: this storage does not know it.",
    "SignatureDoesNotMatch": "Check S3_SECRET_KEY (and that nothing between here and the storage changes requests).",
    "ExpiredToken": "The session's credentials have expired: log in again (`aws sso login`), or renew the token.",
    "TokenRefreshRequired": "The session's credentials have expired: log in again, or renew the token.",
    "InvalidToken": "Check S3_SESSION_TOKEN; with keys that do not expire it must be empty.",
    "AuthorizationHeaderMalformed": "Check S3_REGION: the storage expects another region in the signature.",
}  # fmt: skip
_ALTERED = {
    "BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "IncompleteBody",
    "InvalidChecksum", "ChecksumMismatch",
}  # fmt: skip
_FULL = {"InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull", "InsufficientCapacity"}
_LOG_IN = "Log in again (`aws sso login`, or what your provider has), then `torpor sync now`."


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise errors of ours instead of boto3's. `what`: the operation and the object."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (BotoCoreError, ClientError, Boto3Error, ResponseParserError, HTTPError, RecursionError, OSError) as error:
        raise translate(error, what) from error


def translate(error: BaseException, what: str) -> TorporError:
    """Return what an exception of boto3, botocore or urllib3 means."""
    from botocore.exceptions import ClientError

    if (ours := _own(error)) is not None:
        return ours
    if isinstance(error, ClientError):
        return _answered(error.response, what)
    if isinstance(error, RecursionError):
        return _redirected(what)
    return _unanswered(error, what)


def remote_status(error: TorporError) -> int:
    """Return the HTTP status behind an error, or 0."""
    response = getattr(error.__cause__, "response", None)
    return _status(response) if isinstance(response, dict) else 0


def scrubbed(text: str) -> str:
    """Shorten a foreign text, and take out what may be secret."""
    text = _OPAQUE.sub("***", _LOGIN.sub(r"\1", _QUERY.sub(r"\1", text)))
    return " ".join(_KEYS.sub("***", _SECRETS.sub(r"\1***", text)).split())[:LONGEST_TEXT]


def _answered(response: Mapping[str, Any], what: str) -> TorporError:
    """Translate an answer of the storage."""
    status, code = _status(response), str(response.get("Error", {}).get("Code", ""))
    said = _said(response, status, what)
    if code in _SKEW:
        return ClockSkewed(said)
    if code in _ALTERED:
        return RemoteFailed(said, hint="The bytes did not arrive as they were sent; they are sent again by themselves.")
    if code in _FULL or status == 507:
        return RemoteFailed(said, hint="The storage is full: free space there; it is tried again by itself.")
    if code in _SLOW or status in (429, 503):
        return Throttled(said, retry_after_s=_retry_after(response))
    if code in _DENIED or status in (401, 403):
        return RemoteDenied(said, hint=_DENIED.get(code))
    if status == 404 and not _is_s3(response, code):
        return no_s3(what)
    return _by_status(status, code, said, what)


def no_s3(what: str) -> RemoteFailed:
    """Return the error for an answer that no S3 storage gives, whatever its status says."""
    hint = "Check S3_ENDPOINT; a network that asks for a login in the browser looks like this too."
    return RemoteFailed(f"{what}: what answers does not speak S3", hint=hint)


def _is_s3(response: Mapping[str, Any], code: str) -> bool:
    """Tell whether an answer names itself: an object must not be given up because a page of a hotel says 404."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return bool(code.strip("0123456789")) or any(name.lower().startswith("x-amz") for name in headers)


def _by_status(status: int, code: str, said: str, what: str) -> TorporError:
    if code == "NoSuchBucket":
        return BucketNotFound(said)
    if status == 404:
        return ObjectNotFound(said)
    if status == 412:
        return ObjectExists(said)
    if status == 408 or code in ("RequestTimeout", "RequestTimeoutException"):
        return Timeout(said, hint="The storage waited too long for the request; it is tried again by itself.")
    if status == 409:
        return Throttled(said, hint="Another request was busy with the same object; it is tried again by itself.")
    if 300 <= status < 400:
        return _redirected(what)
    if status == 501 or 400 <= status < 500:
        return RemoteRefused(said)
    return RemoteFailed(said)


def _redirected(what: str) -> RemoteRefused:
    return RemoteRefused(
        f"{what}: the storage sends the request elsewhere, and back again",
        hint="Check S3_ENDPOINT and S3_REGION: the bucket lives in another region or at another address.",
    )


def _unanswered(error: BaseException, what: str) -> TorporError:
    """Translate what happened before there was an answer, or instead of one."""
    from botocore import exceptions as boto

    if isinstance(error, boto.SSLError):
        return Offline(
            f"{what}: the storage's certificate is not accepted ({scrubbed(str(error.kwargs.get('error', '')))})",
            hint="For a certificate of your own set S3_CA_BUNDLE to its file; check this machine's clock. "
            "A network that asks for a login in the browser looks like this too.",
        )
    if isinstance(error, boto.ProxyConnectionError):
        return Offline(f"{what}: the proxy cannot be reached", hint="Check S3_PROXY and the *_proxy variables.")
    if isinstance(error, (boto.EndpointConnectionError, boto.ConnectTimeoutError)):
        return Offline(f"{what}: {_why_unreachable(error)}")
    if isinstance(error, (boto.ReadTimeoutError, TimeoutError)):
        return Timeout(f"{what}: the storage did not answer in time", hint="It is tried again by itself.")
    if (denied := _no_credentials(error, what)) is not None:
        return denied
    return _broken(error, what)


def _why_unreachable(error: BaseException) -> str:
    """Tell why there was no connection, without the address."""
    text = str(getattr(error, "kwargs", {}).get("error", "") or error).lower()
    for sign, meaning in (
        ("refused", "the storage refuses connections"),
        ("resolve", "the storage's name cannot be resolved"),
        ("name or service", "the storage's name cannot be resolved"),
        ("unreachable", "there is no network to the storage"),
        ("timed out", "the storage cannot be reached in time"),
    ):
        if sign in text:
            return meaning
    return "the storage cannot be reached"


def _no_credentials(error: BaseException, what: str) -> RemoteDenied | None:
    from botocore import exceptions as boto

    if isinstance(error, boto.NoCredentialsError):
        hint = "Set S3_ACCESS_KEY and S3_SECRET_KEY, or S3_PROFILE, or log in (`aws sso login`); then start again."
        return RemoteDenied(f"{what}: there are no credentials for the storage", hint=hint)
    if isinstance(error, boto.ProfileNotFound):
        hint = "Correct S3_PROFILE; `aws configure list-profiles` shows what there is."
        return RemoteDenied(f"{what}: there is no such profile", hint=hint)
    if isinstance(error, (boto.SSOError, boto.UnauthorizedSSOTokenError, boto.TokenRetrievalError)):
        return RemoteDenied(f"{what}: the login has expired", hint=_LOG_IN)
    if isinstance(error, (boto.PartialCredentialsError, boto.CredentialRetrievalError, boto.ConfigParseError)):
        kind = type(error).__name__
        return RemoteDenied(f"{what}: the credentials cannot be read ({kind})", hint=_LOG_IN)
    return None


def _broken(error: BaseException, what: str) -> TorporError:
    """Translate an exchange that broke off: it says nothing of the network, which the next request will show."""
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, ResponseParserError):
        return no_s3(what)
    if isinstance(
        error, (boto.ParamValidationError, boto.ValidationError, boto.InvalidRegionError, boto.NoRegionError)
    ):
        return RemoteRefused(f"{what}: {scrubbed(str(error))}", hint="Check the S3_* settings.")
    return RemoteFailed(f"{what}: the connection broke off ({type(error).__name__})")


def _own(error: BaseException | None, depth: int = 8) -> TorporError | None:
    """Find an error of ours that a body raised, and that the library wrapped.

    Not by `__context__`: the caller may ask the storage while it deals with another error of ours.
    """
    while error is not None and depth:
        if isinstance(error, TorporError):
            return error
        wrapped = getattr(error, "kwargs", None)
        inner = wrapped.get("error") if isinstance(wrapped, dict) else None
        error = inner if isinstance(inner, BaseException) else error.__cause__
        depth -= 1
    return None


def _said(response: Mapping[str, Any], status: int, what: str) -> str:
    told = response.get("Error", {})
    code, message = scrubbed(str(told.get("Code", ""))), scrubbed(str(told.get("Message", "")))
    said = " ".join(part for part in (code if code != str(status) else "", f"({message})" if message else "") if part)
    return f"{what}: the storage answers {status}{' ' + said if said else ''}"


def _status(response: Mapping[str, Any]) -> int:
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)


def _retry_after(response: Mapping[str, Any]) -> float | None:
    """Return the seconds of Retry-After, which is a number or a date (against the answer's own Date)."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    text = str(headers.get("retry-after", "")).strip()
    if text.isdigit():
        return float(text)
    try:
        until, now = parsedate_to_datetime(text), parsedate_to_datetime(str(headers.get("date", "")))
    except (ValueError, TypeError):
        return None
    return max(0.0, (until - now).total_seconds())
