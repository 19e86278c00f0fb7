"""Buckets for tests: over a server, with small timeouts, and a journal of uploads in memory."""

from __future__ import annotations

import dataclasses
from typing import Any

from torpor.state.remote import Parts
from torpor.sync.limiter import Limiter
from torpor.sync.quirks import InProcess, Quirks
from torpor.sync.s3 import S3Bucket
from torpor.sync.s3_client import S3Options

from support.s3_servers import Place


def options(place: Place, **more: Any) -> S3Options:
    plain = S3Options(
        bucket=place.bucket,
        endpoint=place.endpoint,
        access_key=place.access_key,
        secret_key=place.secret_key,
        region="us-east-1",
        prefix=place.prefix,
        connect_timeout_s=5,
        stall_s=20,
        connections=32,
    )
    return dataclasses.replace(plain, **more)


def s3_bucket(place: Place, *, limiter: Limiter | None = None, quirks: Quirks | None = None, **more: Any) -> S3Bucket:
    """A bucket; `quirks` are those that it remembers."""
    chosen = options(place, **more)
    memory = InProcess()
    if quirks is not None:
        memory.write({"server": chosen.server, **dataclasses.asdict(quirks)})
    return S3Bucket(chosen, limiter=limiter, memory=memory, jitter=lambda: 0.01)


class MemoryJournal:
    """A PartJournal that a test may break."""

    def __init__(self) -> None:
        self.uploads: dict[str, Parts] = {}
        self.digests: dict[str, str] = {}

    def read(self, name: str) -> Parts | None:
        return self.uploads.get(name)

    def begun(self, name: str, digest: str, upload_id: str, part_bytes: int) -> None:
        self.uploads[name], self.digests[digest] = Parts(upload_id, part_bytes, {}), name

    def done(self, name: str, number: int, etag: str) -> None:
        parts = self.uploads[name]
        self.uploads[name] = dataclasses.replace(parts, etags={**parts.etags, number: etag})

    def forget(self, name: str) -> None:
        self.uploads.pop(name, None)
        self.digests = {digest: known for digest, known in self.digests.items() if known != name}

    def of_digest(self, digest: str) -> str | None:
        return self.digests.get(digest)
