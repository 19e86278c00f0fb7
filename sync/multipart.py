"""Put an object of any size. A large one goes up in parts that are remembered, so that a restart goes on behind them.

Order, each step with a crash between it and the next in mind:
1. the upload is begun, and its id remembered before the first part goes (a crash between leaves one without parts);
2. each part is sent, then remembered;
3. the parts are joined; only then is the upload forgotten.

After a restart the server's list of parts is the truth: what it holds in the size that it must have, and under the ETag
that was remembered, if one was, is not sent again. The file must hold the same bytes as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import BinaryIO, NoReturn

from ..state.errors import ObjectNotFound, RemoteFailed, RemoteRefused, TorporError
from ..state.remote import Parts
from .bucket import Bucket
from .ports import PartJournal

SINGLE_BYTES = 64 << 20  # up to here one request does it
LEAST_PART_BYTES, MOST_PARTS = 8 << 20, 10_000
_MIB = 1 << 20


def put_object(
    bucket: Bucket,
    journal: PartJournal,
    name: str,
    digest: str,
    file: BinaryIO,
    size_bytes: int,
    *,
    next_part: Callable[[], None] = lambda: None,
    single_bytes: int = SINGLE_BYTES,
) -> None:
    """Put a file whole under a name. `next_part` is called before each part, and may raise to leave it at that.

    Parts go one after the other: several objects go at once anyhow, and a slow line is not made faster by more of them.

    Durability: on return the object is whole, and the journal has forgotten it.
    Raises: what Bucket raises. What was sent before is kept, and the next call goes on behind it.
    """
    if size_bytes <= single_bytes and journal.read(name) is None:
        bucket.put(name, file, size_bytes)
        return
    upload = _upload(bucket, journal, name, digest, size_bytes)
    if upload is not None:
        try:
            etags = _send_missing(bucket, journal, name, upload, file, size_bytes, next_part)
            bucket.finish_upload(name, upload.upload_id, etags)
        except (ObjectNotFound, RemoteRefused) as error:
            _lost(bucket, journal, name, upload, error)
    journal.forget(name)


def give_up(bucket: Bucket, journal: PartJournal, name: str) -> None:
    """Forget an upload that will not be finished, there and here, so that nobody pays for its parts."""
    upload = journal.read(name)
    if upload is not None:
        bucket.abort_upload(name, upload.upload_id)
        journal.forget(name)


def part_bytes_for(size_bytes: int) -> int:
    """Return the size of a part: whole MiB, at least 8, such that 10,000 parts are enough."""
    least = -(-size_bytes // MOST_PARTS)
    return max(LEAST_PART_BYTES, -(-least // _MIB) * _MIB)


def _upload(bucket: Bucket, journal: PartJournal, name: str, digest: str, size_bytes: int) -> Parts | None:
    """Return the upload to go on with and the parts that are there, or a new one; None when the object is whole."""
    begun = journal.read(name)
    if begun is not None:
        try:
            held = bucket.parts(name, begun.upload_id)
        except ObjectNotFound:
            if _is_whole(bucket, name, size_bytes):  # joined, and the answer was lost
                return None
            journal.forget(name)
        else:
            return replace(begun, etags=_sound(begun, held, size_bytes))
    part_bytes = part_bytes_for(size_bytes)
    upload_id = bucket.start_upload(name)
    journal.begun(name, digest, upload_id, part_bytes)
    return Parts(upload_id, part_bytes, {})


def _send_missing(
    bucket: Bucket,
    journal: PartJournal,
    name: str,
    upload: Parts,
    file: BinaryIO,
    size_bytes: int,
    next_part: Callable[[], None],
) -> Mapping[int, str]:
    etags = dict(upload.etags)
    for number, (offset, length) in _ranges(size_bytes, upload.part_bytes).items():
        if number not in etags:
            next_part()
            etags[number] = bucket.put_part(name, upload.upload_id, number, file, offset, length)
            journal.done(name, number, etags[number])
    return etags


def _sound(begun: Parts, held: Mapping[int, tuple[str, int]], size_bytes: int) -> dict[int, str]:
    """Return the parts that need not go again. One that was sent and not remembered has its size to speak for it."""
    ranges = _ranges(size_bytes, begun.part_bytes)
    return {
        number: etag
        for number, (etag, length) in held.items()
        if number in ranges and ranges[number][1] == length and begun.etags.get(number, etag) == etag
    }


def _ranges(size_bytes: int, part_bytes: int) -> dict[int, tuple[int, int]]:
    """Return (offset, length) of each part, by number."""
    starts = range(0, size_bytes, part_bytes)
    return {number: (start, min(part_bytes, size_bytes - start)) for number, start in enumerate(starts, 1)}


def _is_whole(bucket: Bucket, name: str, size_bytes: int) -> bool:
    try:
        return bucket.head(name).size_bytes == size_bytes
    except ObjectNotFound:
        return False


def _lost(bucket: Bucket, journal: PartJournal, name: str, upload: Parts, error: TorporError) -> NoReturn:
    """Forget an upload that the server does not know, or will not join, so that the next try begins anew."""
    bucket.abort_upload(name, upload.upload_id)
    journal.forget(name)
    raise RemoteFailed(f"put {name}: its upload was lost; it begins anew ({error.detail})") from error
