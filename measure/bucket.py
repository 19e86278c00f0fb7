"""The user's bucket: a save on its way there and a fetch on its way back, against plain requests with the same bytes.

Ours is all that the second copy does: two daemons in homes of their own, as if they were two machines, compress, hash,
send, list, fetch, check and make durable. The other side puts and gets the same blobs as they are, as many at once,
over the same kind of connection. Everything lies under a prefix of its own, beside the user's repository, and goes
again. What is sent are random numbers as a KV cache has them; nothing of the user's.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..client import Keeper, connect
from ..state.errors import RemoteFailed, SyncOff
from ..state.problems import from_problem
from ..state.remote import BLOBS_PREFIX
from ..store.home import Home
from ..store.sync_choices import SyncChoices, write_sync_choices
from .figures import Figure
from .rig import daemon, scratch, timed_s
from .rounds import console
from .settings import Settings

if TYPE_CHECKING:
    from ..daemon.remote_settings import S3Settings
    from ..sync.bucket import Bucket

TOKENS, FEW_TOKENS = 512, 128  # 72 MiB, and 18: each goes up and down once a round on either side
WIDTH = 4  # requests at once, as the daemon has it
AT_MOST = 1 / 0.9
LOOK_S, PATIENCE_S = 0.02, 1800.0
PLAIN = "plain requests, the same bytes"


@dataclass(slots=True)
class _Samples:
    up_s: list[float] = field(default_factory=list)
    plain_up_s: list[float] = field(default_factory=list)
    down_s: list[float] = field(default_factory=list)
    plain_down_s: list[float] = field(default_factory=list)
    sent_share: list[float] = field(default_factory=list)


def measure(settings: Settings) -> list[Figure]:
    """Send and fetch in turns. Raises: SyncOff where no bucket is configured, and what the bucket raises."""
    tokens, samples = FEW_TOKENS if settings.quick else TOKENS, _Samples()
    rounds = settings.rounds(3, 1)
    with (
        _prefix_of_its_own(_configured()) as (s3, bucket),
        scratch(settings.folder) as folder,
        console.status("") as told,
    ):
        for number in range(rounds):
            told.update(f"bucket: round {number + 1} of {rounds}")
            _round(s3, bucket, folder / str(number), tokens, samples)
    what = f"{tokens} tokens of KV cache"
    return [
        Figure("bucket", f"up: {what}", "s", samples.up_s, PLAIN, samples.plain_up_s, AT_MOST),
        Figure("bucket", f"down: {what}", "s", samples.down_s, PLAIN, samples.plain_down_s, AT_MOST),
        Figure("bucket", "bytes on the wire, of those of the cache", "%", samples.sent_share),
    ]


def _configured() -> S3Settings:
    """Return the bucket of the user's environment and home."""
    from ..daemon.remote_settings import load_remote_settings, working_directory

    found = load_remote_settings(os.environ, working_directory(), Home.from_environment(os.environ).root)
    if found.s3 is None:
        raise SyncOff("there is no bucket to measure")
    return found.s3


@contextmanager
def _prefix_of_its_own(found: S3Settings) -> Iterator[tuple[S3Settings, Bucket]]:
    """Open the bucket under a prefix that nobody has; remove all that lies there at the end."""
    from ..sync.s3 import S3Bucket

    prefix = "/".join(filter(None, (found.prefix, f"torpor-bench-{secrets.token_hex(8)}")))
    s3 = found.model_copy(update={"prefix": prefix})
    with closing(S3Bucket(s3.options())) as bucket:
        bucket.now()  # says why it cannot be used, before anything is put there
        try:
            yield s3, bucket
        finally:
            with ThreadPoolExecutor(WIDTH) as threads:
                list(threads.map(bucket.delete, [each.name for each in bucket.list("")]))


