"""What the bench of the second copy runs on: a real S3 server on loopback, blobs in a store, and the two contenders."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torpor.client import Keeper
from torpor.codec.keys import KeyRing
from torpor.measure.rig import Daemon, daemon
from torpor.state.manifest import BlobRef
from torpor.state.remote import RemoteObject
from torpor.store.arriving import StoreBlobs
from torpor.store.blobs import BlobStore
from torpor.store.home import Home
from torpor.store.staging import Staging
from torpor.store.sync_choices import SyncChoices, write_sync_choices
from torpor.sync.fetch import Fetcher
from torpor.sync.parallel import in_parallel
from torpor.sync.s3 import S3Bucket
from torpor.sync.s3_client import S3Options
from torpor.sync.spool import Spool
from torpor.sync.threads import DaemonPool
from torpor.sync.upload import Uploader

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))  # the server is that of the tests
from support.remote_index import KnownObjects
from support.s3_servers import ACCESS_KEY, SECRET_KEY, Place, new_place, running_weed

WIDTH = 4  # blobs at once, as the daemon has it
BLOB_BYTES = 9 << 20  # a block of 64 tokens at the geometry of Qwen3-VL-8B


@contextmanager
def place() -> Iterator[Place]:
    """Run a server of one's own, with a bucket."""
    with running_weed() as server:
        yield new_place(server)


