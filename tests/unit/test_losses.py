"""Blobs that a bucket could not make good: what a plan says, what is raised, and what is asked of the daemon."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from blake3 import blake3
from support.manifests import FULL, manifest
from torpor.client.fetching import PATIENCE_S, Fetching
from torpor.client.losses import failure_of, is_loss, lost, why, why_not_fetched
from torpor.client.restore import read_graded
from torpor.state.errors import (
    BlobDamaged,
    BlobNotFound,
    DaemonNotRunning,
    KeyMissing,
    ObjectDamaged,
    Offline,
    RemoteFailed,
    StoreFailed,
    SyncOff,
    TorporError,
    Unavailable,
)
from torpor.state.manifest import BlobRef
from torpor.state.plan import Conditions, TargetState, plan_restore

DATA = {blake3(data).hexdigest(): data for data in (os.urandom(10), os.urandom(20), os.urandom(30))}
REFS = [BlobRef(digest, len(data)) for digest, data in DATA.items()]
GONE, OTHER, HERE = REFS


class Store:
    """Blobs that are here, and those that fail in a way of their own."""

    def __init__(self, *here: BlobRef) -> None:
        self.here, self.failing = set(here), dict[str, TorporError]()

    def read(self, ref: BlobRef) -> memoryview:
        if ref.digest in self.failing:
            raise self.failing[ref.digest]
        if ref not in self.here:
            raise BlobNotFound(f"blob {ref.digest[:8]} is not in the store")
        return memoryview(DATA[ref.digest])

    def read_into(self, ref: BlobRef, buffers: Sequence[memoryview]) -> None:
        (buffer,) = buffers
        buffer[:] = self.read(ref)

    def missing(self, refs: Iterable[BlobRef]) -> list[str]:
        return [ref.digest for ref in refs if ref not in self.here]


class Daemon:
    """Answers as a script says; what it is asked for appears in the store when it says 200."""

    def __init__(self, store: Store, *script: int | TorporError) -> None:
        self.store, self.script, self.asked = store, list(script), list[str]()

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        self.asked.append(path)
        answer = self.script.pop(0) if self.script else 200
        if isinstance(answer, TorporError):
            raise answer
        if answer == 200:
            digest = path.split("/")[3]
            self.store.failing.pop(digest, None)
            self.store.here.add(next(ref for ref in REFS if ref.digest == digest))
        return httpx.Response(answer)

    def json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        self.asked.append(path)
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, TorporError):
            raise answer
        return {"digests": options["json"]["digests"]}


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def fetching(store: Store, daemon: Daemon, time: Time | None = None) -> Fetching:
    clock = time or Time()
    return Fetching(store, daemon, clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]


def test_what_is_here_asks_nobody() -> None:
    daemon = Daemon(Store(HERE))
    access = fetching(daemon.store, daemon)
    assert bytes(access.read(HERE)) == DATA[HERE.digest]
    access.read_into(HERE, [memoryview(bytearray(30))])
    access.expect("01M81P35719XNDZ4R57NMV6DYZ", [HERE])
    assert daemon.asked == []


@pytest.mark.parametrize("loss", [BlobNotFound("gone"), BlobDamaged("other bytes"), "bad sector"])
def test_what_is_lost_is_brought_and_read_again(loss: TorporError | str) -> None:
    store = Store(GONE)
    if isinstance(loss, str):
        loss = StoreFailed(loss)
        loss.__cause__ = OSError(errno.EIO, "Input/output error")
    store.failing[GONE.digest] = loss
    daemon = Daemon(store, 202, 202, 200)
    buffer = bytearray(10)
    fetching(store, daemon).read_into(GONE, [memoryview(buffer)])
    assert bytes(buffer) == DATA[GONE.digest]
    assert len(daemon.asked) == 3


def test_a_disk_that_fails_otherwise_is_not_asked_about() -> None:
    store = Store(GONE)
    store.failing[GONE.digest] = StoreFailed("permission denied")
    daemon = Daemon(store)
    with pytest.raises(StoreFailed):
        fetching(store, daemon).read(GONE)
    assert daemon.asked == []


def test_a_daemon_that_is_restarted_is_waited_for() -> None:
    store, time = Store(), Time()
    daemon = Daemon(store, DaemonNotRunning("no"), Unavailable("the download was ended"), DaemonNotRunning("no"), 202)
    assert bytes(fetching(store, daemon, time).read(GONE)) == DATA[GONE.digest]
    daemon = Daemon(Store(), *[DaemonNotRunning("no")] * 1000)
    time.now = 0.0
    with pytest.raises(DaemonNotRunning):
        fetching(daemon.store, daemon, time).read(GONE)
    assert time.now <= PATIENCE_S


def test_with_s3_turned_off_a_loss_is_what_it_was() -> None:
    daemon = Daemon(Store(), SyncOff("off"))
    with pytest.raises(BlobNotFound) as caught:
        fetching(daemon.store, daemon).read(GONE)
    assert failure_of(caught.value) is None
    assert why(caught.value) is None


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Offline("no route"), "in S3, which cannot be reached"),
        (KeyMissing("no key"), "in S3, encrypted with a key that this machine does not have"),
        (ObjectDamaged("bits"), "missing or damaged here, and damaged in S3 too"),
        (RemoteFailed("503"), "in S3, which fails (remote-failed)"),
    ],
)
@pytest.mark.parametrize("loss", [BlobNotFound("gone"), BlobDamaged("bits")])
def test_a_loss_says_why_the_bucket_did_not_help(failure: TorporError, words: str, loss: TorporError) -> None:
    store = Store()
    store.failing[GONE.digest] = loss
    with pytest.raises(type(loss)) as caught:
        fetching(store, Daemon(store, failure)).read(GONE)
    assert is_loss(caught.value)
    assert failure_of(caught.value) is failure
    assert why(caught.value) == why_not_fetched(failure) == words
    assert failure.detail in caught.value.detail


def test_what_is_missing_runs_ahead_in_its_order() -> None:
    seen: list[list[str]] = []

    class Recording(Daemon):
        def json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
            seen.append(options["json"]["digests"])
            return super().json(method, path, **options)

    daemon = Recording(Store(HERE))
    access = fetching(daemon.store, daemon)
    access.expect("01M81P35719XNDZ4R57NMV6DYZ", [OTHER, HERE, GONE])
    access.expect("01M81P35719XNDZ4R57NMV6DYZ", [HERE, GONE])  # one alone is asked for when it is read
    assert seen == [[OTHER.digest, GONE.digest]]
    failing = Daemon(Store(), Offline("no route"))
    fetching(failing.store, failing).expect("01M81P35719XNDZ4R57NMV6DYZ", [OTHER, GONE])  # raises nothing


@pytest.mark.parametrize("words", ["in S3, which cannot be reached", None])
def test_a_plan_names_the_bucket(words: str | None) -> None:
    block = manifest().kv_cache.blocks[1].digest  # type: ignore[union-attr]
    said = words or "missing or damaged"
    for digest, layer, why_not in (
        (block, "kv_cache", f"block 1 is {said}"),
        ("c" * 64, "vision_cache", f"1 of its blobs are {said}"),
    ):
        conditions = Conditions(missing=frozenset({digest}), reasons={} if words is None else {digest: words})
        plan = plan_restore(manifest(media_spans=((0, 3),)), TargetState(FULL), conditions)
        assert why_not in plan.layers[layer][1]  # type: ignore[index]


class Target:
    from_leaf = staticmethod(lambda leaf: bytes(leaf.data))

    def allocate(self, kv: Any) -> Any:
        raise AssertionError("there is no KV cache")


def of_one_blob(layer: str, ref: BlobRef) -> Any:
    leaf = {"$bytes": {"size_bytes": ref.size_bytes, "blocks": [{"digest": ref.digest, "size_bytes": ref.size_bytes}]}}
    return manifest(kv_cache=None, layers={"metadata": {}, layer: {"part": leaf}}, tokens=0)


@pytest.mark.parametrize("layer", ["text_context", "config_snapshot"])
@pytest.mark.parametrize("failure", [Offline("no route"), KeyMissing("no key")])
def test_what_was_required_fails_with_the_buckets_error(layer: str, failure: TorporError) -> None:
    made, state = of_one_blob(layer, GONE), TargetState(FULL)
    with ThreadPoolExecutor(1) as threads:

        def restore(store: Store, daemon: Daemon, **options: Any) -> Any:
            access = fetching(store, daemon)
            return read_graded(made, Target(), state, Conditions(), access, threads, **options)  # type: ignore[arg-type]

        store = Store()
        with pytest.raises(type(failure)) as caught:
            restore(store, Daemon(store, failure), require="full")
        assert "not full" in caught.value.detail
        assert failure.detail in caught.value.detail
        assert caught.value.hint == failure.hint
        plan, woken = restore(store, Daemon(store))
        assert woken.layers[layer] == {"part": DATA[GONE.digest]}
        assert plan.mode == "full"


def test_a_loss_made_of_a_failure_keeps_its_kind() -> None:
    cases: list[tuple[TorporError, Callable[..., TorporError]]] = [
        (BlobNotFound("x"), BlobNotFound),
        (StoreFailed("bad sector"), BlobDamaged),
    ]
    for loss, kind in cases:
        assert type(lost(loss, Offline("no route"))) is kind
