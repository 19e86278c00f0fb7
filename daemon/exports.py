"""Backups as files for a browser: written straight from the store, piece by piece, while they are being sent.

A piece that is wrong is found at the end of its blob, when part of it is on its way: then the answer breaks off before
its end, which no client takes for a whole file, and nothing is ever completed with bytes that were not checked.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

from blake3 import blake3
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..codec.bundle import blob_refs, size_of_bundle, write_in_pieces
from ..codec.state_file import PLAIN_LAYERS, load_own
from ..codec.v1_write import Losses, write_v1
from ..state.errors import BlobDamaged, MissingBlobs, Unavailable
from ..state.manifest import BlobRef, Manifest, layer_blobs
from ..store.blobs import BlobStore
from ..store.files import translated
from .catalog import Catalog

ExportFormat = Literal["bundle", "v1"]
AT_ONCE = 4
PIECE_BYTES = 1 << 20
RENEW_S = 60.0  # how often a backup is noted as in use while it is being sent
_ENDINGS: dict[ExportFormat, str] = {"bundle": ".bundle.qwnbak", "v1": ".qwnbak"}
_FETCH_HINT = (
    "Fetch the backup first (`torpor fetch`, or POST /v1/backups/{id}/fetch); without it, v1 may do: no KV cache."
)


@dataclass(frozen=True, slots=True)
class Export:
    """A file that is about to be sent. `size_bytes` is None where only the end of it tells."""

    name: str
    size_bytes: int | None
    pieces: Iterator[bytes]


class Exports:
    """Makes the files of one home. `in_use` keeps what is being sent from leaving the disk."""

    def __init__(
        self, catalog: Catalog, in_use: Callable[[list[str]], None], steady: Callable[[], float] = time.monotonic
    ) -> None:
        self._catalog, self._in_use, self._steady = catalog, in_use, steady
        self._slots = threading.BoundedSemaphore(AT_ONCE)

    def take_slot(self) -> None:
        """Begin to send one; `free_slot` ends it. Raises: Unavailable where too many are being sent."""
        if not self._slots.acquire(blocking=False):
            raise Unavailable(f"{AT_ONCE} backups are being exported", hint="Try again when one of them is done.")

    def free_slot(self) -> None:
        """End one."""
        self._slots.release()

    def make(self, backup_id: str, kind: ExportFormat) -> Export:
        """Return the file of a backup, whose blobs are read as its pieces are taken.

        Raises: BackupNotFound, ManifestDamaged, InvalidManifest, MissingBlobs. The pieces raise BlobNotFound,
        BlobDamaged, StoreFailed.
        """
        raw = self._catalog.manifest_json(backup_id)
        manifest = load_own(raw)
        self._in_use([manifest.id])
        self._require(_needed(manifest, kind))
        size = None if kind == "v1" else size_of_bundle(raw)
        return Export(manifest.id + _ENDINGS[kind], size, self._pieces(manifest, raw, kind))

    def _require(self, refs: list[BlobRef]) -> None:
        missing = [ref.digest for ref in refs if self._catalog.blobs.find(ref) is None]
        if missing:
            detail = f"{len(missing)} of {len(refs)} blobs are not on this machine"
            raise MissingBlobs(detail, hint=_FETCH_HINT, digests=tuple(missing))

    def _pieces(self, manifest: Manifest, raw: bytes, kind: ExportFormat) -> Iterator[bytes]:
        blobs, renew_at = self._catalog.blobs, self._steady() + RENEW_S
        found = (
            write_v1(manifest, blobs.read, version("torpor"), Losses(), strict=False)
            if kind == "v1"
            else write_in_pieces(raw, lambda ref: _read(blobs, ref))
        )
        for piece in _joined(found):
            if self._steady() >= renew_at:
                self._in_use([manifest.id])
                renew_at = self._steady() + RENEW_S
            yield piece


def _joined(pieces: Iterator[bytes | memoryview]) -> Iterator[bytes]:
    """Join small pieces: each that is sent goes through a thread and the event loop."""
    ready = bytearray()
    for piece in pieces:
        ready += piece
        if len(ready) >= PIECE_BYTES:
            yield bytes(ready)
            ready.clear()
    yield bytes(ready)


def _needed(manifest: Manifest, kind: ExportFormat) -> list[BlobRef]:
    if kind == "bundle":
        return blob_refs(manifest)
    return [ref for name in PLAIN_LAYERS for ref in layer_blobs(manifest.layers.get(name))]


def _read(blobs: BlobStore, ref: BlobRef) -> Iterator[bytes]:
    """Yield a blob piece by piece; checked at its end, which is before anything behind it is sent."""
    hasher, left = blake3(), ref.size_bytes
    with translated("read blob", ref.digest[:16]), os.fdopen(blobs.open(ref.digest), "rb", buffering=0) as file:
        while data := file.read(min(PIECE_BYTES, left) or 1):
            left -= len(data)
            if left < 0:
                break
            hasher.update(data)
            yield data
    if left or hasher.hexdigest() != ref.digest:
        raise BlobDamaged(f"blob {ref.digest[:16]}… does not match its digest")


class ExportResponse(StreamingResponse):
    """Sends a file, and frees its slot however that ends."""

    def __init__(self, export: Export, free_slot: Callable[[], None]) -> None:
        self._pieces, self._free_slot = export.pieces, free_slot
        headers = {"Content-Disposition": f'attachment; filename="{export.name}"', "Cache-Control": "no-store"}
        if export.size_bytes is not None:
            headers["Content-Length"] = str(export.size_bytes)
        super().__init__(export.pieces, media_type="application/octet-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._free_slot()
            with suppress(ValueError):  # a thread is still in it: it is closed when that is out of it
                self._pieces.close()  # type: ignore[attr-defined]
