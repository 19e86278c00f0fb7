"""A bucket on a real server, and a proxy before it that spoils what passes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.buckets import s3_bucket
from support.failing_line import KNOWN, SHORT
from support.fault_proxy import FaultProxy
from support.s3_servers import Place
from torpor.sync.s3 import S3Bucket


@pytest.fixture
def proxy(weed_room: Place) -> Iterator[FaultProxy]:
    with FaultProxy(weed_room.endpoint) as running:
        yield running


@pytest.fixture
def opened(weed_room: Place, proxy: FaultProxy) -> Iterator[Callable[..., S3Bucket]]:
    """Opens buckets behind the proxy, with small timeouts."""
    with contextlib.ExitStack() as stack:

        def bucket(**more: Any) -> S3Bucket:
            place = dataclasses.replace(weed_room, endpoint=more.pop("endpoint", proxy.endpoint))
            short = {**SHORT, "quirks": KNOWN} | more
            return stack.enter_context(contextlib.closing(s3_bucket(place, **short)))

        yield bucket


@pytest.fixture
def straight(weed_room: Place) -> Iterator[S3Bucket]:
    """The same bucket past the proxy."""
    with contextlib.closing(s3_bucket(weed_room, quirks=KNOWN)) as bucket:
        yield bucket