def blobs_of(kind: str, count: int) -> Iterator[torch.Tensor]:
    """Yield blobs as bytes: `noise`, which nothing makes smaller, or `kv`, bf16 numbers as a model's cache has them."""
    for _ in range(count):
        if kind == "noise":
            yield torch.randint(0, 256, (BLOB_BYTES,), dtype=torch.uint8)
        else:
            yield torch.empty(BLOB_BYTES // 2, dtype=torch.bfloat16).normal_().view(torch.uint8)


class Shelf:
    """A store of blobs under a folder of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.staging = Staging(folder / "staging")
        self.store = BlobStore(folder / "blobs")
        self.blobs = StoreBlobs(self.store, self.staging)

    def add(self, tensors: Iterator[torch.Tensor]) -> list[BlobRef]:
        """Store blobs."""
        unsynced: set[Path] = set()
        refs = [self.store.put(self.staging, [memoryview(t.numpy())], unsynced).ref for t in tensors]
        self.store.sync_folders(unsynced)
        return refs


class _NoTurn:
    """A push that nothing interrupts."""

    def sent(self, size_bytes: int) -> None:
        """Go on."""

    def next_blob(self) -> None:
        """Go on."""


class _NoJournal:
    """No blob here is large enough for parts."""

    def of_digest(self, digest: str) -> None:
        """Know of none."""


class Ours:
    """Torpor's way: uploader and fetcher over one bucket, as the daemon puts them together."""

    def __init__(self, where: Place, shelf: Shelf, folder: Path, ring: KeyRing | None = None) -> None:
        options = S3Options(where.bucket, where.endpoint, ACCESS_KEY, SECRET_KEY, prefix=secrets.token_hex(4))
        self.bucket, self.ring, self._folder = S3Bucket(options), ring, folder
        self._pool, self._threads = DaemonPool(WIDTH, "up"), DaemonPool(WIDTH, "down")
        spool = Spool(folder / "spool")
        self._uploader = Uploader(
            self.bucket, shelf.blobs, ring, spool, _NoJournal(), new_upload=lambda: secrets.token_hex(13)
        )
        self.bucket.now()  # connected, as a daemon is

    def up(self, refs: Sequence[BlobRef]) -> list[RemoteObject]:
        """Send blobs."""
        return list(in_parallel(self._pool, lambda ref: self._uploader.send(ref, _NoTurn()), refs))

    def prepare_down(self, refs: Sequence[BlobRef], objects: Sequence[RemoteObject]) -> Callable[[], None]:
        """Return what brings blobs into a store that has none: checked and durable."""
        shelf, known = Shelf(self._folder / f"down-{secrets.token_hex(4)}"), KnownObjects()
        known.note_objects(objects)
        fetcher = Fetcher(
            self.bucket, known, shelf.blobs, self._threads,
            ring=lambda: self.ring, arrived=lambda ref: None, random=lambda: 0.5,
        )  # fmt: skip

        def bring() -> None:
            for download in [fetcher.ask(ref) for ref in refs]:
                download.result.result()

        return bring

    def close(self) -> None:
        """End connections and threads."""
        self.bucket.close()
        self._pool.close()
        self._threads.close()


@dataclass(frozen=True, slots=True)
class Boto:
    """Plain boto3: `upload_file` and `download_file` from as many threads, of the same files."""

    where: Place
    folder: Path
    as_it_comes: bool

    def client(self) -> Any:
        """Return a client: with boto3's defaults, or with the options that ours has."""
        import boto3
        from botocore.config import Config

        ours = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
        config = Config(
            s3={"addressing_style": "path"}, max_pool_connections=50, proxies={}, **({} if self.as_it_comes else ours)
        )
        session = boto3.session.Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1")
        return session.client("s3", endpoint_url=self.where.endpoint, config=config)

    def transfer(self) -> Any:
        """Return how files are cut: as it comes in parts of 8 MiB, else each with one request."""
        from boto3.s3.transfer import TransferConfig

        if self.as_it_comes:
            return TransferConfig()
        return TransferConfig(multipart_threshold=64 << 20, multipart_chunksize=64 << 20, use_threads=False)

    def prepare_up(self, paths: Sequence[Path]) -> Callable[[], None]:
        """Return what sends files."""
        client, config, names = self.client(), self.transfer(), secrets.token_hex(4)
        client.list_objects_v2(Bucket=self.where.bucket, MaxKeys=1)

        def send(path: Path) -> None:
            client.upload_file(str(path), self.where.bucket, f"plain-{names}/{path.name}", Config=config)

        return lambda: _each(send, paths)

    def prepare_down(self, paths: Sequence[Path]) -> Callable[[], None]:
        """Return what brings files that were sent before into a folder that is empty; they are synced as ours are."""
        client, config = self.client(), self.transfer()
        target = self.folder / f"plain-{secrets.token_hex(4)}"
        target.mkdir()
        for path in paths:
            client.upload_file(str(path), self.where.bucket, f"down/{path.name}", Config=config)

        def bring(path: Path) -> None:
            client.download_file(self.where.bucket, f"down/{path.name}", str(target / path.name), Config=config)
            fd = os.open(target / path.name, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

        return lambda: _each(bring, paths)


def _each(work: Callable[[Path], None], paths: Sequence[Path]) -> None:
    with ThreadPoolExecutor(WIDTH) as threads:
        list(threads.map(work, paths))


@contextmanager
def ours(where: Place, shelf: Shelf, folder: Path, ring: KeyRing | None = None) -> Iterator[Ours]:
    """Open our way, and close it."""
    with closing(Ours(where, shelf, folder, ring)) as made:
        yield made


def cpu_seconds(action: Callable[[], Any]) -> float:
    """Return the CPU time that all threads of this process take for an action."""
    started = time.process_time()
    action()
    return time.process_time() - started


@contextmanager
def bucket_daemon(home: Path, where: Place) -> Iterator[Daemon]:
    """Run a daemon that has a bucket, sends KV caches whatever they are worth, and is paused."""
    made = Home(home)
    made.create()
    write_sync_choices(made.sync_json, SyncChoices(paused_at=time.time(), kv_policy="always"))
    with daemon(home, where.settings) as running:
        yield running


def memory_of(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmRSS:"))


def cpu_of(pid: int) -> float:
    """Return the CPU time that a process has taken, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_idle(keeper: Keeper) -> bool:
    """Tell whether everything was sent."""
    found = keeper.api.json("GET", "/v1/sync")
    if found["dead_count"] or found["state"] not in ("idle", "busy"):
        raise RuntimeError(f"the daemon does not send: {found['state']}, {found['reason']}")
    return found["state"] == "idle" and not found["waiting_count"]
