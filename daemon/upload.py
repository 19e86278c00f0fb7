"""Receive bodies of requests: manifests, files to import, and blobs, by the same steps as a local write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blake3 import blake3
from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request

from ..state.errors import BadInput, TooLarge
from ..state.ids import Digest
from ..state.manifest import BlobRef
from ..state.quota import on_disk
from ..store.blobs import BlobStore
from ..store.files import create_exclusive, store_error
from ..store.staging import Staging
from .security import MAX_BLOB_BYTES, MAX_BODY_BYTES

_BUFFER_BYTES = 1 << 20  # what is collected before it is handed to a thread that hashes and writes it


async def receive_manifests(request: Request) -> bytes:
    """Return the body of a commit. Raises: TooLarge."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(f"manifests of more than {MAX_BODY_BYTES} bytes")
    return bytes(body)


class _Incoming:
    def __init__(self, path: Path) -> None:
        self.path, self.size_bytes, self._hasher = path, 0, blake3()
        self._fd = create_exclusive(path)

    def write(self, data: bytes) -> None:
        self._hasher.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.size_bytes += len(data)

    def sync(self) -> None:
        os.fsync(self._fd)

    def digest(self) -> str:
        return self._hasher.hexdigest()

    def close(self) -> None:
        os.close(self._fd)


async def receive_file(
    staging: Staging, request: Request, take: Callable[[int], None], most_bytes: int
) -> tuple[Path, int]:
    """Stream a request's body into a staged file, which is the caller's then; return it with its size in bytes.

    Raises: TooLarge, QuotaFull, StoreFull, StoreFailed. Nothing is kept then.
    """
    with _staged(staging, "receive a file into") as path:
        incoming = await _receive(path, request, take, most_bytes, "a file")
    return path, incoming.size_bytes


async def receive_blob(
    blobs: BlobStore, staging: Staging, digest: Digest, request: Request, take: Callable[[int], None]
) -> dict[str, Any]:
    """Stream a request's body into the store under `digest`; `take` is asked for room before each piece is written.

    Raises: BadInput (other bytes than the digest says), TooLarge, QuotaFull, StoreFull, StoreFailed. Nothing is kept
    then.
    """
    with _staged(staging, "receive a blob into") as path:
        incoming = await _receive(path, request, take, MAX_BLOB_BYTES, "a blob", sync=True)
        actual = incoming.digest()
        if actual != digest:
            raise BadInput(f"the body has digest {actual[:16]}…, not {digest[:16]}…", hint="Send the bytes again.")
        ref = BlobRef(digest, incoming.size_bytes)
        await run_in_threadpool(_publish, blobs, path, ref)
    return {"digest": ref.digest, "size_bytes": ref.size_bytes}


@contextmanager
def _staged(staging: Staging, what: str) -> Iterator[Path]:
    """Give a path to write at; nothing stays there when that fails. Raises: StoreFull, StoreFailed."""
    path = staging.new_path()
    try:
        yield path
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise store_error(error, what, path.parent) from error
        raise


async def _receive(
    path: Path, request: Request, take: Callable[[int], None], most_bytes: int, what: str, *, sync: bool = False
) -> _Incoming:
    incoming = _Incoming(path)
    try:
        async for piece in _pieces(request):
            if incoming.size_bytes + len(piece) > most_bytes:
                raise TooLarge(f"{what} of more than {most_bytes} bytes")
            await run_in_threadpool(_write, incoming, piece, take)
        if sync:
            await run_in_threadpool(incoming.sync)
    finally:
        incoming.close()
    return incoming


def _write(incoming: _Incoming, piece: bytes, take: Callable[[int], None]) -> None:
    take(on_disk(len(piece)))
    incoming.write(piece)


def _publish(blobs: BlobStore, path: Path, ref: BlobRef) -> None:
    unsynced: set[Path] = set()
    blobs.publish(path, ref, unsynced)
    blobs.sync_folders(unsynced)


async def _pieces(request: Request) -> Any:
    buffer = bytearray()
    async for chunk in request.stream():
        buffer += chunk
        if len(buffer) >= _BUFFER_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)
