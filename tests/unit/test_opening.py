"""The bucket is opened once for all who need it, and never mistaken for another one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.memory_bucket import MemoryBucket, MemoryServer
from torpor.codec.keys import KeyRing, new_ring
from torpor.daemon.compose import compose
from torpor.daemon.keys import KeyStore
from torpor.daemon.local_backups import describer
from torpor.daemon.opening import FAILURE_HOLDS_S, Opening
from torpor.daemon.remote import RemoteSide
from torpor.daemon.remote_settings import RemoteSettings, S3Settings
from torpor.daemon.settings import load_settings
from torpor.daemon.sync_memory import QuirksMemory, SyncMemory
from torpor.db.index import Index
from torpor.db.remembered import Remembered
from torpor.db.remote import RemoteIndex
from torpor.state.errors import KeyMissing, Offline, SyncOff, Unavailable
from torpor.state.remote import RemoteObject, RepoInfo
from torpor.store.home import Home
from torpor.sync.limiter import Limiter
from torpor.sync.repository import create_info
from torpor.sync.threads import DaemonPool


class Shop:
    """An opening whose bucket is in memory; `down` makes every request fail."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.server, self.keys = MemoryServer(), KeyStore(folder / "repo.key", "file")
        self.known, self.memory = RemoteIndex(index, describer()), SyncMemory(Remembered(index), lambda: 1e9)
        self.down: Offline | None = None
        self.asked = 0

    def opening(self, bucket: str = "b") -> Opening:
        made = Opening(
            S3Settings(bucket=bucket),
            machine="0" * 16,
            known=self.known,
            memory=self.memory,
            keys=self.keys,
            pool=DaemonPool(1, "test"),
            limiter=Limiter(),
            clock=lambda: 1e9,
        )
        shop = self

        class Watched(MemoryBucket):
            def get(self, name: str, *, offset: int = 0) -> Any:
                shop.asked += 1
                if shop.down is not None:
                    raise shop.down
                return super().get(name, offset=offset)

        made._bucket = Watched(self.server)  # type: ignore[assignment]
        return made


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    index = Index(tmp_path / "index.sqlite")
    yield Shop(tmp_path, index)
    index.close()


def test_it_is_opened_once(shop: Shop) -> None:
    opening = shop.opening()
    first = opening.repository()
    assert opening.repository() is first
    assert opening.open_anew() is not first
    opening.close()
    assert opening.opened is None


def test_a_failure_is_everybodys_for_a_moment(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    opening, now = shop.opening(), [100.0]
    monkeypatch.setattr("torpor.daemon.opening.steady_clock", lambda: now[0])
    shop.down = Offline("no route")
    for _ in range(3):
        with pytest.raises(Offline):
            opening.repository()
    assert shop.asked == 1
    shop.down = None
    now[0] += FAILURE_HOLDS_S
    assert opening.repository().info.encrypted is False


def test_few_wait_for_it_at_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torpor.daemon.opening.ASKERS", 1)
    opening, begun, go = shop.opening(), threading.Event(), threading.Event()

    def slow(bucket: object) -> KeyRing | None:
        begun.set()
        assert go.wait(10)
        return None

    monkeypatch.setattr(opening, "_ring_of", slow)
    other = threading.Thread(target=opening.repository)
    other.start()
    assert begun.wait(10)
    with pytest.raises(Unavailable, match="being opened"):
        opening.repository()
    go.set()
    other.join(10)
    assert opening.repository() is opening.opened


def test_another_repository_is_not_taken_for_the_one_before(shop: Shop) -> None:
    shop.opening().repository()
    shop.known.note_objects([RemoteObject("a" * 64, 5, f"blobs/aa/{'a' * 64}.{'0' * 26}", 4)])
    assert shop.opening().repository()
    assert shop.known.objects(["a" * 64])
    shop.server = MemoryServer()  # somebody emptied it
    assert shop.opening().repository()
    assert not shop.known.objects(["a" * 64])


def test_an_emptied_bucket_that_was_encrypted_gets_nothing_plain(shop: Shop) -> None:
    info = create_info(MemoryBucket(shop.server), RepoInfo("01M81P35719XNDZ4R57NMV0001", 1e9, True))
    with pytest.raises(KeyMissing, match="does not have the key"):
        shop.opening().repository()
    shop.keys.save(info.repo_id, new_ring(1e9))
    assert shop.opening().repository().ring is not None
    shop.server = MemoryServer()
    with pytest.raises(KeyMissing, match="the bucket is empty now"):
        shop.opening().repository()
    assert shop.opening("another-bucket").repository().ring is None


def test_without_settings_it_is_off(shop: Shop) -> None:
    opening = shop.opening()
    opening._settings = opening._bucket = None
    with pytest.raises(SyncOff):
        opening.repository()
    opening.break_off()
    opening.end()


def test_quirks_are_remembered(shop: Shop) -> None:
    quirks = QuirksMemory(shop.memory, "quirks")
    assert quirks.read() is None
    quirks.write({"conditional_put": False})
    assert quirks.read() == {"conditional_put": False}


def test_nobody_vouches_for_a_bucket_that_was_not_opened_yet(tmp_path: Path) -> None:
    """What is known of it may be another one's: on such a word nothing may leave this machine."""
    home = Home(tmp_path / "home")
    home.create()
    with ExitStack() as stack:
        catalog = compose(home, load_settings(), stack)
        off = RemoteSide(home, RemoteSettings(None), catalog, Remembered(catalog.index))
        assert off.voucher is off.name_in_bucket is None
        side = RemoteSide(home, RemoteSettings(S3Settings(bucket="b")), catalog, Remembered(catalog.index))
        stack.callback(side.stop)
        assert side.name_in_bucket
        assert side.voucher == ""
        side.opening._bucket = MemoryBucket(MemoryServer())  # type: ignore[assignment]
        stack.callback(setattr, side.opening, "_bucket", None)
        side.repository()
        assert side.voucher == side.name_in_bucket
