"""The second copy: our uploads and downloads against plain boto3 on the same server, and what they cost the client.

Ours is what the daemon does: read, hash, compress, (encrypt,) put; and get, decode, check the digest, make durable.
Noise shows the way itself; a KV cache shows what compression adds to it: fewer bytes, more computing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from figures import Figure
from remote_rig import BLOB_BYTES, Boto, Ours, Shelf, blobs_of, cpu_seconds, ours, place
from rig import scratch
from rounds import interleave
from torpor.codec.keys import new_ring
from torpor.state.manifest import BlobRef

KINDS = {"noise": "noise", "kv": "KV cache (bf16)"}
SPEED_AT_LEAST = 0.9  # of boto3's
THEIRS = {"boto3 as it comes": True, "boto3, one request a file": False}


def measure(parent: Path, rounds: int, count: int) -> list[Figure]:
    """Take all figures of `count` blobs of each kind."""
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
