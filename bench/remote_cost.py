"""The second copy: our uploads and downloads against plain boto3 on the same server, and what they cost the client.

Ours is what the daemon does: read, hash, compress, (encrypt,) put; and get, decode, check the digest, make durable.
Noise shows the way itself; a KV cache shows what compression adds to it: fewer bytes, more computing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from remote_rig import (
    BLOB_BYTES,
    Boto,
    Ours,
    Shelf,
    blobs_of,
    bucket_daemon,
    cpu_of,
    cpu_seconds,
    is_idle,
    memory_of,
    ours,
    place,
)
from torpor.adapters.demo_model import Loaded
from torpor.client import Keeper, connect
from torpor.codec.keys import new_ring
from torpor.measure.figures import Figure
from torpor.measure.rig import scratch
from torpor.measure.rounds import interleave
from torpor.measure.settings import Settings
from torpor.measure.workload import TOKEN_BYTES, fresh_session, load
from torpor.state.manifest import BlobRef

KINDS = {"noise": "noise", "kv": "KV cache (bf16)"}
SPEED_AT_LEAST = 0.9  # of boto3's
RSS_AT_MOST = 64 << 20
SESSION_TOKENS, LOOK_S = 1_000, 0.1
THEIRS = {"boto3 as it comes": True, "boto3, one request a file": False}


def measure(settings: Settings) -> list[Figure]:
    """Take all figures: speed with blobs of each kind, and memory with many of them."""
    count, total_bytes = (12, 512 << 20) if settings.quick else (32, 4096 << 20)
    return [*_speed(settings.folder, settings.rounds(5, 2), count), *_memory(load(), settings.folder, total_bytes)]


def _speed(parent: Path, rounds: int, count: int) -> list[Figure]:
    figures: list[Figure] = []
    for kind, title in KINDS.items():
        with scratch(parent) as folder, place() as where:
            shelf = Shelf(folder / "home")
            refs = shelf.add(blobs_of(kind, count))
            what = f"{count} x 9 MiB of {title}"
            theirs = {name: Boto(where, folder, as_it_comes) for name, as_it_comes in THEIRS.items()}
            with ours(where, shelf, folder) as plain, ours(where, shelf, folder, new_ring(0.0)) as sealed:
                figures += _up(what, rounds, refs, shelf, plain, sealed, theirs)
                figures += _down(what, rounds, refs, shelf, plain, sealed, theirs)
    return figures


class _Timed:
    """Contenders of one direction, and the CPU time of each of their runs."""

    def __init__(self, prepared: dict[str, Callable[[], Callable[[], object]]]) -> None:
        self._prepared, self.cpu_s = prepared, {name: [] for name in prepared}

    def contenders(self) -> dict[str, Callable[[], Callable[[], object]]]:
        """Return them, wrapped."""
        return {name: (lambda name=name: self._wrap(name)) for name in self._prepared}

    def _wrap(self, name: str) -> Callable[[], object]:
        action = self._prepared[name]()
        return lambda: self.cpu_s[name].append(cpu_seconds(action))


def _up(
    what: str, rounds: int, refs: list[BlobRef], shelf: Shelf, plain: Ours, sealed: Ours, theirs: dict[str, Boto]
) -> list[Figure]:
    paths = [shelf.store.path(ref.digest) for ref in refs]
    timed = _Timed(
        {
            "ours": lambda: lambda: plain.up(refs),
            "ours, encrypted": lambda: lambda: sealed.up(refs),
            **{name: (lambda boto=boto: boto.prepare_up(paths)) for name, boto in theirs.items()},
        }
    )
    stored = sum(found.stored_bytes for found in plain.up(refs)) / (len(refs) * BLOB_BYTES)
    return [
        *_figures(f"up, {what}", rounds, len(refs), timed, list(theirs)),
        Figure("remote", f"stored bytes, {what}", "%", [100 * stored]),
    ]


def _down(
    what: str, rounds: int, refs: list[BlobRef], shelf: Shelf, plain: Ours, sealed: Ours, theirs: dict[str, Boto]
) -> list[Figure]:
    paths = [shelf.store.path(ref.digest) for ref in refs]
    there, there_sealed = plain.up(refs), sealed.up(refs)
    timed = _Timed(
        {
            "ours": lambda: plain.prepare_down(refs, there),
            "ours, encrypted": lambda: sealed.prepare_down(refs, there_sealed),
            **{name: (lambda boto=boto: boto.prepare_down(paths)) for name, boto in theirs.items()},
        }
    )
    return _figures(f"down, {what}", rounds, len(refs), timed, list(theirs))


def _figures(name: str, rounds: int, count: int, timed: _Timed, theirs: list[str]) -> list[Figure]:
    samples = interleave(name, rounds, timed.contenders())
    gb = count * BLOB_BYTES / 1e9
    cpu = {who: [seconds / gb for seconds in taken[-rounds:]] for who, taken in timed.cpu_s.items()}
    limit = 1 / SPEED_AT_LEAST
    made = [Figure("remote", name, "s", samples["ours"], who, samples[who], limit) for who in theirs]
    made += [
        Figure("remote", f"{name}, encrypted", "s", samples["ours, encrypted"], who, samples[who]) for who in theirs
    ]
    made += [Figure("remote", f"client CPU a GB, {name}", "s", cpu["ours"], who, cpu[who]) for who in theirs]
    made.append(Figure("remote", f"client CPU a GB, {name}, encrypted", "s", cpu["ours, encrypted"]))
    return made


def _memory(loaded: Loaded, parent: Path, total_bytes: int) -> list[Figure]:
    """Let a daemon send so many bytes of KV caches, and watch its memory and its CPU time meanwhile."""
    with scratch(parent) as folder, place() as where, bucket_daemon(folder / "home", where) as running:
        saved = 0
        with connect(home=folder / "home") as keeper:
            bare = memory_of(running.pid)
            keeper.save("first", fresh_session(loaded, 64)).wait()
            _send(keeper, running.pid)
            keeper.api.call("POST", "/v1/sync/pause", json={})
            while saved < total_bytes:
                keeper.save(f"s{saved}", fresh_session(loaded, SESSION_TOKENS)).wait()
                saved += SESSION_TOKENS * TOKEN_BYTES
            at_rest, cpu_before, started = memory_of(running.pid), cpu_of(running.pid), time.perf_counter()
            most = _send(keeper, running.pid)
            took_s, cpu_s = time.perf_counter() - started, cpu_of(running.pid) - cpu_before
    what = f"{saved / 2**30:.1f} GiB up"
    return [
        Figure("remote", "daemon's RSS before its first request to the bucket", "B", [float(bare)]),
        Figure("remote", f"daemon's RSS behind it, before {what}", "B", [float(at_rest)]),
        Figure("remote", f"daemon's RSS grows by, while {what}", "B", [float(most - at_rest)], at_most=RSS_AT_MOST),
        Figure("remote", f"daemon's CPU a GB, {what}", "s", [cpu_s / (saved / 1e9)]),
        Figure("remote", f"time a GB, {what}", "s", [took_s / (saved / 1e9)]),
    ]


def _send(keeper: Keeper, pid: int) -> int:
    """Have all sent that waits; return the most memory that the daemon had meanwhile."""
    keeper.api.call("POST", "/v1/sync/resume")
    most = memory_of(pid)
    while not is_idle(keeper):
        most = max(most, memory_of(pid))
        time.sleep(LOOK_S)
    return most