def _round(s3: S3Settings, bucket: Bucket, folder: Path, tokens: int, samples: _Samples) -> None:
    """Let one machine send and another fetch; in between and behind them go the plain requests."""
    from .workload import fresh_session, load  # takes seconds, which who has no bucket need not wait

    folder.mkdir()
    with _machine(folder / "here", s3) as here:
        first = here.save("first", fresh_session(load(), 64)).wait()
        here.api.call("POST", "/v1/sync/resume")
        _sent(here, first.id)  # connected, and the repository is made: a daemon that runs has that behind it
        here.api.call("POST", "/v1/sync/pause", json={})
        there_before = _stored_bytes(bucket)
        known = set(_blobs(folder / "here"))
        backup = here.save("bench", fresh_session(load(), tokens)).wait()
        blobs = [path for path in _blobs(folder / "here") if path not in known]
        here.api.call("POST", "/v1/sync/resume")
        samples.up_s.append(timed_s(lambda: _sent(here, backup.id)))
    before = f"plain-{secrets.token_hex(4)}/"
    samples.plain_up_s.append(timed_s(lambda: _each(lambda path: _put(bucket, before + path.name, path), blobs)))
    raw = sum(path.stat().st_size for path in blobs)
    samples.sent_share.append(100 * (_stored_bytes(bucket) - there_before) / raw)
    with _machine(folder / "there", s3) as there:
        _adopt(there, backup.id)
        samples.down_s.append(timed_s(lambda: _fetched(there, backup.id)))
    target = folder / "plain"
    target.mkdir()
    fetch: Callable[[Path], None] = lambda path: _get(bucket, before + path.name, target / path.name)  # noqa: E731
    samples.plain_down_s.append(timed_s(lambda: _each(fetch, blobs)))


@contextmanager
def _machine(root: Path, s3: S3Settings) -> Iterator[Keeper]:
    """Run a daemon with the bucket in a home of its own. It is paused, and sends KV caches whatever they are worth."""
    from ..daemon.remote_settings import variables_of

    home = Home(root)
    home.create()
    write_sync_choices(home.sync_json, SyncChoices(paused_at=time.time(), kv_policy="always"))
    own = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}  # boto3's own ways to keys
    said = {name: value for name, value in variables_of(s3).items() if value is not None}
    with daemon(root, {**own, **said, "TORPOR_KEY_STORAGE": "file"}), connect(home=root) as keeper:
        yield keeper


def _stored_bytes(bucket: Bucket) -> int:
    return sum(each.size_bytes for each in bucket.list(BLOBS_PREFIX))


def _blobs(root: Path) -> list[Path]:
    return [path for path in (root / "store" / "blobs").rglob("*") if path.is_file()]


def _sent(keeper: Keeper, backup_id: str) -> None:
    """Wait until all of a backup is in the bucket. Raises: RemoteFailed, and what stopped it."""
    until = time.monotonic() + PATIENCE_S
    while True:
        remote = keeper.api.json("GET", f"/v1/backups/{backup_id}")["remote"]
        if remote and remote["checked"] and not remote["waiting"]:
            return
        found: dict[str, Any] = keeper.api.json("GET", "/v1/sync")
        if found["dead_count"] or time.monotonic() > until:
            raise RemoteFailed(f"not everything can be sent: {found['state']}, {found['reason']}")
        time.sleep(LOOK_S)


def _adopt(keeper: Keeper, backup_id: str) -> None:
    """Have a machine find a backup in the bucket, and enter it; its bytes stay there."""
    while keeper.api.json("GET", "/v1/remote/backups", params={"refresh": True}, timeout=PATIENCE_S)["reading"]:
        time.sleep(LOOK_S)
    keeper.api.json("POST", f"/v1/remote/backups/{backup_id}/adopt", timeout=PATIENCE_S)


def _fetched(keeper: Keeper, backup_id: str) -> None:
    at = keeper.api.json("POST", f"/v1/backups/{backup_id}/fetch", json={})
    while at["state"] == "running":
        time.sleep(LOOK_S)
        at = keeper.api.json("GET", f"/v1/fetches/{at['id']}")
    if at["errors"]:
        raise from_problem(at["errors"][0]["problem"])


def _put(bucket: Bucket, name: str, path: Path) -> None:
    with path.open("rb") as file:
        bucket.put(name, file, path.stat().st_size)


def _get(bucket: Bucket, name: str, path: Path) -> None:
    with path.open("xb") as file, bucket.get(name) as pieces:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _each(work: Callable[[Path], None], paths: Sequence[Path]) -> None:
    with ThreadPoolExecutor(WIDTH) as threads:
        list(threads.map(work, paths))
