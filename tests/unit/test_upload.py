"""Bodies are received up to a limit, whoever let them through, and nothing of one that is refused stays."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from starlette.requests import Request
from torpor.daemon import upload
from torpor.daemon.catalog import Catalog
from torpor.daemon.compose import compose
from torpor.daemon.settings import load_settings
from torpor.state.errors import TooLarge
from torpor.state.ids import parse_digest
from torpor.store.home import Home

BODY = b"0123456789"


@pytest.fixture
def catalog(home: Path) -> Iterator[Catalog]:
    with ExitStack() as stack:
        place = Home(home)
        place.create()
        yield compose(place, load_settings(), stack)


def sent(body: bytes) -> Request:
    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


def staged(catalog: Catalog) -> list[Path]:
    return [path for path in catalog.staging.new_path().parent.iterdir() if path.name != "lock"]


def test_a_file_up_to_the_limit(catalog: Catalog) -> None:
    taken: list[int] = []
    path, size = asyncio.run(upload.receive_file(catalog.staging, sent(BODY), taken.append, len(BODY)))
    assert (path.read_bytes(), size) == (BODY, len(BODY))
    assert sum(taken) >= len(BODY)
    path.unlink()
    with pytest.raises(TooLarge):
        asyncio.run(upload.receive_file(catalog.staging, sent(BODY), taken.append, len(BODY) - 1))
    assert staged(catalog) == []


def test_a_blob_up_to_the_limit(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = parse_digest(blake3(BODY).hexdigest())

    def receive() -> dict[str, Any]:
        return asyncio.run(
            upload.receive_blob(catalog.blobs, catalog.staging, digest, sent(BODY), lambda size_bytes: None)
        )

    monkeypatch.setattr(upload, "MAX_BLOB_BYTES", len(BODY) - 1)
    with pytest.raises(TooLarge):
        receive()
    assert staged(catalog) == []
    monkeypatch.setattr(upload, "MAX_BLOB_BYTES", len(BODY))
    assert receive() == {"digest": digest, "size_bytes": len(BODY)}
    assert staged(catalog) == []
