"""A real store with small backups in it, whose time and bucket a test sets: what retention and eviction work on."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from blake3 import blake3
from torpor.codec import manifest_file
from torpor.daemon.compose import compose
from torpor.daemon.local_backups import describer
from torpor.daemon.retention import Retention
from torpor.daemon.settings import load_settings
from torpor.daemon.trusted_time import TrustedTime
from torpor.db.remote import RemoteIndex
from torpor.db.retention import newest_at
from torpor.state.manifest import BlobRef, KVCache, Manifest
from torpor.state.outbox import Stage
from torpor.state.remote import RemoteObject, RemoteRecord, stage_blobs
from torpor.state.retention import Policy
from torpor.state.trusted_clock import Reading
from torpor.store.arriving import StoreBlobs
from torpor.store.home import Home

from support.manifests import LAYOUT, manifest

T = 1_790_000_000.0
DAY_S = 86_400.0
MACHINE = "a" * 16
BLOCK_BYTES = 64 * LAYOUT.token_bytes()


class Kept:
    """A home with a catalog and its retention."""

    def __init__(self, folder: Path, *, bucket: bool = False, keep: int = 0, ttl_days: float = 7.0) -> None:
        self.stack, self.home, self.on, self.seen = ExitStack(), Home(folder / "home"), bucket, True
        self.home.create()
        self.now, self.up_s, self.count = T, 1000.0, 0
        self.catalog = compose(self.home, load_settings({"ttl_days": ttl_days}), self.stack)
        if bucket:
            self.catalog.queue_with(lambda: None)
        self.known = RemoteIndex(self.catalog.index, describer())
        self.time = TrustedTime(self.home.clock_json, self._newest, self.clocks)
        self.catalog.judge_time_by(self.time.now)
        self.steady = 0.0
        self.retention = Retention(
            self.catalog,
            self.time,
            Policy(keep),
            lambda: (MACHINE if self.seen else "") if self.on else None,
            steady=lambda: self.steady,
            sleep=lambda seconds: None,
        )

    def close(self) -> None:
        self.stack.close()

    def clocks(self) -> Reading:
        return Reading(self.now, self.up_s, "boot")

    def _newest(self) -> float | None:
        with self.catalog.index.reading() as connection:
            return newest_at(connection)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.up_s += seconds
        self.steady += seconds

    def blob(self, data: bytes) -> BlobRef:
        ref = BlobRef(blake3(data).hexdigest(), len(data))
        if not self.catalog.blobs.has(ref):
            with StoreBlobs(self.catalog.blobs, self.catalog.staging).receive(ref) as writer:
                writer.write(data)
        return ref

    def save(
        self,
        session: str = "s",
        *,
        kv: list[bytes] | int = 1,
        vision: bytes | None = None,
        media: bytes | None = None,
        text: bytes | None = None,
    ) -> Manifest:
        """Commit a backup: text, KV blocks (their content, or how many new ones), embeddings and media if given."""
        self.wait(1.0)
        self.count += 1
        blocks = [os.urandom(BLOCK_BYTES) for _ in range(kv)] if isinstance(kv, int) else kv
        refs = tuple(map(self.blob, blocks))
        layers: dict[str, Any] = {
            "metadata": {},
            "text_context": {"t": leaf(self.blob(text or os.urandom(200)))},
            "tokens": {"ids": leaf(self.blob(os.urandom(100)))},
        }
        if media is not None:
            layers["media"] = [leaf(self.blob(media))]
        if vision is not None:
            layers["vision_cache"] = {"v": leaf(self.blob(vision))}
        made = manifest(
            id=f"01M81P35719XNDZ4R57NMV{self.count:04d}",
            session_id=session,
            created_at=self.now,
            layers=layers,
            tokens=64 * len(refs) + 1,
            kv_cache=KVCache(LAYOUT, 64 * len(refs), "DynamicCache", refs) if refs else None,
        )
        self.commit(made)
        return made

    def commit(self, made: Manifest) -> None:
        self.catalog.commit(made.id, manifest_file.dump(made))

    def synced(self, made: Manifest, *stages: Stage, checked: bool = True, machine: str = MACHINE) -> None:
        """Let the bucket have stages of a backup (all of them by default)."""
        blobs = stage_blobs(made)
        there = stages or tuple(blobs)
        objects = {
            digest: RemoteObject(digest, size, f"blobs/{digest[:2]}/{digest}.x", size)
            for stage in there
            for digest, size in blobs.get(stage, {}).items()
        }
        record = RemoteRecord(made.id, machine, 1, self.now, manifest_file.dump(made), objects, there)
        self.known.note_record(
            f"manifests/{machine}/{made.id}.{'-'.join(there)}-{checked}.json", record, checked=checked
        )
        with self.catalog.index.writing() as connection:
            for stage in there:
                connection.exec_driver_sql("DELETE FROM outbox WHERE backup_id = ? AND stage = ?", (made.id, stage))

    def here(self, made: Manifest) -> dict[str, bool]:
        """Whether all blobs of a backup's stages are here; index and files agree."""
        found: dict[str, bool] = {}
        with self.catalog.index.reading() as connection:
            for stage, blobs in stage_blobs(made).items():
                files = {digest: self.catalog.blobs.has(BlobRef(digest, size)) for digest, size in blobs.items()}
                for digest, there in files.items():
                    key = (bytes.fromhex(digest),)
                    row = connection.exec_driver_sql("SELECT present FROM blobs WHERE digest = ?", key).first()
                    assert row is None or bool(row[0]) == there
                found[stage] = all(files.values())
        return found

    def ids(self) -> list[str]:
        return sorted(each.id for each in self.catalog.index.list_backups(limit=10_000))

    def waiting(self) -> set[tuple[str, str]]:
        with self.catalog.index.reading() as connection:
            rows = connection.exec_driver_sql("SELECT backup_id, stage FROM outbox")
            return {(backup_id, stage) for backup_id, stage in rows}


def leaf(ref: BlobRef) -> dict[str, Any]:
    block = {"digest": ref.digest, "size_bytes": ref.size_bytes}
    return {"$tensor": {"shape": [ref.size_bytes], "dtype": "uint8", "kind": "torch", "blocks": [block]}}
