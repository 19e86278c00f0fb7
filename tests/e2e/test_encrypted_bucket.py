"""What an encrypted bucket shows, and what it takes: real daemons, a real S3 server, and somebody who can write to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from support.caches import CacheSession, CacheTarget
from support.daemon import Daemon
from support.s3_servers import Place
from support.second_copy import in_bucket, machine
from support.waiting import until
from torpor.codec.objects import open_document, seal_document
from torpor.state.errors import KeyMissing, ObjectDamaged
from torpor.store.blobs import digest_buffers

SECRET = {"passphrase": "correct horse battery staple"}
TITLE = "a title that nobody else may read"


@pytest.fixture
def homes() -> Iterator[tuple[Path, Path]]:
    with TemporaryDirectory(prefix="torpor-") as folder:
        yield Path(folder) / "a", Path(folder) / "b"


def saved(daemon: Daemon, name: str, seed: int) -> CacheSession:
    session = CacheSession(note={"pad": torch.randn(20_000, generator=torch.Generator().manual_seed(seed))})
    session.grow(150, seed)
    with daemon.keeper() as keeper:
        backup = keeper.save(name, session).wait(60)
        keeper.api.rename(name, TITLE)
        in_bucket(keeper, backup.id)
    return session


def digest(daemon: Daemon, ref: str) -> str:
    with daemon.keeper() as keeper:
        return keeper.restore(ref, CacheTarget(), require="full").session.digest()


def objects(place: Place) -> dict[str, bytes]:
    client, found = place.client(), dict[str, bytes]()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=place.prefix):
        for row in page.get("Contents", []):
            body = client.get_object(Bucket=place.bucket, Key=row["Key"])["Body"].read()
            found[row["Key"].removeprefix(place.prefix)] = body
    return found


def put(place: Place, name: str, body: bytes) -> None:
    place.client().put_object(Bucket=place.bucket, Key=place.prefix + name, Body=body)


def names(found: dict[str, bytes], prefix: str) -> list[str]:
    return sorted(name for name in found if name.startswith(prefix))


def test_nothing_shows_and_nothing_else_is_taken(moto_room: Place, homes: tuple[Path, Path]) -> None:
    with machine(homes[0], moto_room) as a:
        assert a.request("POST", "/v1/key/init", json=SECRET).json()["was_plain"] is False
        session = saved(a, "private-name", 1)
        assert session.digest() == digest(a, "private-name")
        local = {digest_buffers([memoryview(path.read_bytes())]) for path in a.blob_files()}
    found = objects(moto_room)
    blobs, records = names(found, "blobs/"), names(found, "manifests/")
    assert len(blobs) == len(local) > 2
    assert records
    assert all(found[name].startswith(b"torporS") for name in blobs + records)
    everything = b"".join(found.values()) + "".join(found).encode()
    for text in (TITLE, "private-name", SECRET["passphrase"], *local):
        assert text.encode() not in everything

    first, second = sorted(blobs, key=lambda name: len(found[name]))[-2:]
    put(moto_room, first, found[second])  # the storage answers with another object of ours
    put(moto_room, second, found[second][:-1] + bytes([found[second][-1] ^ 1]))
    forged = records[0].rsplit("-", 1)[0] + "-00000000.json"
    put(moto_room, forged, seal_document(b"{}", forged.encode(), None))
    with machine(homes[1], moto_room) as b:
        assert b.request("POST", "/v1/key/init", json=SECRET).status_code == 200
        with pytest.raises(ObjectDamaged, match="not the one that it should be"):
            digest(b, "private-name")
        put(moto_room, first, found[first])
        put(moto_room, second, found[second])
        assert digest(b, "private-name") == session.digest()
        log = homes[1] / "logs" / "daemon.log"
        until(
            lambda: "is not encrypted" in log.read_text(),
            lambda: (log.read_text(), b.request("GET", "/v1/sync").json()),
        )
    with pytest.raises(KeyMissing):
        open_document(found[records[0]], records[0].encode(), None)


def test_a_key_for_a_bucket_that_has_backups_and_then_another(moto_room: Place, homes: tuple[Path, Path]) -> None:
    with machine(homes[0], moto_room) as a:
        plain = saved(a, "before", 1)
        made = a.request("POST", "/v1/key/init", json=SECRET).json()
        assert made["was_plain"] is True
        sealed = saved(a, "after", 2)
        rotated = a.request("POST", "/v1/key/rotate", json=SECRET).json()
        newest = saved(a, "newest", 3)
    ids = {bytes(body[8:16]).hex() for body in objects(moto_room).values() if body.startswith(b"torporS")}
    assert ids == {made["current"], rotated["current"]}
    with machine(homes[1], moto_room) as b:
        assert b.request("POST", "/v1/key/init", json=SECRET).json()["takes_plain"] is True
        for name, session in (("before", plain), ("after", sealed), ("newest", newest)):
            assert digest(b, name) == session.digest()
