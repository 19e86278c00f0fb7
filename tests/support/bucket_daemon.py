"""The daemon's routes over a bucket in memory, in this process: what comes back from a bucket, without a server."""

from __future__ import annotations

import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from blake3 import blake3
from fastapi import FastAPI
from torpor.codec import manifest_file
from torpor.daemon.bring_back import bring_back
from torpor.daemon.care import Care
from torpor.daemon.compose import compose, compose_retention
from torpor.daemon.fetch_api import BackFromBucket
from torpor.daemon.garbage import Garbage
from torpor.daemon.importer import Importer
from torpor.daemon.imports import Imports
from torpor.daemon.local_backups import describer
from torpor.daemon.observing import observe
from torpor.daemon.pairing import Pairing
from torpor.daemon.parts import Parts
from torpor.daemon.power import Power
from torpor.daemon.remote import RemoteSide
from torpor.daemon.remote_settings import RemoteSettings
from torpor.daemon.room import open_room
from torpor.daemon.search_care import SearchCare
from torpor.daemon.security import Gate
from torpor.daemon.service import api_of, listening_at
from torpor.daemon.settings import load_settings
from torpor.daemon.tokens import Tokens
from torpor.daemon.watches import Watches
from torpor.db.remembered import Remembered
from torpor.db.remote import RemoteIndex
from torpor.state.manifest import BlobRef, Manifest
from torpor.state.remote import RecordName, RemoteRecord
from torpor.store.home import Home
from torpor.sync.repository import Repository
from ulid import ULID

from support.faulty_bucket import FaultyBucket
from support.manifests import manifest
from support.remote_index import KnownObjects, upload

HOST = "127.0.0.1:7717"
URL = f"http://{HOST}"
AS_OWNER = {"Authorization": "Bearer owner"}


class BucketDaemon:
    """A catalog with an empty home, a bucket that fails as a test says, and the application over both."""

    def __init__(self, folder: Path, bucket: FaultyBucket | None = None) -> None:
        self.stack = ExitStack()
        self.home = Home(folder)
        self.home.create()
        self.catalog = compose(self.home, load_settings(), self.stack)
        self.room = open_room(self.home, load_settings(), self.catalog)
        self.power = Power(supplies=tuple, uevents=lambda: None)
        self.stack.callback(self.power.stop)
        self.bucket = bucket or FaultyBucket()
        self.known = RemoteIndex(self.catalog.index, describer())
        self.threads = ThreadPoolExecutor(4)
        self.stack.callback(self.threads.shutdown)
        self.lookers = ThreadPoolExecutor(2)
        self.stack.callback(self.lookers.shutdown)
        self.pool = ThreadPoolExecutor(2)
        self.stack.callback(self.pool.shutdown)
        self.back: BackFromBucket = bring_back(
            self.catalog,
            self.bucket,
            self.known,
            repository=self.repository,
            ring=lambda: None,
            room=self.room,
            threads=self.threads,
            lookers=self.lookers,
        )
        self.stack.callback(self.back.close)

    def repository(self) -> Repository:
        return Repository.open(
            self.bucket,
            "0" * 16,
            None,
            self.known,
            self.pool,  # type: ignore[arg-type]
            clock=lambda: 1.0,
            new_id=lambda: secrets.token_hex(16),
        )

    def app(self, *, s3: bool = True, tokens: Tokens | None = None, care: Care | None = None) -> FastAPI:
        """Return the application with every route, as a running daemon has it."""
        settings = load_settings()
        side = RemoteSide(self.home, RemoteSettings(None), self.catalog, Remembered(self.catalog.index))
        back = self.back if s3 else None
        if care is None:
            care = Care(self.home, self.catalog, side.memory, back, settings)
            self.stack.callback(care.stop)
        watches = Watches(self.home, self.catalog.index)
        imports = Imports(Importer(str(self.home.root), watches.turn), self.catalog, self.room, lambda: str(ULID()))
        self.stack.callback(imports.stop)
        tokens = tokens or Tokens(self.home.tokens_json, "owner", lambda: 1.0)
        parts = Parts(
            home=self.home,
            settings=settings,
            tokens=tokens,
            catalog=self.catalog,
            room=self.room,
            side=side,
            back=back,
            retention=compose_retention(self.home, settings, self.catalog, side),
            garbage=Garbage(self.catalog, grace_s=3600.0),
            care=care,
            watches=watches,
            imports=imports,
            search=SearchCare(self.catalog),
            pairing=Pairing(tokens, lambda: 1.0, time.monotonic),
            power=self.power,
        )
        return api_of(parts, listening_at(7717, None), observe(self.catalog.index, parts.changes))

    def gate(self, tokens: Tokens | None = None, **parts: Any) -> Gate:
        """Return the application behind its gate, which lets `AS_OWNER` in at `URL`."""
        tokens = tokens or Tokens(self.home.tokens_json, "owner", lambda: 1.0)
        return Gate(self.app(tokens=tokens, **parts), tokens=tokens, hosts=frozenset([HOST]))

    def close(self) -> None:
        self.stack.close()


class Elsewhere:
    """Another machine, which has put backups into the bucket: as much of it as the bucket shows."""

    def __init__(self, bucket: FaultyBucket, machine: str = "a" * 16) -> None:
        self.bucket, self.machine, self.uploaded = bucket, machine, KnownObjects()
        self.blobs: dict[str, bytes] = {}
        self.repository = Repository.open(
            bucket,
            machine,
            None,
            self.uploaded,  # type: ignore[arg-type]
            ThreadPoolExecutor(1),  # type: ignore[arg-type]
            clock=lambda: 1.0,
            new_id=lambda: secrets.token_hex(16),
        )

    def save(self, number: int, session: str = "s", blobs: int = 3, size: int = 1000, **changes: Any) -> Manifest:
        """Push a backup whose vision cache has some blobs."""
        refs = [self._blob(os.urandom(size + n)) for n in range(blobs)]
        layers = {"text_context": {"messages": []}, "vision_cache": {str(n): _leaf(ref) for n, ref in enumerate(refs)}}
        made = manifest(
            id=f"01M81P35719XNDZ4R57NMV{number:04d}",
            session_id=session,
            created_at=1e9 + number,
            kv_cache=None,
            layers=layers,
        )
        self.write(made, refs, **changes)
        return made

    def _blob(self, data: bytes) -> BlobRef:
        self.blobs[blake3(data).hexdigest()] = data
        return upload(self.bucket, self.uploaded, data)

    def write(self, made: Manifest, refs: list[BlobRef], **changes: Any) -> str:
        name = str(RecordName(self.machine, made.id, 1, secrets.token_hex(4)))
        objects = self.uploaded.objects([ref.digest for ref in refs])
        raw = manifest_file.dump(made)
        record = RemoteRecord(made.id, self.machine, 1, 5.0, raw, objects, ("text", "vision") if refs else ("text",))
        self.repository.write_record(name, replace(record, **changes))
        return name


def _leaf(ref: BlobRef) -> dict[str, Any]:
    block = {"digest": ref.digest, "size_bytes": ref.size_bytes}
    return {"$tensor": {"shape": [ref.size_bytes], "dtype": "uint8", "kind": "torch", "blocks": [block]}}
