"""The bucket over boto3. One `_ask` sends every request: with its deadline, its second try, and errors of our tree."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, BinaryIO, TypeVar

from ..state.errors import (
    ObjectExists,
    ObjectNotFound,
    Offline,
    RemoteDenied,
    RemoteFailed,
    RemoteRefused,
    Throttled,
)
from .bodies import SMALL, Body
from .bucket import ObjectInfo
from .connections import INTERRUPTED, INTERRUPTIONS, Call, Calls
from .downloads import Download, Stream
from .limiter import Limiter
from .quirks import PROBES_PREFIX, InProcess, QuirkBook, Quirks, QuirksMemory, probe
from .s3_client import S3Options, make_client
from .s3_errors import no_s3, remote_status, translated

LONGEST_PAUSE_S = 2.0  # who asks for more is asked again by the queue, not by a thread that waits
JITTER_S = 0.5
PAGE = 1000

T = TypeVar("T")


class S3Bucket:
    """A Bucket over S3. Connects with the first request; safe to use from several threads."""

    def __init__(
        self,
        options: S3Options,
        *,
        limiter: Limiter | None = None,
        memory: QuirksMemory | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._options, self._limiter, self._jitter = options, limiter or Limiter(), jitter
        self.calls = Calls(options.stall_s)
        self._client = make_client(options, self.calls)
        self._quirks = QuirkBook(memory or InProcess(), options.server, self._probe)

    def put(self, name: str, body: BinaryIO, size_bytes: int, *, only_new: bool = False) -> None:
        """Store a file; see Bucket. Without conditional writes there, it is looked whether the name is free."""
        quirks = self._quirks.known()
        try:
            self._put_new(name, body, size_bytes, quirks, only_new)
        except RemoteRefused:
            now = self._quirks.doubted(quirks)
            if now == quirks:
                raise
            self._put_new(name, body, size_bytes, now, only_new)

    def put_as(self, name: str, body: BinaryIO, size_bytes: int, quirks: Quirks, *, only_new: bool) -> None:
        """Store a file as if the storage had these quirks."""
        sent = Body(body, 0, size_bytes)
        arguments = sent.checksum(quirks.checksum) | ({"IfNoneMatch": "*"} if only_new else {})

        def send(call: Call) -> Any:
            return self._client.put_object(**self._at(name), **arguments, **self._payload(sent, call))

        # A conditional write is sent once: behind a lost reply, the second one would find our own object.
        self._stored(
            self._ask(f"put {name}", send, size_bytes=size_bytes, attempts=1 if only_new else None), f"put {name}"
        )

    @contextmanager
    def get(self, name: str, *, offset: int = 0) -> Iterator[Iterator[bytes]]:
        """Open an object; a stream that breaks off is taken up again where it was, of the same version."""
        download = Download(lambda at, etag: self._open(name, at, etag), self.calls, self._limiter, f"get {name}")
        download.open(offset)
        try:
            yield download.pieces(resumes=self._options.attempts - 1)
        finally:
            download.close()

    def head(self, name: str) -> ObjectInfo:
        """Describe an object."""
        try:
            found = self._ask(f"head {name}", lambda _: self._client.head_object(**self._at(name)))
        except (RemoteDenied, RemoteRefused, RemoteFailed) as error:
            if 0 < remote_status(error) < 500:
                self._ask_why(name)
            raise
        return ObjectInfo(name, int(found["ContentLength"]), found["LastModified"].timestamp())

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object of a prefix, page by page."""
        root, seen = self._options.root, set[str]()
        more: dict[str, str] = {}
        while True:
            page = self._page(prefix, PAGE, more)
            for found in page.get("Contents", []):
                yield ObjectInfo(found["Key"].removeprefix(root), found["Size"], found["LastModified"].timestamp())
            if not page["IsTruncated"]:
                return
            token = page.get("NextContinuationToken")
            if not token or token in seen:
                raise RemoteFailed(f"list {prefix}: the storage's listing does not get on")
            seen.add(token)
            more = {"ContinuationToken": token}

    def delete(self, name: str) -> None:
        """Delete an object."""
        try:
            self._ask(f"delete {name}", lambda _: self._client.delete_object(**self._at(name)))
        except ObjectNotFound:
            return

    def now(self) -> float:
        """Ask for the server's time, by a listing of one name: it shows every reason why the bucket cannot be used."""
        headers = self._page("", 1, {})["ResponseMetadata"]["HTTPHeaders"]
        try:
            return parsedate_to_datetime(headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError) as error:
            raise RemoteFailed("now: the storage does not tell its time") from error

    def start_upload(self, name: str) -> str:
        """Begin a multipart upload."""
        answer = self._ask(f"start upload of {name}", lambda _: self._client.create_multipart_upload(**self._at(name)))
        return str(answer["UploadId"])

    def put_part(self, name: str, upload_id: str, number: int, body: BinaryIO, offset: int, size_bytes: int) -> str:
        """Store a part."""
        sent = Body(body, offset, size_bytes)
        arguments = {**self._at(name), "UploadId": upload_id, "PartNumber": number}
        arguments |= sent.checksum(self._quirks.known().checksum)

        def send(call: Call) -> Any:
            return self._client.upload_part(**arguments, **self._payload(sent, call))

        return self._stored(
            self._ask(f"put part {number} of {name}", send, size_bytes=size_bytes), f"put part of {name}"
        )

    def parts(self, name: str, upload_id: str) -> Mapping[int, tuple[str, int]]:
        """Return the parts that the server holds, of all pages."""
        arguments = {**self._at(name), "UploadId": upload_id}
        found: dict[int, tuple[str, int]] = {}
        behind = 0
        while True:
            page = self._ask(f"list parts of {name}", partial(self._page_of_parts, arguments, behind))
            found |= {part["PartNumber"]: (part["ETag"], part["Size"]) for part in page.get("Parts", [])}
            if not page.get("IsTruncated"):
                return found
            behind, last = max(found, default=0), behind
            if behind <= last:
                raise RemoteFailed(f"list parts of {name}: the storage's listing does not get on")

    def finish_upload(self, name: str, upload_id: str, parts: Mapping[int, str]) -> None:
        """Join parts."""
        joined = [{"PartNumber": number, "ETag": parts[number]} for number in sorted(parts)]
        arguments = {**self._at(name), "UploadId": upload_id, "MultipartUpload": {"Parts": joined}}
        try:
            self._ask(f"finish {name}", lambda _: self._client.complete_multipart_upload(**arguments))
        except (ObjectNotFound, RemoteFailed):
            if not self._is_there(name):  # an earlier request may have joined them, its reply lost
                raise

    def abort_upload(self, name: str, upload_id: str) -> None:
        """Forget a multipart upload."""
        arguments = {**self._at(name), "UploadId": upload_id}
        try:
            self._ask(f"abort upload of {name}", lambda _: self._client.abort_multipart_upload(**arguments))
        except ObjectNotFound:
            return

    def interrupt(self) -> None:
        """Break off what is under way, e.g. because the network is another one now.

        Uploads end with Offline. Everything else goes on by itself on a new connection, downloads where they were.
        """
        self.calls.interrupt()

    def close(self) -> None:
        """Break off all requests for good."""
        self.calls.close()
        self._client.close()

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._options.bucket, "Key": self._options.root + name}

    def _put_new(self, name: str, body: BinaryIO, size_bytes: int, quirks: Quirks, only_new: bool) -> None:
        if only_new and not quirks.conditional_put:
            if self._is_there(name):
                raise ObjectExists(f"put {name}: there is an object of this name")
            only_new = False
        self.put_as(name, body, size_bytes, quirks, only_new=only_new)

    def _probe(self) -> Quirks:
        return probe(self, f"{PROBES_PREFIX}{random.SystemRandom().getrandbits(128):032x}")

    def _payload(self, sent: Body, call: Call) -> dict[str, Any]:
        sent.pace(self.calls, call, self._limiter)
        sent.seek(0)
        return {"Body": sent.whole() if len(sent) <= SMALL else sent, "ContentLength": len(sent)}

    def _open(self, name: str, offset: int, etag: str | None) -> Stream | None:
        """Open an object from an offset on; None where it ends before that."""
        arguments = self._at(name) | ({"Range": f"bytes={offset}-"} if offset else {})
        arguments |= {"IfMatch": etag} if etag else {}
        used: list[Call] = []

        def send(call: Call) -> Any:
            used.append(call)
            return self._client.get_object(**arguments)

        try:
            answer = self._ask(f"get {name}", send)
        except RemoteRefused as error:
            if remote_status(error) == 416:
                return None
            raise
        used[-1].allowed_s = self._options.allowed_s(int(answer["ContentLength"]))
        return Stream(answer["Body"], self._stored(answer, f"get {name}"), used[-1])

    def _page(self, prefix: str, size: int, more: Mapping[str, str]) -> Mapping[str, Any]:
        arguments = {"Bucket": self._options.bucket, "Prefix": self._options.root + prefix, "MaxKeys": size, **more}
        page: Mapping[str, Any] = self._ask(
            f"list {prefix or 'the bucket'}", lambda _: self._client.list_objects_v2(**arguments)
        )
        if "IsTruncated" not in page:
            raise no_s3(f"list {prefix or 'the bucket'}")
        return page

    def _page_of_parts(self, arguments: Mapping[str, str], behind: int, _: Call) -> Mapping[str, Any]:
        page: Mapping[str, Any] = self._client.list_parts(**arguments, PartNumberMarker=behind, MaxParts=PAGE)
        return page

    def _is_there(self, name: str) -> bool:
        try:
            self.head(name)
        except ObjectNotFound:
            return False
        return True

    def _ask_why(self, name: str) -> None:
        """Raise what a refused HEAD could not say, since its answers have no body."""
        arguments = self._at(name) | {"Range": "bytes=0-0"}
        self._ask(f"head {name}", lambda _: self._client.get_object(**arguments)["Body"].close())

    def _stored(self, answer: Mapping[str, Any], what: str) -> str:
        """Return the ETag. A page that asks for a login has none, whatever its status says."""
        if not (etag := answer.get("ETag")):
            raise no_s3(what)
        return str(etag)

    def _ask(
        self, what: str, send: Callable[[Call], T], *, size_bytes: int | None = None, attempts: int | None = None
    ) -> T:
        """Send a request; a failure of the storage's own, and a broken connection, are answered by one more try.

        One that was interrupted is sent anew unless it has a body: with that, whoever sends it decides.
        """
        left, interruptions = attempts or self._options.attempts, 0 if size_bytes is not None else INTERRUPTIONS
        pause_s: float | None
        while True:
            call = Call(self._options.allowed_s(size_bytes or 0))
            try:
                with translated(what), self.calls.running(call, what):
                    return send(call)
            except Offline:
                interruptions, pause_s = interruptions - 1, 0.0
                if call.ended != INTERRUPTED or interruptions < 0:
                    raise
            except (RemoteFailed, Throttled) as error:
                left, pause_s = left - 1, self._pause_s(error)
                if not left or pause_s is None:
                    raise
            self.calls.wait(pause_s)

    def _pause_s(self, error: RemoteFailed | Throttled) -> float | None:
        """Return how long to wait before the next try; None leaves it to the queue."""
        asked = error.retry_after_s if isinstance(error, Throttled) else None
        if asked is None:
            return self._jitter() * JITTER_S
        return asked if asked <= LONGEST_PAUSE_S else None
