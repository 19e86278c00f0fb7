"""What tests of a bucket behind a failing line share: its settings, and puts and gets in one word."""

from __future__ import annotations

import io
from typing import Any

from torpor.sync.quirks import Quirks
from torpor.sync.s3 import S3Bucket

from support.fault_proxy import Fault

MIB = 1 << 20
SIZE = 300_000
KNOWN = Quirks(conditional_put=True, checksum="crc32")
PATIENT = {"stall_s": 10.0, "deadline_s": 20.0}  # where nothing stalls but a busy machine
SHORT = {"connect_timeout_s": 1.0, "stall_s": 0.6, "deadline_s": 1.5, "slowest_bytes_s": 1e6}


def put(bucket: S3Bucket, name: str, data: bytes, **options: Any) -> None:
    bucket.put(name, io.BytesIO(data), len(data), **options)


def read(bucket: S3Bucket, name: str, offset: int = 0) -> bytes:
    with bucket.get(name, offset=offset) as pieces:
        return b"".join(pieces)


def answers(status: int, code: str, times: float = float("inf"), **more: Any) -> Fault:
    return Fault("answer", times=times, status=status, code=code, **more)
